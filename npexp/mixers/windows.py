"""Patterns of ranks: windows, blocks and strides along the canonical order of the context."""

from typing import NamedTuple

import torch
from torch import Tensor

from npexp.errors import at_least
from npexp.layers.pattern import Layout, Pattern, Rows, attend_pattern, lay_out
from npexp.mixers.base import Carry, Site, Tokens, register
from npexp.mixers.pattern import PatternMixer, rows_of
from npexp.ops.attention import attend_part, merge_parts

SMALLEST, LARGEST = 8, 64  # blocks that are gathered at a time


def block_size(width: int) -> int:
    """A block size for rows that see about `width` keys."""
    return min(max(width, SMALLEST), LARGEST)


def below(rows: Rows) -> Tensor:
    """The rank of each row, of targets that of the context point in front of them, `[b, m]`."""
    return torch.minimum((rows.rank // 2).clamp_min(0), (rows.n[:, None] - 1).clamp_min(0))


class Window(Pattern):
    """Keys within `width` steps of `dilation` ranks."""

    def __init__(self, width: int, dilation: int = 1):
        self.width, self.dilation = width, dilation
        self.size = block_size(width)

    def place(self, rows: Rows) -> Tensor:
        return rows.rank[..., None]

    def allowed(self, q: Tensor, k: Tensor) -> Tensor:
        q, k = q[..., 0], k[..., 0]
        near = (k - q).abs() <= 2 * self.width * self.dilation
        return near if self.dilation == 1 else near & ((k // 2 - q // 2) % self.dilation == 0)

    def codes(self, place: Tensor) -> Tensor | None:
        return None if self.dilation == 1 else self._code(place[..., 0] // 2, place[..., 0])

    def spans(self, place: Tensor, codes: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
        reach = 2 * self.width * self.dilation
        low, high = -((reach - place) // 2), (place + reach) // 2
        return (low, high) if self.dilation == 1 else within(codes, self._code(low, place), self._code(high, place))

    def _code(self, rank: Tensor, place: Tensor) -> Tensor:
        """Among the ranks that a row at this place may see, those from 0 on; others have other codes."""
        return (place // 2 % self.dilation << 40) + rank.clamp_min(0)


class Blocks(Pattern):
    """Keys of the row's own block of ranks, and up to `around` ranks on either side of it.

    Args:
        length: ranks per block.
        around: how many ranks further a row sees.
        shift: by how many ranks the first block is cut short.
        turn: a row sees the block that many blocks further on, in a ring, instead of its own.
        back: a row sees the block that many blocks in front of its own instead, if there is one.
    """

    def __init__(self, length: int, around: int = 0, shift: int = 0, turn: int = 0, back: int = 0):
        self.length, self.around, self.shift, self.turn, self.back = length, around, shift, turn, back
        self.size = block_size(length)

    def place(self, rows: Rows) -> Tensor:
        """Rank, and where the block that is seen begins."""
        rank = below(rows)
        block = (rank + self.shift) // self.length
        if self.turn:
            count = (rows.n[:, None] - 1 + self.shift).clamp_min(0) // self.length + 1
            block = (block + self.turn) % count
        return torch.stack([rank, (block - self.back) * self.length - self.shift], -1)

    def allowed(self, q: Tensor, k: Tensor) -> Tensor:
        ahead = k[..., 0] - q[..., 1]
        return (ahead >= -self.around) & (ahead < self.length + self.around)

    def spans(self, place: Tensor, codes: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
        begin = place[..., 1:]
        return begin - self.around, begin + self.length - 1 + self.around


class Classes(Pattern):
    """Keys of the row's own class; keys are sorted by class."""

    size = 16

    def allowed(self, q: Tensor, k: Tensor) -> Tensor:
        return q[..., 0] == k[..., 0]

    def codes(self, place: Tensor) -> Tensor:
        return place[..., 0]

    def spans(self, place: Tensor, codes: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
        return within(codes, place[..., :1], place[..., :1])


def within(codes: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """First and last slots of the sorted codes from low to high, `[b, m, s]` each."""
    codes = codes.contiguous()
    first = torch.searchsorted(codes, low.flatten(1).contiguous())
    last = torch.searchsorted(codes, high.flatten(1).contiguous(), right=True)
    return first.view(low.shape), last.view(high.shape) - 1


def root(n: Tensor) -> Tensor:
    """The square root of n, rounded up, at least 1, `[b, 1]`."""
    return n.double().sqrt().ceil().long().clamp_min(1)[:, None]


class Near(Pattern):
    """Keys less than `stride` ranks away; without one, less than the square root of n."""

    def __init__(self, stride: int | None):
        self.stride, self.size = stride, block_size(stride or 32)

    def place(self, rows: Rows) -> Tensor:
        s = root(rows.n) if self.stride is None else torch.full_like(rows.n, self.stride)[:, None]
        return torch.stack([rows.rank, s.expand_as(rows.rank)], -1)

    def allowed(self, q: Tensor, k: Tensor) -> Tensor:
        return (k[..., 0] - q[..., 0]).abs() < 2 * q[..., 1]

    def spans(self, place: Tensor, codes: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
        rank, s = place[..., :1], place[..., 1:]
        return rank // 2 - s, rank // 2 + s


class Strided(Classes):
    """Keys a multiple of `stride` ranks away; without one, of the square root of n, rounded up."""

    def __init__(self, stride: int | None):
        self.stride = stride

    def place(self, rows: Rows) -> Tensor:
        return (below(rows) % (self.stride or root(rows.n)))[..., None]


class Summaries(Pattern):
    """Keys of the row's own block of `stride` ranks, and the last `last` ranks of every block."""

    size = 16
    regroup = False

    def __init__(self, stride: int | None, last: int):
        self.stride, self.last = stride, last

    def place(self, rows: Rows) -> Tensor:
        """Block, and whether the row is among the last ones of it."""
        rank, s = below(rows), self.stride or root(rows.n)
        return torch.stack([rank // s, (rank % s >= s - self.last).long()], -1)

    def allowed(self, q: Tensor, k: Tensor) -> Tensor:
        return (q[..., 0] == k[..., 0]) | (k[..., 1] == 1)

    def codes(self, place: Tensor) -> Tensor:
        return torch.where(place[..., 1] == 1, -1, place[..., 0])

    def spans(self, place: Tensor, codes: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
        own = place[..., 0]
        wanted = torch.stack([torch.full_like(own, -1), own], -1)
        return within(codes, wanted, wanted)


@register("local")
class Local(PatternMixer):
    """Sliding-window attention: each row reads the context points within `window` ranks of its own.

    The plainest local attention; with several layers what is far away arrives in steps. Time O((nc + nt) w dz), state
    O(nc). It cannot see what is beyond num_layers windows: where facts are global take "longformer" or "ist".

    Args:
        site: where in the model it sits.
        window: w, ranks that a row sees on either side.
    """

    paper = "2004.05150"
    published = "n w"
    cost = "(nc + nt) w"
    update = "local"
    dense_limit = {"window": 10**6}

    def __init__(self, site: Site, window: int = 16):
        super().__init__(site)
        self.window = at_least("window", window, 1)

    @property
    def reach(self) -> int:
        return self.window

    def patterns(self) -> list[Pattern]:
        return [Window(self.window)]


@register("local_block")
class LocalBlock(PatternMixer):
    """Block-local attention: each row reads its own block of ranks (Child et al. 2019; Liu et al. 2018).

    Cheaper to gather than "local", with seams between blocks; odd layers move them by half a block.

    Args:
        site: where in the model it sits.
        block: ranks per block.
    """

    paper = "1801.10198"
    published = "n b"
    cost = "(nc + nt) b"
    update = "local"
    dense_limit = {"block": 10**6}

    def __init__(self, site: Site, block: int = 32):
        super().__init__(site)
        self.block = at_least("block", block, 1)

    @classmethod
    def period(cls, site: Site) -> int:
        return 2

    @property
    def reach(self) -> int:
        return self.block

    def patterns(self) -> list[Pattern]:
        return [Blocks(self.block, shift=self.block // 2 if self.layer % 2 else 0)]


@register("blockwise")
class Blockwise(PatternMixer):
    """Blockwise attention (Qiu et al. 2019, arXiv 1911.02972): head i of block j reads block j + i, in a ring.

    The first head stays at home, the others carry facts across: with as many heads as blocks every point is seen.

    Args:
        site: where in the model it sits.
        block: ranks per block.
    """

    paper = "1911.02972"
    published = "n b"
    cost = "(nc + nt) b"
    dense_limit = {"block": 10**6}

    def __init__(self, site: Site, block: int = 32):
        super().__init__(site)
        self.block, self.num_heads = at_least("block", block, 1), site.num_heads

    def patterns(self) -> list[Pattern]:
        return [Blocks(self.block, turn=i) for i in range(self.num_heads)]


@register("image_1d")
class Image1D(PatternMixer):
    """Image Transformer, one-dimensional (Parmar et al. 2018, arXiv 1802.05751): the own block and what is around it.

    Args:
        site: where in the model it sits.
        block: ranks per block.
        around: ranks that are seen on either side of it.
    """

    paper = "1802.05751"
    published = "n m"
    cost = "(nc + nt) (b + l)"
    update = "local"
    dense_limit = {"block": 10**6}

    def __init__(self, site: Site, block: int = 16, around: int = 8):
        super().__init__(site)
        self.block, self.around = at_least("block", block, 1), at_least("around", around, 0)

    @property
    def reach(self) -> int:
        return self.block + self.around

    def patterns(self) -> list[Pattern]:
        return [Blocks(self.block, self.around)]


@register("sparse_strided")
class SparseStrided(PatternMixer):
    """Sparse Transformer, strided (Child et al. 2019, arXiv 1904.10509): half the heads near by, half at a stride.

    Any two points are two layers apart. Which points lie at a stride depends on ranks, so that one more point changes
    it for all behind it. An even number of heads.

    Args:
        site: where in the model it sits.
        stride: s; None takes the square root of each task's nc.
    """

    paper = "1904.10509"
    published = "n sqrt(n)"
    cost = "(nc + nt) sqrt(nc)"
    exponent = 1.5
    head_groups = 2

    def __init__(self, site: Site, stride: int | None = None):
        super().__init__(site)
        at_least("stride", stride or 1, 1)
        self.stride = stride

    def patterns(self) -> list[Pattern]:
        return [Near(self.stride), Strided(self.stride)]


@register("sparse_fixed")
class SparseFixed(PatternMixer):
    """Sparse Transformer, fixed (Child et al. 2019, arXiv 1904.10509): the own block, and the last ranks of every one.

    Args:
        site: where in the model it sits.
        stride: ranks per block; None takes the square root of each task's nc.
        last: c, ranks at the end of each block that everyone reads.
    """

    paper = "1904.10509"
    published = "n sqrt(n)"
    cost = "(nc + nt) c sqrt(nc)"
    exponent = 1.5
    dense_limit = {"stride": 1}

    def __init__(self, site: Site, stride: int | None = None, last: int = 2):
        super().__init__(site)
        at_least("stride", stride or 1, 1)
        self.stride, self.last = stride, at_least("last", last, 1)

    def patterns(self) -> list[Pattern]:
        return [Summaries(self.stride, self.last)]


class Recurrence(NamedTuple):
    """The context once with gradients, for its own segment, and once without, for its neighbour."""

    own: Layout
    past: Layout


@register("transformer_xl")
class TransformerXL(PatternMixer):
    """Transformer-XL (Dai et al. 2019, arXiv 1901.02860): rows read their segment of ranks and the one before it.

    No gradient flows into the segment before, as if it had been cached. What is "before" alternates by layer, unless
    the order is time. Positions reach the tokens through their inputs x, not through relative biases.

    Args:
        site: where in the model it sits.
        segment: ranks per segment.
        forward: whether "before" means lower ranks in every layer.
    """

    family = "recurrent"
    paper = "1901.02860"
    published = "n s"
    cost = "(nc + nt) s"
    update = "local"
    dense_limit = {"segment": 10**6}

    def __init__(self, site: Site, segment: int = 32, forward: bool = False):
        super().__init__(site)
        self.segment, self.forward = at_least("segment", segment, 1), forward

    @classmethod
    def period(cls, site: Site) -> int:
        return 2

    @property
    def reach(self) -> int:
        return 2 * self.segment

    def patterns(self) -> list[Pattern]:
        back = -1 if self.layer % 2 and not self.forward else 1
        return [Blocks(self.segment), Blocks(self.segment, back=back)]

    def summarise(self, ctx: Tokens, carry: Carry = None) -> tuple[Recurrence, Carry]:
        """Keys and values, and the same without gradients."""
        kv, rows, (own, past) = self.attention.project(ctx.h), rows_of(ctx), self.patterns()
        return Recurrence(lay_out(own, kv.k, kv.v, rows), lay_out(past, kv.k.detach(), kv.v.detach(), rows)), carry

    def read(self, q: Tokens, state: Recurrence) -> Tensor:
        """One softmax over both segments."""
        heads, rows = self.attention.query(q.h), rows_of(q)
        parts = zip(self.patterns(), state, strict=True)
        own, past = (attend_pattern(p, heads, rows, layout, attend_part) for p, layout in parts)
        return self.attention.merge(merge_parts(own, past).out)
