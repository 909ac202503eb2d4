"""Attention that learns how much of the context to look at: by weights that are exactly 0, or by distance."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from npexp.errors import at_least
from npexp.layers.attention import KeyValue, visible
from npexp.layers.penalty import penalise
from npexp.layers.relative import Placed, RelativeAttention, SpanBias
from npexp.mixers.base import Carry, Site, Tokens, register
from npexp.mixers.dense import Dense
from npexp.mixers.relative import RelativeMixer
from npexp.ops.entmax import entmax_attend


@register("entmax")
class Entmax(Dense):
    """Adaptively sparse Transformer: alpha-entmax for softmax, alpha learned per head (Correia et al. 2019).

    arXiv 1909.00015. Each head finds its own place between softmax (alpha = 1) and sparsemax (alpha = 2), where most of
    the context gets no weight at all. To read what a model looks at; without a fused kernel it takes several times as
    long as "dense". Time O(nc^2 + nc nt), memory O(tile nc + nc dz).

    Args:
        site: where in the model it sits.
        tile: queries that are held against the context at a time.
    """

    family = "conditional"
    paper = "1909.00015"
    published = "n^2"
    exponent = 2.0

    def __init__(self, site: Site, tile: int = 256):
        super().__init__(site)
        self.a = nn.Parameter(torch.zeros(site.num_heads))
        self.tile = at_least("tile", tile, 1)

    @property
    def alpha(self) -> Float[Tensor, " h"]:
        """Between 1.001, as the softmax itself is a limit only, and 1.999; halfway at a = 0."""
        return 1.001 + 0.998 * self.a.sigmoid()

    def read(self, q: Tokens, state: KeyValue) -> Tensor:
        """Sparse attention of each row over all points."""
        a = self.attention
        return a.merge(entmax_attend(a.query(q.h), state.k, state.v, self.alpha, visible(state, q.seen), self.tile))


@register("adaptive_span")
class AdaptiveSpan(RelativeMixer):
    """Attention with a learned reach per head, as a distance in x (Sukhbaatar et al. 2019, arXiv 1905.07799).

    p_ij ~ m(|x_i - x_j|) exp(q_i.k_j / sqrt(dh)) with m = clamp((R + z_h - r) / R, 0, 1), and z_h is kept small by the
    loss. Where near points matter and nobody knows how near; it tells distances apart on the ramp only, which "kernel"
    does everywhere. Time O(nc^2 + nc nt) whatever the spans, memory O(nc dz + tile^2).

    Args:
        site: where in the model it sits.
        span: z_h at first, in units of x.
        ramp: R, in units of x.
        penalty: weight of the mean of z_h in the loss, in nats per target and unit of x.
        tile: queries and keys that are held against each other at a time.
    """

    family = "pattern"
    paper = "1905.07799"
    published = "n s"
    exponent = 2.0

    def __init__(self, site: Site, span: float = 2.0, ramp: float = 1.0, penalty: float = 1e-3, tile: int = 256):
        super().__init__()
        self.penalty = at_least("penalty", penalty, 0.0)
        bias = SpanBias(site.num_heads, span, ramp)
        self.attention = RelativeAttention(site.dz, site.num_heads, bias, tile)

    def summarise(self, ctx: Tokens, carry: Carry = None) -> tuple[Placed, Carry]:
        """Keys, values and inputs of every point; hands over the penalty on the spans."""
        penalise(self.penalty * self.attention.bias.span.mean())
        return super().summarise(ctx, carry)
