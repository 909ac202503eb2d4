"""Attention that sees where tokens are only through differences of their inputs: nothing depends on an origin."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import softplus

from npexp.batch import real
from npexp.errors import at_least, positive
from npexp.layers.attention import check_heads
from npexp.layers.mlp import FeedForward, mlp
from npexp.ops.scan import scan_attend


class RadialBias(nn.Module):
    """A radial basis network of the distance r per head: sum_k a_k exp(-|b_k| (r - c_k)^2).

    The kernel bias of TNP-KR (Jenson et al. 2024, arXiv 2411.12502).

    Args:
        num_heads: h.
        num_basis: terms of the sum.
        reach: distance up to which the terms are spread at first.
    """

    scale: float | None = None  # of q.k: as usual

    def __init__(self, num_heads: int, num_basis: int, reach: float):
        super().__init__()
        at_least("num_basis", num_basis, 1)
        positive("reach", reach)
        # the first term is a bump at 0 as wide as the spacing of the others
        centre = torch.linspace(0, reach, num_basis).expand(num_heads, -1)
        self.a = nn.Parameter(torch.randn(num_heads, num_basis))
        self.b = nn.Parameter(torch.full((num_heads, num_basis), 0.5 * (num_basis / reach) ** 2))
        self.c = nn.Parameter(centre.clone())

    def forward(self, q: Tensor, k: Tensor, xq: Tensor, xk: Tensor) -> Tensor:
        """What the distances add to the logits, `[b, h, nq, nk]`; q and k play no part."""
        # the exact mode: the other one squares x first, and loses differences far from the origin
        r = torch.cdist(xq, xk, compute_mode="donot_use_mm_for_euclid_dist")[:, None, ..., None]
        a, b, c = self.a[:, None, None], self.b.abs()[:, None, None], self.c[:, None, None]
        # the square is spelled out, so that the backward pass keeps one number per pair and term, not three
        return (a * (2 * b * c * r - b * r.square() - b * c.square()).exp()).sum(-1)


class SpanBias(nn.Module):
    """log clamp((R + z_h - r) / R, 0, 1) of the distance r per head: all is seen within z_h, nothing beyond z_h + R.

    The adaptive span of Sukhbaatar et al. 2019 (arXiv 1905.07799).

    Args:
        num_heads: h.
        span: z of each head at first.
        ramp: R.
    """

    scale: float | None = None  # of q.k: as usual

    def __init__(self, num_heads: int, span: float, ramp: float):
        super().__init__()
        at_least("span", span, 1e-3)
        self.ramp = at_least("ramp", ramp, 1e-3)
        z = torch.full((num_heads,), float(span))
        self.a = nn.Parameter(z + (-(-z).expm1()).log())  # where softplus is z

    @property
    def span(self) -> Float[Tensor, " h"]:
        """z, above 0."""
        return softplus(self.a)

    def forward(self, q: Tensor, k: Tensor, xq: Tensor, xk: Tensor) -> Tensor:
        """What the distances add to the logits, `[b, h, nq, nk]`; q and k play no part."""
        r = torch.cdist(xq, xk, compute_mode="donot_use_mm_for_euclid_dist")[:, None]
        weight = ((self.ramp + self.span[:, None, None] - r) / self.ramp).clamp_max(1)
        seen = weight > 0
        return torch.where(seen, torch.where(seen, weight, 1.0).log(), -torch.inf)


class DifferenceBias(nn.Module):
    """A network of the difference of inputs: kappa_h(x_q - x_k), the released form of TE-TNP's attention.

    Args:
        dx: size of the inputs.
        num_heads: h.
        dim_hidden: width of the network; it costs that much per pair of tokens.
    """

    scale: float | None = None  # of q.k: as usual

    def __init__(self, dx: int, num_heads: int, dim_hidden: int):
        super().__init__()
        self.network = _sharp(mlp(dx, dim_hidden, num_heads, 3, "gelu"))

    def forward(self, q: Tensor, k: Tensor, xq: Tensor, xk: Tensor) -> Tensor:
        """What the differences add to the logits, `[b, h, nq, nk]`."""
        return self.network(xq[:, :, None] - xk[:, None]).movedim(-1, 1)


class JointLogits(nn.Module):
    """A network of all heads' products and the difference: rho(q_1.k_1, .., q_h.k_h, x_q - x_k)_h, as published.

    Args:
        dx: size of the inputs.
        num_heads: h.
        dim_hidden: width of the network; it costs that much per pair of tokens.
    """

    scale: float | None = 0.0  # of q.k, which the network has already seen

    def __init__(self, dx: int, num_heads: int, dim_hidden: int):
        super().__init__()
        self.network = _sharp(mlp(dx + num_heads, dim_hidden, num_heads, 3, "gelu"))

    def forward(self, q: Tensor, k: Tensor, xq: Tensor, xk: Tensor) -> Tensor:
        """The logits, `[b, h, nq, nk]`."""
        products = (q @ k.mT * q.shape[-1] ** -0.5).movedim(1, -1)
        difference = xq[:, :, None] - xk[:, None]
        return self.network(torch.cat([products.to(difference.dtype), difference], -1)).movedim(-1, 1)


class Placed(NamedTuple):
    """Projected keys and values, `[b, h, n, dh]` each, their inputs, `[b, n, dx]`, and which are real, `[b, n]`."""

    k: Tensor
    v: Tensor
    x: Tensor
    mask: Tensor

    def join(self, other: "Placed") -> "Placed":
        """Those of both token sets."""
        k, v = (torch.cat(pair, 2) for pair in ((self.k, other.k), (self.v, other.v)))
        return Placed(k, v, torch.cat([self.x, other.x], 1), torch.cat([self.mask, other.mask], 1))


class RelativeAttention(nn.Module):
    """Multi-head attention with a bias of the inputs' differences, scanned in tiles; heads share dz evenly.

    Args:
        dz: width of queries, keys, values and output.
        num_heads: h; must divide dz.
        bias: from queries, keys and their inputs to what is added to the logits; its `scale` is the factor of q.k.
        tile: queries and keys that are held against each other at a time.
    """

    def __init__(self, dz: int, num_heads: int, bias: RadialBias | SpanBias | DifferenceBias | JointLogits, tile: int):
        super().__init__()
        check_heads(dz, num_heads)
        self.num_heads, self.tile = num_heads, at_least("tile", tile, 1)
        self.to_q = nn.Linear(dz, dz, bias=False)
        self.to_kv = nn.Linear(dz, 2 * dz, bias=False)
        self.to_out = nn.Linear(dz, dz)
        self.bias = bias

    def project(
        self, h: Float[Tensor, "b n dz"], x: Float[Tensor, "b n dx"], mask: Bool[Tensor, "b n"] | None = None
    ) -> Placed:
        """Keys and values of tokens, O(n dz^2); in float32 or better even under autocast, since states keep them."""
        kv = self.to_kv(h)
        k, v = kv.to(torch.promote_types(kv.dtype, torch.float32)).chunk(2, -1)
        return Placed(self._split(k), self._split(v), x, real(mask, x))

    def forward(self, h: Float[Tensor, "b nq dz"], x: Float[Tensor, "b nq dx"], kv: Placed) -> Float[Tensor, "b nq dz"]:
        """Each row reads the keys and values on its own: O(nq n) time, O((nq + n) dz + tile^2) memory."""
        q = self._split(self.to_q(h)).to(kv.k.dtype)
        heads = scan_attend(q, kv.k, kv.v, x, kv.x, self.bias, kv.mask, self.bias.scale, self.tile)
        return self.to_out(heads.transpose(1, 2).flatten(2).to(self.to_out.weight.dtype))

    def _split(self, h: Tensor) -> Tensor:
        return h.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class RelativeBlock(nn.Module):
    """MAB(Q, Y) in pre-norm form around relative attention; see `CrossBlock`.

    Args:
        dz: width of the tokens.
        attention: the exchange.
        dim_feedforward: hidden width of the GEGLU feed-forward.
        norm_keys: whether Y has a layer norm of its own; False where it comes in already normalised.
    """

    def __init__(self, dz: int, attention: RelativeAttention, dim_feedforward: int, norm_keys: bool = True):
        super().__init__()
        self.norm = nn.LayerNorm(dz)
        self.norm_keys = nn.LayerNorm(dz) if norm_keys else nn.Identity()
        self.attention = attention
        self.norm_ff = nn.LayerNorm(dz)
        self.ff = FeedForward(dz, dim_feedforward)

    def forward(
        self,
        h: Float[Tensor, "b n dz"],
        x: Float[Tensor, "b n dx"],
        y: Float[Tensor, "b m dz"],
        xy: Float[Tensor, "b m dx"],
        mask: Bool[Tensor, "b m"] | None = None,
    ) -> Float[Tensor, "b n dz"]:
        """Rows h at x read the rows y at xy: O(n m)."""
        h = h + self.attention(self.norm(h), x, self.attention.project(self.norm_keys(y), xy, mask))
        return h + self.ff(self.norm_ff(h))


def _sharp(network: nn.Sequential) -> nn.Sequential:
    """The network with bends a quarter of a unit of x apart, and eight times as steep, at the start.

    As initialised by default it is all but flat, and heads take hundreds of steps to tell near from far.
    """
    with torch.no_grad():
        for p in network[0].parameters():
            p.mul_(4)
        network[-1].weight.mul_(8)
    return network
