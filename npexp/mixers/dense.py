"""Dense softmax attention: the exact, quadratic reference."""

import torch
from torch import Tensor

from npexp.batch import real
from npexp.layers.attention import Attention, KeyValue
from npexp.mixers.base import Carry, Mixer, Site, Tokens, register


@register("dense")
class Dense(Mixer):
    """Softmax attention over all context points (Vaswani et al. 2017; as an NP mixer, TNP-D of Nguyen & Grover 2022).

    The default until contexts outgrow it: time O(nc^2 + nc nt) per layer, state O(nc).

    Args:
        site: where in the model it sits.
        bias: whether query, key and value maps have a bias.
    """

    family = "dense"
    paper = "1706.03762"
    published = "n^2"
    exponent = 2.0
    update = "layer"
    causal = True
    joins = True
    state = "grows"
    cost = "nc^2 + nc nt"

    def __init__(self, site: Site, bias: bool = False):
        super().__init__()
        self.attention = Attention(site.dz, site.num_heads, bias)

    def summarise(self, ctx: Tokens, carry: Carry = None) -> tuple[KeyValue, Carry]:
        """Keys and values of every point."""
        return self.attention.project(ctx.h, ctx.mask), carry

    def read(self, q: Tokens, state: KeyValue) -> Tensor:
        """Attention of each row over all points."""
        return self.attention(q.h, state, seen=q.seen)

    def extend(self, state: KeyValue, new: Tokens, carry: Carry = None) -> tuple[KeyValue, Carry]:
        """Appends the new points' keys and values."""
        added = self.attention.project(new.h, new.mask)
        mask = None
        if state.mask is not None or added.mask is not None:
            mask = torch.cat([real(kv.mask, kv.k[:, 0]) for kv in (state, added)], 1)
        return KeyValue(torch.cat([state.k, added.k], 2), torch.cat([state.v, added.v], 2), mask), carry
