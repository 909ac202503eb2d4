"""Long-Short Transformer: a window for what is near, a few summaries for what is far."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from npexp.errors import at_least
from npexp.layers.attention import KeyValue
from npexp.layers.pattern import Layout, Pattern, attend_pattern, lay_out
from npexp.mixers.base import Carry, Site, Tokens, register
from npexp.mixers.pattern import PatternMixer, rows_of
from npexp.mixers.windows import Window
from npexp.ops.attention import attend_part, merge_parts


class LongShortState(NamedTuple):
    """All keys and values, for windows, and the projected ones that everyone reads."""

    short: Layout
    long: KeyValue


@register("long_short")
class LongShort(PatternMixer):
    """Long-Short Transformer (Zhu et al. 2021, arXiv 2107.02192): a window joined with r dynamically projected keys.

    In each head the r long-range keys are softmax(K W)' K, averages of all keys with weights that depend on them, and
    values likewise. Both kinds have a layer norm of their own, since averages are smaller, and share one softmax. For
    data with local detail and a few global facts; where all facts are local, "local" is cheaper. One more point moves
    the averages, hence every token.

    Args:
        site: where in the model it sits.
        window: w, ranks that a row sees on either side.
        num_projected: r.
    """

    paper = "2107.02192"
    published = "n (w + r)"
    cost = "(nc + nt) (w + r)"

    def __init__(self, site: Site, window: int = 16, num_projected: int = 16):
        super().__init__(site)
        self.window, dh = at_least("window", window, 1), site.dz // site.num_heads
        self.projection = nn.Parameter(torch.randn(site.num_heads, at_least("num_projected", num_projected, 1), dh))
        self.norm_short, self.norm_long = nn.LayerNorm(dh), nn.LayerNorm(dh)

    def patterns(self) -> list[Pattern]:
        return [Window(self.window)]

    def summarise(self, ctx: Tokens, carry: Carry = None) -> tuple[LongShortState, Carry]:
        """Keys and values, and their averages; none of an empty context."""
        kv, (window,) = self.attention.project(ctx.h, ctx.mask), self.patterns()
        w = self.projection.expand(len(ctx.h), -1, -1, -1)
        averages = attend_part(w, kv.k, torch.cat([kv.k, kv.v], -1), kv.mask).out.chunk(2, -1)
        some = (ctx.n > 0)[:, None].expand(w.shape[0], w.shape[2])
        k, v = (self.norm_short(t) for t in (kv.k, kv.v))
        long = KeyValue(*(self.norm_long(t) for t in averages), some)
        return LongShortState(lay_out(window, k, v, rows_of(ctx)), long), carry

    def read(self, q: Tokens, state: LongShortState) -> Tensor:
        """One softmax over the window and the averages."""
        heads, (window,) = self.attention.query(q.h), self.patterns()
        near = attend_pattern(window, heads, rows_of(q), state.short, attend_part)
        return self.attention.merge(merge_parts(near, attend_part(heads, *state.long)).out)
