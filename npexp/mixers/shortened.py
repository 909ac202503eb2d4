"""Mixers that merge consecutive points on their way from layer to layer, around attention to all that are left."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from npexp.errors import at_least
from npexp.layers.attention import Attention, KeyValue
from npexp.mixers.base import Carry, Mixer, Site, Tokens, register
from npexp.ops.rank_pool import mean_ranks


def pool_tokens(t: Tokens, size: int) -> Tokens:
    """Means of `size` consecutive context points each, in features and inputs."""
    h, x = (mean_ranks(v, size, t.mask) for v in (t.h, t.x))
    slot = torch.arange(h.shape[1], device=h.device).expand(h.shape[:2])
    mask = None if t.mask is None else t.mask[:, ::size]
    return Tokens(h, x, mask, -(-t.n // size), slot, None, slot)


class _Shortening(Mixer):
    """Softmax attention to a context that grows shorter with depth."""

    family = "pooled"
    exponent = 2.0
    permutation_invariant = False
    needs_order = True
    state = "grows"
    contexts = ("read",)

    def __init__(self, site: Site):
        super().__init__()
        self.attention = Attention(site.dz, site.num_heads)
        self.layer = site.layer

    def summarise(self, ctx: Tokens, carry: Carry = None) -> tuple[KeyValue, Carry]:
        """Keys and values of every point there still is."""
        return self.attention.project(ctx.h, ctx.mask), carry

    def read(self, q: Tokens, state: KeyValue) -> Tensor:
        """Attention of each row over all of them."""
        return self.attention(q.h, state)


@register("funnel")
class Funnel(_Shortening):
    """Funnel-Transformer (Dai et al. 2020, arXiv 2006.03236): every few layers two neighbours become one.

    Where the context is shortened its queries are the means of consecutive ranks, while keys and values are still those
    of every point. Targets read each stage, so what was merged has been seen before; the published decoder, which
    brings tokens back to full length, has nothing to do. All points in the first layer, a quarter of them in the last
    two of six: for contexts that "dense" can nearly afford. Shared layers (`share_layers`) all shorten.

    Args:
        site: where in the model it sits.
        stride: points that become one.
        every: layers from one shortening to the next; the first one shortens.
    """

    paper = "2006.03236"
    published = "n^2"
    cost = "nc^2 + nc nt, less where shortened"
    dense_limit = {"stride": 1}

    def __init__(self, site: Site, stride: int = 2, every: int = 3):
        super().__init__(site)
        self.stride = at_least("stride", stride, 1)
        self.shortens = site.layer % at_least("every", every, 1) == 0

    def shorten(self, ctx: Tokens, state: KeyValue) -> Tokens:
        """Means of neighbours, in the layers that shorten."""
        return pool_tokens(ctx, self.stride) if self.shortens else ctx


class MergedState(NamedTuple):
    """Keys, values and mask of the points, see `KeyValue`, and the weights by which blocks were merged into them.

    Those are `[b, n, blocks]`; None where nothing was merged.
    """

    k: Tensor
    v: Tensor
    mask: Tensor | None
    weight: Tensor | None


@register("charformer")
class Charformer(_Shortening):
    """Charformer (Tay et al. 2021, arXiv 2106.12672): points are merged once, by a gradient-based block tokeniser.

    In front of the first layer each rank becomes a softmax mixture of the means of its blocks of 1, 2, ..., b ranks, by
    a learned score of each, and then means of d consecutive ranks are taken; without the published, optional
    calibration of scores against each other. Then dense attention, d^2 times cheaper. The mildest way to thin out dense
    data; where points are few and far between it blurs them. Shared layers (`share_layers`) all shorten.

    Args:
        site: where in the model it sits.
        block: b, size of the largest candidate blocks.
        stride: d, points that become one.
    """

    paper = "2106.12672"
    published = "n b, then (n / d)^2"
    cost = "nc b + nc^2 / d^2 + nc nt / d"
    dense_limit = {"block": 1, "stride": 1}

    def __init__(self, site: Site, block: int = 4, stride: int = 2):
        super().__init__(site)
        self.block, self.stride = at_least("block", block, 1), at_least("stride", stride, 1)
        self.score = nn.Linear(site.dz, 1, bias=False) if site.layer == 0 else None

    def summarise(self, ctx: Tokens, carry: Carry = None) -> tuple[MergedState, Carry]:
        """Keys and values of the merged points, and how they were merged."""
        weight = None
        if self.score is not None:
            means = self._means(ctx)
            weight = self.score(means)[..., 0].softmax(-1, torch.promote_types(means.dtype, torch.float32))
            ctx = self._merge(ctx, means, weight)
        kv, carry = super().summarise(ctx, carry)
        return MergedState(*kv, weight), carry

    def read(self, q: Tokens, state: MergedState) -> Tensor:
        """Attention of each row over all of them."""
        return super().read(q, KeyValue(*state[:3]))

    def shorten(self, ctx: Tokens, state: MergedState) -> Tokens:
        """The merged points, by the weights that gave the keys, whatever norm stood between."""
        return ctx if state.weight is None else self._merge(ctx, self._means(ctx), state.weight)

    def _means(self, ctx: Tokens) -> Tensor:
        """Of each rank's blocks, `[b, n, blocks, dz]`."""
        means = ((size, mean_ranks(ctx.h, size, ctx.mask)) for size in range(1, self.block + 1))
        return torch.stack([t.repeat_interleave(size, 1)[:, : ctx.h.shape[1]] for size, t in means], 2)

    def _merge(self, ctx: Tokens, means: Tensor, weight: Tensor) -> Tokens:
        h = (weight[..., None, :] @ means)[..., 0, :]
        return pool_tokens(ctx._replace(h=h), self.stride)
