"""What all mixers share in which a row attends to a fixed pattern of context points."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from npexp.batch import real
from npexp.errors import ConfigError
from npexp.layers.attention import Attention
from npexp.layers.pattern import Layout, Pattern, Rows, attend_pattern, lay_out
from npexp.mixers.base import Carry, Mixer, Site, Tokens


def rows_of(tokens: Tokens) -> Rows:
    """Where tokens are; ranks of a stack that does not sort are their slots, and mean nothing."""
    rank = torch.zeros(tokens.h.shape[:2], device=tokens.h.device) if tokens.pos is None else tokens.pos
    return Rows((2 * rank).long(), tokens.x, tokens.n, real(tokens.mask, tokens.h), tokens.slot is not None)


class PatternMixer(Mixer, ABC):
    """Softmax attention within a pattern: heads share the patterns evenly, in order.

    Time and memory O((nc + nt) w dz) for rows that see w keys, state O(nc): keys in the order of each pattern.

    Args:
        site: where in the model it sits.

    Attributes:
        head_groups: how many patterns there are, where that does not follow from the heads.
    """

    family = "pattern"
    permutation_invariant = False
    needs_order = True
    state = "grows"
    head_groups: int = 1

    def __init__(self, site: Site):
        super().__init__()
        if site.num_heads % self.head_groups:
            raise ConfigError(f"expected num_heads to be a multiple of {self.head_groups}, got {site.num_heads}")
        self.attention = Attention(site.dz, site.num_heads)
        self.layer = site.layer

    @abstractmethod
    def patterns(self) -> list[Pattern]:
        """The patterns of this layer; their number divides that of the heads."""

    def summarise(self, ctx: Tokens, carry: Carry = None) -> tuple[tuple[Layout, ...], Carry]:
        """Keys and values in the order of each pattern."""
        kv, patterns, rows = self.attention.project(ctx.h), self.patterns(), rows_of(ctx)
        parts = zip(patterns, kv.k.chunk(len(patterns), 1), kv.v.chunk(len(patterns), 1), strict=True)
        return tuple(lay_out(p, k, v, rows) for p, k, v in parts), carry

    def read(self, q: Tokens, state: tuple[Layout, ...]) -> Tensor:
        """Attention of each row within its pattern."""
        heads, rows = self.attention.query(q.h), rows_of(q)
        parts = zip(self.patterns(), heads.chunk(len(state), 1), state, strict=True)
        return self.attention.merge(torch.cat([attend_pattern(p, h, rows, layout) for p, h, layout in parts], 1))
