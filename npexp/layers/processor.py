"""Transformers over a lattice of tokens: every patch sees all others (ViT), or those of its window (Swin)."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from npexp.errors import ConfigError, at_least
from npexp.layers.attention import Attention
from npexp.layers.blocks import SelfBlock
from npexp.layers.mlp import FeedForward, mlp

NUM_WAVES = 6


class Windows(nn.Module):
    """A division of a lattice into windows, as indices.

    Along each axis, points i and j share a window where floor((i + shift) / width) = floor((j + shift) / width).
    Windows at the ends of an axis are cut off there; on a periodic axis the last one goes on at the beginning. Nothing
    is rolled, so no point sees one from the other end of an open axis.

    Args:
        shape: points along each axis.
        width: of the windows along each axis; no more than the axis has points.
        shift: of the windows along each axis, less than the width.
        periodic: which axes close; there the width must divide the number of points.

    Attributes:
        index: members of each window, `[w, k]`, flat with the last coordinate running fastest; any, where not real.
        real: which members there are, `[w, k]`.
        slot: where each lattice point stands among all windows' members, `[m]`.
    """

    def __init__(self, shape: Sequence[int], width: Sequence[int], shift: Sequence[int], periodic: Sequence[bool]):
        super().__init__()
        index, real = torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1, dtype=torch.bool)
        for size, w, s, closes in zip(shape, width, shift, periodic, strict=True):
            count = size // w if closes else math.ceil((size + s) / w)
            steps = torch.arange(count * w).unflatten(0, (count, w)) - s
            inside = torch.ones_like(steps, dtype=torch.bool) if closes else (steps >= 0) & (steps < size)
            steps = (steps % size if closes else steps.clamp(0, size - 1))[None, :, None, :]
            index = (index[:, None, :, None] * size + steps).flatten(0, 1).flatten(1)
            real = (real[:, None, :, None] & inside[None, :, None, :]).flatten(0, 1).flatten(1)
        self.register_buffer("index", index, persistent=False)
        self.register_buffer("real", real, persistent=False)
        self.register_buffer("slot", _inverse(index, real), persistent=False)
        self.index: Int[Tensor, "w k"]
        self.real: Bool[Tensor, "w k"]
        self.slot: Int[Tensor, " m"]


class WindowBlock(nn.Module):
    """A pre-norm block in which tokens attend within windows, with a learned bias per head and relative position.

    After Swin (Liu et al. 2021, arXiv 2103.14030). O(m k dz) for m tokens in windows of k.

    Args:
        windows: who sees whom.
        width: of the windows along each axis.
        wraps: axes that close and that one window covers: there relative positions wrap around too.
        dz: width of the tokens.
        num_heads: attention heads.
        dim_feedforward: hidden width of the GEGLU feed-forward.
    """

    def __init__(
        self,
        windows: Windows,
        width: Sequence[int],
        wraps: Sequence[bool],
        dz: int,
        num_heads: int,
        dim_feedforward: int,
    ):
        super().__init__()
        self.windows, self.num_heads = windows, num_heads
        self.norm = nn.LayerNorm(dz)
        self.attention = Attention(dz, num_heads)
        self.bias = nn.Parameter(torch.zeros(math.prod(2 * w - 1 for w in width), num_heads))
        self.register_buffer("pair", _relative(width, wraps), persistent=False)
        self.pair: Int[Tensor, "k k"]
        self.norm_ff = nn.LayerNorm(dz)
        self.ff = FeedForward(dz, dim_feedforward)

    def forward(self, h: Float[Tensor, "b m dz"]) -> Float[Tensor, "b m dz"]:
        """Tokens after one layer."""
        normed = self.norm(h)
        qkv = torch.cat([self.attention.to_q(normed), self.attention.to_kv(normed)], -1)
        # [b, w, k, 3 dz] to [b, w h, k, dh] each: heads stand beside windows, so that one bias serves all tasks
        parts = qkv[:, self.windows.index].unflatten(-1, (3, self.num_heads, -1))
        parts = parts.permute(3, 0, 1, 4, 2, 5).flatten(2, 3)
        bias = self.bias[self.pair].permute(2, 0, 1).to(parts.dtype)  # [h, k, k]
        real = self.windows.real[:, None, None, :]
        bias = torch.where(real, bias, torch.full_like(bias, -torch.inf)).flatten(0, 1)[None]
        read = scaled_dot_product_attention(*parts, bias).unflatten(1, (-1, self.num_heads))
        read = read.transpose(2, 3).flatten(3).flatten(1, 2)[:, self.windows.slot]
        h = h + self.attention.to_out(read)
        return h + self.ff(self.norm_ff(h))


class Processor(nn.Module):
    """Mixes the tokens of a lattice: `[b, m, dz]` to `[b, m, dz]`, the last coordinate running fastest.

    Without `window` a vision Transformer (Dosovitskiy et al. 2021, arXiv 2010.11929): O(p^2) for p patches, each with
    an embedding of its place. With it a Swin Transformer without merging of patches (Liu et al. 2021, arXiv
    2103.14030): O(p k) for windows of k patches, shifted by half on every other layer, with relative positions only.

    Args:
        shape: lattice points along each axis, multiples of `patch`.
        periodic: which axes close.
        dz: width of the tokens.
        num_layers: blocks.
        num_heads: attention heads.
        dim_feedforward: hidden width of the feed-forward networks.
        patch: lattice points per patch along each axis; what comes out is added to the points that went in.
        window: patches per window along each axis, or None; an axis with fewer gets one window.

    Raises:
        ConfigError: patches or periodic windows that do not divide their axis.
    """

    def __init__(
        self,
        shape: Sequence[int],
        periodic: Sequence[bool],
        dz: int,
        num_layers: int,
        num_heads: int,
        dim_feedforward: int,
        patch: Sequence[int],
        window: Sequence[int] | None = None,
    ):
        super().__init__()
        at_least("num_layers", num_layers, 1)
        self.shape, self.patch = tuple(shape), tuple(at_least("patch", p, 1) for p in patch)
        for size, p in zip(self.shape, self.patch, strict=True):
            if size % p:
                raise ConfigError(f"expected patch to divide the lattice, got {p} and {size} points: change one")
        coarse = [size // p for size, p in zip(self.shape, self.patch, strict=True)]
        inner = math.prod(self.patch)
        self.join = nn.Linear(inner * dz, dz) if inner > 1 else None
        self.split = nn.Linear(dz, inner * dz) if inner > 1 else None
        self.place = None
        if window is None:
            self.register_buffer("waves", _waves(coarse, periodic), persistent=False)
            self.waves: Float[Tensor, "p f"]
            self.place = mlp(self.waves.shape[1], dz, dz, 2, "gelu")
            self.blocks = nn.ModuleList(SelfBlock(dz, num_heads, dim_feedforward) for _ in range(num_layers))
            return
        width = [min(at_least("window", w, 1), size) for w, size in zip(window, coarse, strict=True)]
        wraps = [closes and w == size for closes, w, size in zip(periodic, width, coarse, strict=True)]
        for w, size, closes in zip(width, coarse, periodic, strict=True):
            if closes and size % w:
                raise ConfigError(f"expected window to divide a periodic axis, got {w} and {size} patches: change one")
        half = [w // 2 if w < size else 0 for w, size in zip(width, coarse, strict=True)]
        both = [Windows(coarse, width, shift, periodic) for shift in ([0] * len(width), half)]
        self.blocks = nn.ModuleList(
            WindowBlock(both[layer % 2], width, wraps, dz, num_heads, dim_feedforward) for layer in range(num_layers)
        )

    def forward(self, tokens: Float[Tensor, "b m dz"]) -> Float[Tensor, "b m dz"]:
        """Tokens that have seen each other."""
        h = tokens if self.join is None else self.join(self._patches(tokens))
        if self.place is not None:
            h = h + self.place(self.waves)
        for block in self.blocks:
            h = block(h)
        return h if self.split is None else tokens + self._points(self.split(h))

    def _patches(self, tokens: Float[Tensor, "b m dz"]) -> Float[Tensor, "b p f"]:
        """Tokens of each patch side by side."""
        dx = len(self.shape)
        sizes = [n for size, p in zip(self.shape, self.patch, strict=True) for n in (size // p, p)]
        h = tokens.unflatten(1, sizes).permute(0, *range(1, 2 * dx, 2), *range(2, 2 * dx + 1, 2), 2 * dx + 1)
        return h.flatten(1, dx).flatten(2)

    def _points(self, patches: Float[Tensor, "b p f"]) -> Float[Tensor, "b m dz"]:
        """The inverse of `_patches`."""
        dx = len(self.shape)
        coarse = [size // p for size, p in zip(self.shape, self.patch, strict=True)]
        h = patches.unflatten(2, (*self.patch, -1)).unflatten(1, coarse)
        order = [i for axis in range(1, dx + 1) for i in (axis, axis + dx)]
        return h.permute(0, *order, 2 * dx + 1).flatten(1, 2 * dx)


def _inverse(index: Tensor, real: Tensor) -> Tensor:
    """Position in `index.flatten()` of each lattice point's one real entry."""
    positions = real.flatten().nonzero()[:, 0]
    return positions[index.flatten()[positions].argsort()]


