"""Attention to pooled keys: many consecutive points look like one from afar."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from npexp.errors import at_least
from npexp.layers.attention import Attention, KeyValue
from npexp.layers.pattern import Layout, Pattern, Rows, attend_pattern, lay_out
from npexp.mixers.base import Carry, Site, Tokens, register
from npexp.mixers.pattern import PatternMixer, rows_of
from npexp.mixers.windows import Blocks, Window, block_size
from npexp.ops.rank_pool import convolve_ranks, mean_ranks


def pooled_rows(rows: Rows, size: int) -> Rows:
    """Where groups of `size` ranks are: each at the first of them."""
    return Rows(rows.rank[:, ::size], rows.x[:, ::size], rows.n, rows.real[:, ::size], False)


class Compression(nn.Module):
    """Strided convolutions of keys and of values along the ranks, each head's own, which start as means.

    Args:
        site: whose heads they are.
        size: ranks that become one.
    """

    def __init__(self, site: Site, size: int):
        super().__init__()
        self.size, dh = size, site.dz // site.num_heads
        self.weight = nn.Parameter(torch.eye(dh).repeat(2, site.num_heads, size, 1, 1) / size)

    def forward(self, kv: KeyValue) -> KeyValue:
        """`[b, h, n, dh]` to `[b, h, m, dh]` with m = n / size rounded up, O(n dz dh)."""
        k, v = (convolve_ranks(t, w, kv.mask) for t, w in zip(kv[:2], self.weight, strict=True))
        return KeyValue(k, v, None if kv.mask is None else kv.mask[:, :: self.size])


@register("memory_compressed")
class MemoryCompressed(PatternMixer):
    """Memory-compressed attention (Liu et al. 2018, arXiv 1801.10198): layers see their block, or all in little.

    In even layers rows read their own block of ranks, in odd ones all keys and values after a strided convolution. The
    cure for what "local_block" cannot see, at a k-th of the price of "dense": odd layers cost O((nc + nt) nc dz / k).

    Args:
        site: where in the model it sits.
        block: b, ranks per block.
        stride: k, ranks that become one key.
    """

    family = "pooled"
    paper = "1801.10198"
    published = "n b + n^2 / k"
    exponent = 2.0
    cost = "(nc + nt) (b + nc / k)"

    def __init__(self, site: Site, block: int = 32, stride: int = 3):
        super().__init__(site)
        self.block = at_least("block", block, 1)
        at_least("stride", stride, 1)
        self.compress = Compression(site, stride) if site.layer % 2 else None

    def patterns(self) -> list[Pattern]:
        return [Blocks(self.block)]

    @classmethod
    def period(cls, site: Site) -> int:
        return 2

    def summarise(self, ctx: Tokens, carry: Carry = None) -> tuple[tuple[Layout, ...] | KeyValue, Carry]:
        """Keys and values, compressed in odd layers."""
        if self.compress is None:
            return super().summarise(ctx, carry)
        return self.compress(self.attention.project(ctx.h, ctx.mask)), carry

    def read(self, q: Tokens, state: tuple[Layout, ...] | KeyValue) -> Tensor:
        """Attention of each row within its block, in odd layers to all that is left."""
        return super().read(q, state) if self.compress is None else self.attention(q.h, state)


class PooledWindow(Pattern):
    """Groups of `stride` ranks of which some are within `width` ranks."""

    def __init__(self, width: int, stride: int):
        self.width, self.stride = width, stride
        self.size = block_size(width // stride)

    def place(self, rows: Rows) -> Tensor:
        return rows.rank[..., None]

    def allowed(self, q: Tensor, k: Tensor) -> Tensor:
        ahead = k[..., 0] - q[..., 0]
        return (ahead >= -2 * (self.width + self.stride - 1)) & (ahead <= 2 * self.width)

    def spans(self, place: Tensor, codes: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
        low, high = place - 2 * (self.width + self.stride - 1), place + 2 * self.width
        return low // (2 * self.stride), high // (2 * self.stride)


class TwoLevels(NamedTuple):
    """Keys and values of the tokens, and of what these read, pooled."""

    near: tuple[Layout, ...]
    far: Layout


@register("poolingformer")
class Poolingformer(PatternMixer):
    """Poolingformer (Zhang et al. 2021, arXiv 2105.04371): y + A(y; pooled y), y being a sliding window's attention.

    The second level reads what the first has found, as means of a few ranks, over a wider window: four times the view
    of "local" for twice the time. Means are the plainest of the published ways to pool.

    Args:
        site: where in the model it sits.
        window: w, ranks that the first level sees on either side.
        far: the same of the second level.
        stride: k, ranks that are pooled.
    """

    family = "pooled"
    paper = "2105.04371"
    published = "n w"
    cost = "(nc + nt) (w + far / k)"
    update = "local"

    def __init__(self, site: Site, window: int = 16, far: int = 64, stride: int = 4):
        super().__init__(site)
        self.window, self.far = at_least("window", window, 1), at_least("far", far, window)
        self.stride = at_least("stride", stride, 1)
        self.second = Attention(site.dz, site.num_heads)

    @property
    def reach(self) -> int:
        return self.window + self.far + self.stride - 1

    def patterns(self) -> list[Pattern]:
        return [Window(self.window)]

    def summarise(self, ctx: Tokens, carry: Carry = None) -> tuple[TwoLevels, Carry]:
        """Keys and values of both levels; the context reads the first to make the second."""
        near, carry = super().summarise(ctx, carry)
        y = mean_ranks(super().read(ctx, near), self.stride, ctx.mask)
        kv = self.second.project(y)  # linear: the same as pooling keys and values
        rows = pooled_rows(rows_of(ctx), self.stride)
        return TwoLevels(near, lay_out(PooledWindow(self.far, self.stride), kv.k, kv.v, rows)), carry

    def read(self, q: Tokens, state: TwoLevels) -> Tensor:
        """Both levels, one after the other."""
        y = super().read(q, state.near)
        heads = self.second.query(y)
        z = attend_pattern(PooledWindow(self.far, self.stride), heads, rows_of(q), state.far)
        return y + self.second.merge(z)
