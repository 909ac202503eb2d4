"""The Compressive Transformer: what recurrence would forget is kept, compressed."""

from typing import NamedTuple

import torch
from torch import Tensor

from npexp.errors import ConfigError, at_least
from npexp.layers.pattern import Layout, Pattern, Rows, attend_pattern, lay_out
from npexp.layers.penalty import collecting, penalise
from npexp.mixers.base import Carry, Site, Tokens, register
from npexp.mixers.pattern import PatternMixer, rows_of
from npexp.mixers.pooled import Compression, pooled_rows
from npexp.mixers.windows import Blocks, below, block_size
from npexp.ops.attention import attend_part, merge_parts


class Memory(Pattern):
    """Groups of `rate` ranks that lie in `length` ranks from `start`, counted from where the row's segment begins."""

    def __init__(self, segment: int, rate: int, start: int, length: int):
        self.segment, self.rate, self.start, self.length = segment, rate, start, length
        self.size = block_size(length // rate)

    def place(self, rows: Rows) -> Tensor:
        """Rank, and where that begins which is seen; both are multiples of the rate where it matters."""
        rank = below(rows)
        return torch.stack([rank, rank // self.segment * self.segment + self.start], -1)

    def allowed(self, q: Tensor, k: Tensor) -> Tensor:
        ahead = k[..., 0] - q[..., 1]
        return (ahead >= 0) & (ahead < self.length)

    def spans(self, place: Tensor, codes: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
        begin = place[..., 1:]
        return begin // self.rate, (begin + self.length) // self.rate - 1


class Remembered(NamedTuple):
    """The context with gradients, for its own segment, without, for its neighbour, and compressed, for the rest."""

    own: Layout
    past: Layout
    memory: Layout


@register("compressive")
class Compressive(PatternMixer):
    """Compressive Transformer (Rae et al. 2019, arXiv 1911.05507): "transformer_xl" with a longer, coarser memory.

    Rows read their segment of ranks, the one before it, and up to `memory` keys that stand for `rate` ranks each of
    what was before that. No gradient flows into anything but the own segment. The compression, a strided convolution of
    keys and values, learns from the loss and, as published, from a penalty: the squared difference between what points
    read from the segment before them and what they would read if it were compressed. What is "before" alternates by
    layer, unless the order is time.

    Args:
        site: where in the model it sits.
        segment: s, ranks per segment; a multiple of the rate.
        rate: c, ranks that are compressed to one.
        memory: m, compressed keys that a row sees at most.
        forward: whether "before" means lower ranks in every layer.
        reconstruction: weight of the penalty, the mean of squares over points and features.
    """

    family = "recurrent"
    paper = "1911.05507"
    published = "n (s + m)"
    cost = "(nc + nt) (s + m)"
    update = "local"
    dense_limit = {"segment": 10**6}

    def __init__(
        self,
        site: Site,
        segment: int = 32,
        rate: int = 4,
        memory: int = 32,
        forward: bool = False,
        reconstruction: float = 1.0,
    ):
        super().__init__(site)
        self.segment, self.rate = at_least("segment", segment, 1), at_least("rate", rate, 1)
        if segment % rate:
            raise ConfigError(f"expected segment to be a multiple of rate={rate}, got {segment}")
        self.memory = at_least("memory", memory, 1)
        self.reconstruction = at_least("reconstruction", reconstruction, 0.0)
        self.back = -1 if site.layer % 2 and not forward else 1
        self.compress = Compression(site, rate)

    @property
    def reach(self) -> int:
        return 2 * self.segment + self.memory * self.rate

    @classmethod
    def period(cls, site: Site) -> int:
        return 2

    def patterns(self) -> list[Pattern]:
        length = self.memory * self.rate
        start = 2 * self.segment if self.back < 0 else -self.segment - length
        memory = Memory(self.segment, self.rate, start, length)
        return [Blocks(self.segment), Blocks(self.segment, back=self.back), memory]

    def summarise(self, ctx: Tokens, carry: Carry = None) -> tuple[Remembered, Carry]:
        """Keys and values, the same without gradients, and compressed."""
        kv, rows, (own, past, memory) = self.attention.project(ctx.h, ctx.mask), rows_of(ctx), self.patterns()
        old = kv._replace(k=kv.k.detach(), v=kv.v.detach())
        few, fewer = self.compress(old), pooled_rows(rows, self.rate)
        layouts = (
            lay_out(own, kv.k, kv.v, rows),
            lay_out(past, old.k, old.v, rows),
            lay_out(memory, few.k, few.v, fewer),
        )
        state = Remembered(*layouts)
        # with gradients also where nobody collects: a layer that is computed again needs the same graph
        if self.training and (torch.is_grad_enabled() or collecting()):
            penalise(self.reconstruction * self._lost(ctx, state))
        return state, carry

    def read(self, q: Tokens, state: Remembered) -> Tensor:
        """One softmax over all three."""
        heads, rows = self.attention.query(q.h), rows_of(q)
        parts = zip(self.patterns(), state, strict=True)
        own, past, memory = (attend_pattern(p, heads, rows, layout, attend_part) for p, layout in parts)
        return self.attention.merge(merge_parts(merge_parts(own, past), memory).out)

    def _lost(self, ctx: Tokens, state: Remembered) -> Tensor:
        """How much worse the context would read its past if that were compressed; gradients reach that step alone."""
        q, rows, past = self.attention.query(ctx.h).detach(), rows_of(ctx), self.patterns()[1]
        compressed = Memory(self.segment, self.rate, -self.back * self.segment, self.segment)
        full = attend_pattern(past, q, rows, state.past, attend_part).out
        gap = (full - attend_pattern(compressed, q, rows, state.memory, attend_part).out).square()
        gap = torch.where(rows.real[:, None, :, None], gap, torch.zeros_like(gap))
        return gap.sum() / (rows.real.sum().clamp_min(1) * ctx.h.shape[-1])
