"""From scattered points to a lattice of pseudo-tokens, and from there to scattered targets.

Pseudo-tokens are `[b, m, dz]`, m lattice points, the last coordinate running fastest. What an encoder keeps of the data
does not depend on other data, so that it can be added up over any division of the points.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import softplus

from npexp.layers.attention import Attention
from npexp.layers.mlp import FeedForward, mlp
from npexp.layers.product_lattice import ProductLattice
from npexp.ops.attention import Part, merge_parts
from npexp.ops.segment import attend_segments


class CellAttention(nn.Module):
    """Each lattice point attends to the points that are nearer to it than to any other, and to itself.

    The pseudo-token grid encoder (Ashman et al. 2024, arXiv 2410.06731). All lattice points start from one learned
    token, and points are embedded relative to their lattice point. Since that token does not depend on the data, the
    attention of two sets merges exactly. Attending to itself keeps an empty cell at its token, and tells a cell with
    one point from a cell with many. Time O(n dz^2 + m dz^2), memory O(n + m).

    Args:
        lattice: where the pseudo-tokens are.
        dy: output size.
        dz: width of the tokens.
        num_heads: attention heads.
        dim_feedforward: hidden width of the feed-forward network.
    """

    removable = False

    def __init__(self, lattice: ProductLattice, dy: int, dz: int, num_heads: int, dim_feedforward: int):
        super().__init__()
        self.lattice = lattice
        self.token = nn.Parameter(torch.randn(1, 1, dz))
        self.embed = mlp(lattice.dx + dy, dz, dz, 3)
        self.norm = nn.LayerNorm(dz)
        self.norm_points = nn.LayerNorm(dz)
        self.attention = Attention(dz, num_heads)
        self.norm_ff = nn.LayerNorm(dz)
        self.ff = FeedForward(dz, dim_feedforward)

    def pool(
        self, x: Float[Tensor, "b n dx"], y: Float[Tensor, "b n dy"], mask: Bool[Tensor, "b n"] | None = None
    ) -> Part:
        """What each lattice point has read, `[b, h, m, dh]`, and its log-normaliser, `[b, h, m]`."""
        nearest = self.lattice.neighbours(x, 1)
        h = self.embed(torch.cat([2 * nearest.offset[:, :, 0], y], -1))  # offsets are in [-1/2, 1/2]
        k, v, _ = self.attention.project(self.norm_points(h))
        return attend_segments(self._logits(k), v, nearest.index[..., 0], self.lattice.num_points, mask)

    def merge(self, a: Part, b: Part) -> Part:
        """The pool of two sets."""
        return merge_parts(a, b)

    def tokens(self, pool: Part) -> Float[Tensor, "b m dz"]:
        """Pseudo-tokens of a pool."""
        k, v, _ = self.attention.project(self.norm(self.token))
        read = merge_parts(pool, Part(v.to(pool.out.dtype), self._logits(k).to(pool.lse.dtype))).out
        h = self.token + self.attention.merge(read)
        return h + self.ff(self.norm_ff(h))

    def _logits(self, k: Float[Tensor, "b h n dh"]) -> Float[Tensor, "b h n"]:
        q = self.attention.to_q(self.norm(self.token)).reshape(1, k.shape[1], 1, k.shape[3])
        return (q * k).sum(-1) * k.shape[3] ** -0.5


class KernelPool(NamedTuple):
    """Kernel-weighted sum of embedded outputs, `[b, m, dz]`, and of ones, `[b, m]`, in float32 or better."""

    total: Tensor
    density: Tensor


class KernelInterpolation(nn.Module):
    """Each point spreads its embedded output over nearby lattice points, by a Gaussian kernel of learned width.

    The kernel-interpolation grid encoder (Ashman et al. 2024, arXiv 2410.06731). It pools by sums, so that points can
    be removed exactly; how two points of one cell lie towards each other is lost. Time and memory O(n k^dx + m).

    Args:
        lattice: where the pseudo-tokens are.
        dy: output size.
        dz: width of the tokens.
        num_neighbours: k, lattice points per axis that a point reaches.
    """

    removable = True

    def __init__(self, lattice: ProductLattice, dy: int, dz: int, num_neighbours: int):
        super().__init__()
        self.lattice, self.num_neighbours = lattice, num_neighbours
        self.token = nn.Parameter(torch.randn(1, 1, dz))
        self.embed = mlp(dy, dz, dz, 3)
        self.raw_width = nn.Parameter(torch.zeros(lattice.dx))  # softplus(0) = 0.69 steps
        self.merge_in = nn.Linear(dz + 1, dz)

    def pool(
        self, x: Float[Tensor, "b n dx"], y: Float[Tensor, "b n dy"], mask: Bool[Tensor, "b n"] | None = None
    ) -> KernelPool:
        """Weighted sums over the points."""
        index, offset = self.lattice.neighbours(x, self.num_neighbours)
        h = self.embed(y)
        dtype = torch.promote_types(h.dtype, torch.float32)
        weight = (-0.5 * (offset / softplus(self.raw_width)).square().sum(-1)).exp().to(dtype)  # [b, n, k]
        if mask is not None:
            weight = torch.where(mask[..., None], weight, torch.zeros_like(weight))
        b, m = len(x), self.lattice.num_points
        flat = index.flatten(1)
        spread = (weight[..., None] * h.to(dtype)[:, :, None]).flatten(1, 2)
        total = spread.new_zeros(b, m, h.shape[-1]).scatter_add(1, flat[..., None].expand_as(spread), spread)
        return KernelPool(total, weight.new_zeros(b, m).scatter_add(1, flat, weight.flatten(1)))

    def merge(self, a: KernelPool, b: KernelPool) -> KernelPool:
        """The pool of two sets."""
        return KernelPool(a.total + b.total, a.density + b.density)

    def without(self, pool: KernelPool, gone: KernelPool) -> KernelPool:
        """The pool without a set that is part of it."""
        return KernelPool(pool.total - gone.total, pool.density - gone.density)

    def tokens(self, pool: KernelPool) -> Float[Tensor, "b m dz"]:
        """Pseudo-tokens of a pool: the average, shrunk as if by one point that says nothing, and the density."""
        weight = 1 + pool.density[..., None]
        h = torch.cat([pool.total / weight, pool.density[..., None] / weight], -1)
        return self.token + self.merge_in(h.to(self.token.dtype))


class NearestRead(nn.Module):
    """Each target attends to its nearest lattice points, k along each axis (Ashman et al. 2024, arXiv 2410.06731).

    Where a lattice point lies, seen from the target, enters as a learned bias per head. A target is embedded by its
    place between lattice points alone; where it is in the domain, pseudo-tokens say. Time and memory O(nt k^dx dz).

    Args:
        lattice: where the pseudo-tokens are.
        dz: width of the tokens.
        num_heads: attention heads.
        dim_feedforward: hidden width of the feed-forward network.
        num_neighbours: k.
    """

    def __init__(self, lattice: ProductLattice, dz: int, num_heads: int, dim_feedforward: int, num_neighbours: int):
        super().__init__()
        self.lattice, self.num_neighbours = lattice, num_neighbours
        self.embed = mlp(lattice.dx, dz, dz, 3)
        self.bias = mlp(lattice.dx, 32, num_heads, 2, "gelu")
        self.norm = nn.LayerNorm(dz)
        self.norm_keys = nn.LayerNorm(dz)
        self.attention = Attention(dz, num_heads)
        self.norm_ff = nn.LayerNorm(dz)
        self.ff = FeedForward(dz, dim_feedforward)

    def forward(self, x: Float[Tensor, "b nt dx"], tokens: Float[Tensor, "b m dz"]) -> Float[Tensor, "b nt dz"]:
        """Features of targets; rows do not see each other."""
        index, offset = self.lattice.neighbours(x, self.num_neighbours)
        h = self.embed(2 * self.lattice.neighbours(x, 1).offset[:, :, 0])
        tokens = tokens.to(self.norm_keys.weight.dtype)  # states may be in float64
        k, v, _ = self.attention.project(self.norm_keys(tokens))
        q = self.attention.to_q(self.norm(h)).unflatten(-1, (k.shape[1], -1))  # [b, nt, h, dh]
        k, v = (_take(t.transpose(1, 2), index) for t in (k, v))  # [b, nt, k^dx, h, dh]
        logits = torch.einsum("bthd,btkhd->bthk", q, k) * q.shape[-1] ** -0.5 + self.bias(offset).transpose(2, 3)
        read = torch.einsum("bthk,btkhd->bthd", logits.softmax(-1).to(v.dtype), v)
        h = h + self.attention.to_out(read.flatten(2))
        return h + self.ff(self.norm_ff(h))


def _take(rows: Float[Tensor, "b m h dh"], index: Tensor) -> Float[Tensor, "b nt k h dh"]:
    return rows[torch.arange(len(rows), device=rows.device)[:, None, None], index]