def _relative(width: Sequence[int], wraps: Sequence[bool]) -> Tensor:
    """Number of the relative position of each pair of a window's members, `[k, k]`."""
    steps = torch.stack(torch.meshgrid(*[torch.arange(w) for w in width], indexing="ij"), -1).flatten(0, -2)
    number = torch.zeros(len(steps), len(steps), dtype=torch.long)
    for axis, (w, wrap) in enumerate(zip(width, wraps, strict=True)):
        apart = steps[:, None, axis] - steps[None, :, axis]
        number = number * (2 * w - 1) + (apart % w if wrap else apart + w - 1)
    return number


def _waves(shape: Sequence[int], periodic: Sequence[bool]) -> Tensor:
    """Sines and cosines of each patch's place, `[p, 2 NUM_WAVES dx]`; on a periodic axis whole periods."""
    columns = []
    for size, closes in zip(shape, periodic, strict=True):
        turn = (2 if closes else 1) * math.pi * (torch.arange(size) + 0.5) / size
        angle = turn[:, None] * 2.0 ** torch.arange(NUM_WAVES)
        columns.append(torch.cat([angle.sin(), angle.cos()], -1))
    grids = torch.meshgrid(*[torch.arange(size) for size in shape], indexing="ij")
    return torch.cat([c[g.flatten()] for c, g in zip(columns, grids, strict=True)], -1)
