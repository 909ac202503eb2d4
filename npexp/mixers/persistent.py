"""All-attention: what a feed-forward would know, as learned keys and values."""

import torch
from torch import Tensor, nn

from npexp.errors import at_least
from npexp.layers.attention import KeyValue
from npexp.layers.mlp import Activation
from npexp.mixers.base import Site, Tokens, register
from npexp.mixers.dense import Dense


@register("all_attention")
class AllAttention(Dense):
    """Attention over the context and p learned keys and values, without a feed-forward (Sukhbaatar et al. 2019).

    arXiv 1907.01470. Half as many kinds of layers for the same number of parameters when p is the feed-forward's width,
    and rows have something to read where there is no context. Time O(nc (nc + p) + nt (nc + p)), state O(nc).

    Args:
        site: where in the model it sits.
        num_persistent: p, learned keys and values of each head.
    """

    family = "conditional"
    paper = "1907.01470"
    published = "n^2"
    exponent = 2.0
    cost = "nc^2 + nc nt + (nc + nt) p"
    dense_limit = {"num_persistent": 0}

    def __init__(self, site: Site, num_persistent: int = 128):
        super().__init__(site)
        at_least("num_persistent", num_persistent, 0)
        shape = (1, site.num_heads, num_persistent, site.dz // site.num_heads)
        self.k, self.v = nn.Parameter(torch.randn(shape)), nn.Parameter(torch.randn(shape))

    def read(self, q: Tokens, state: KeyValue) -> Tensor:
        """Attention of each row over the context's and the learned keys."""
        b, p = state.k.shape[0], self.k.shape[2]
        k, v = (
            torch.cat([own.to(theirs.dtype).expand(b, -1, -1, -1), theirs], 2)
            for own, theirs in ((self.k, state.k), (self.v, state.v))
        )
        mask = None
        if state.mask is not None:
            mask = torch.cat([state.mask.new_ones(b, p), state.mask], 1)
        return self.attention(q.h, KeyValue(k, v, mask), seen=None if q.seen is None else q.seen + p)

    def feedforward(self, dz: int, dim: int, activation: Activation) -> None:
        """None: that is what the learned keys and values are for."""
        return None
