"""Windows joined by a few tokens that everyone reads and that read everyone."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from npexp.batch import real
from npexp.errors import at_least, positive
from npexp.layers.attention import KeyValue
from npexp.layers.blocks import CrossBlock
from npexp.layers.pattern import Layout, Pattern, Rows, attend_pattern, lay_out
from npexp.mixers.base import Carry, Site, Tokens, register
from npexp.mixers.pattern import PatternMixer, rows_of
from npexp.mixers.windows import Window
from npexp.ops.attention import Part, attend, attend_part, merge_parts


class WindowAndRandom(Window):
    """A window, and blocks of ranks drawn at random for each block of rows, once and for all.

    Args:
        width: ranks that a row sees on either side.
        block: ranks per block.
        num_random: blocks that are drawn.
        layer: which layer draws.
        hubs: leaves out that many keys evenly spaced over the ranks, which everyone reads anyway.
    """

    def __init__(self, width: int, block: int, num_random: int, layer: int, hubs: int = 0):
        super().__init__(width)
        self.block, self.num_random, self.layer, self.hubs = block, num_random, layer, hubs
        self.size = block  # whose rows share what was drawn

    def place(self, rows: Rows) -> Tensor:
        """Rank, whether it is a hub, and the blocks drawn."""
        rank, count = rows.rank // 2, (rows.n[:, None] - 1).clamp_min(0) // self.block + 1
        own = torch.minimum(rank.clamp_min(0) // self.block, count - 1)
        drawn = [scramble(own, 1 + i + self.num_random * self.layer) % count for i in range(self.num_random)]
        hub = (rank[..., None] == hub_ranks(rows.n, self.hubs)[:, None]).any(-1)
        return torch.stack([rows.rank, hub.long(), *drawn], -1)

    def allowed(self, q: Tensor, k: Tensor) -> Tensor:
        near = (k[..., 0] - q[..., 0]).abs() <= 2 * self.width
        block = k[..., :1] // (2 * self.block)
        return (near | (block == q[..., 2:]).any(-1)) & (k[..., 1] == 0)

    def spans(self, place: Tensor, codes: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
        low, high = super().spans(place[..., :1], codes, n)
        begin = place[..., 2:] * self.block
        return torch.cat([low, begin], -1), torch.cat([high, begin + self.block - 1], -1)


def scramble(block: Tensor, seed: int) -> Tensor:
    """A number in [0, 2^32) for each block that looks random, the same for ever (the finaliser of MurmurHash3)."""
    low = 2**32 - 1
    mixed = (block * 0x9E3779B1 + seed * 0x85EBCA77) & low
    for factor, shift in ((0x85EBCA6B, 16), (0xC2B2AE35, 13)):
        mixed = ((mixed ^ (mixed >> shift)) * factor) & low
    return mixed ^ (mixed >> 16)


def hub_ranks(n: Tensor, count: int) -> Tensor:
    """Ranks of evenly spaced context points, `[b, count]`; -1 for those of which there are not enough points."""
    steps = torch.arange(count, device=n.device)
    m = n.clamp(max=count)[:, None]
    return torch.where(steps < m, (2 * steps + 1) * n[:, None] // (2 * m).clamp_min(1), -1)


class GlobalState(NamedTuple):
    """What rows see: the context in the order of each pattern, and the global tokens' keys and values."""

    layouts: tuple[Layout, ...]
    hubs: KeyValue


class _Global(PatternMixer):
    """A window, and global tokens, learned and carried from layer to layer, that read each other and the context.

    Rows read window and global tokens in one softmax. Time O((nc + nt) (w + g) dz), state O(nc). Not updatable: through
    the global tokens a point changes everything.

    Args:
        site: where in the model it sits.
        window: w, ranks that a row sees on either side.
        num_globals: g.
        dim_feedforward: hidden width of the global tokens' feed-forward.
        init_stddev: standard deviation of the initial global tokens.
    """

    published = "n (w + g)"
    cost = "(nc + nt) (w + g)"

    def __init__(
        self,
        site: Site,
        window: int = 16,
        num_globals: int = 8,
        dim_feedforward: int = 128,
        init_stddev: float = 1.0,
    ):
        super().__init__(site)
        self.window = at_least("window", window, 1)
        at_least("num_globals", num_globals, 1)
        positive("init_stddev", init_stddev)
        own = site.layer == 0
        self.latents = nn.Parameter(init_stddev * torch.randn(num_globals, site.dz)) if own else None
        self.norm_latents = nn.LayerNorm(site.dz)
        self.gather = CrossBlock(site.dz, site.num_heads, dim_feedforward, norm_keys=False)
        self.norm = nn.LayerNorm(site.dz)

    def patterns(self) -> list[Pattern]:
        return [Window(self.window)]

    def summarise(self, ctx: Tokens, carry: Carry = None) -> tuple[GlobalState, Carry]:
        """The global tokens read everything, and everything is laid out to be read."""
        z = self.latents.expand(ctx.h.shape[0], -1, -1) if carry is None else carry
        everything = torch.cat([self.norm_latents(z), ctx.h], 1)
        mask = torch.cat([torch.ones_like(z[..., 0], dtype=torch.bool), real(ctx.mask, ctx.h)], 1)
        z = self.gather(z, everything, mask)
        return GlobalState(super().summarise(ctx)[0], self.attention.project(self.norm(z))), z

    def read(self, q: Tokens, state: GlobalState) -> Tensor:
        """One softmax over what each row sees and the global tokens."""
        heads, rows = self.attention.query(q.h), rows_of(q)
        parts = zip(self.patterns(), heads.chunk(len(state.layouts), 1), state.layouts, strict=True)
        near = [attend_pattern(p, own, rows, layout, attend_part) for p, own, layout in parts]
        hubs = attend_part(heads, state.hubs.k, state.hubs.v)
        return self.attention.merge(merge_parts(Part(*(torch.cat(t, 1) for t in zip(*near, strict=True))), hubs).out)


@register("etc")
class ETC(_Global):
    """Extended Transformer construction (Ainslie et al. 2020, arXiv 2004.08483): windows and global tokens.

    The strongest plain recipe of the family: what is near is exact, what is far comes through g tokens.
    """

    paper = "2004.08483"


@register("star", window=1, num_globals=1)
class Star(_Global):
    """Star-Transformer (Guo et al. 2019, arXiv 1902.09113): two neighbours and one relay, in the shape of "etc".

    The smallest of the family; the paper's own alternating update of ring and relay is that of "etc" here.
    """

    paper = "1902.09113"
    published = "n"


@register("longformer")
class Longformer(_Global):
    """Longformer (Beltagy et al. 2020, arXiv 2004.05150): global tokens, and windows that widen with depth.

    In layer l half of the heads see every (1 + l)-th rank of a window (1 + l) times as wide. Global tokens read with
    weights of their own. An even number of heads.
    """

    paper = "2004.05150"
    head_groups = 2

    def patterns(self) -> list[Pattern]:
        return [Window(self.window), Window(self.window, 1 + self.layer)]


@register("bigbird_etc")
class BigBirdETC(_Global):
    """Big Bird with global tokens of its own (Zaheer et al. 2020, arXiv 2007.14062): "etc" and random blocks.

    Args:
        site: where in the model it sits.
        window: w, ranks that a row sees on either side.
        num_globals: g.
        block: b, ranks per random block.
        num_random: r, random blocks that each block of rows reads.
        dim_feedforward: hidden width of the global tokens' feed-forward.
        init_stddev: standard deviation of the initial global tokens.
    """

    paper = "2007.14062"
    cost = "(nc + nt) (w + r b + g)"

    def __init__(
        self,
        site: Site,
        window: int = 16,
        num_globals: int = 8,
        block: int = 8,
        num_random: int = 2,
        dim_feedforward: int = 128,
        init_stddev: float = 1.0,
    ):
        super().__init__(site, window, num_globals, dim_feedforward, init_stddev)
        self.block, self.num_random = at_least("block", block, 1), at_least("num_random", num_random, 1)

    def patterns(self) -> list[Pattern]:
        return [WindowAndRandom(self.window, self.block, self.num_random, self.layer)]


class HubState(NamedTuple):
    """What rows see: the context in canonical order, the hubs' keys and values, and their ranks, `[b, g]`."""

    layouts: tuple[Layout, ...]
    hubs: KeyValue
    ranks: Tensor


@register("bigbird")
class BigBird(PatternMixer):
    """Big Bird (Zaheer et al. 2020, arXiv 2007.14062): a window, random blocks, and context points that are hubs.

    Hubs, evenly spaced over the ranks, are read by everyone and read everyone. Random blocks are a fixed function of
    layer and block. Time O((nc + nt) (w + r b + g) dz), state O(nc).

    Args:
        site: where in the model it sits.
        window: w, ranks that a row sees on either side.
        num_globals: g, context points that are hubs.
        block: b, ranks per random block.
        num_random: r, random blocks that each block of rows reads.
    """

    paper = "2007.14062"
    published = "n (w + g)"
    cost = "(nc + nt) (w + r b + g)"
    dense_limit = {"window": 10**6}

    def __init__(self, site: Site, window: int = 16, num_globals: int = 8, block: int = 8, num_random: int = 2):
        super().__init__(site)
        self.window, self.block = at_least("window", window, 1), at_least("block", block, 1)
        self.num_globals, self.num_random = (
            at_least("num_globals", num_globals, 1),
            at_least("num_random", num_random, 1),
        )

    def patterns(self) -> list[Pattern]:
        return [WindowAndRandom(self.window, self.block, self.num_random, self.layer, self.num_globals)]

    def summarise(self, ctx: Tokens, carry: Carry = None) -> tuple[HubState, Carry]:
        """Keys and values, and once more those of the hubs."""
        kv, (pattern,) = self.attention.project(ctx.h), self.patterns()
        ranks = hub_ranks(ctx.n, self.num_globals)
        slots = ranks.clamp_min(0)[:, None, :, None].expand(-1, kv.k.shape[1], -1, kv.k.shape[3])
        if ctx.h.shape[1] == 0:
            hubs = KeyValue(kv.k, kv.v, None)
        else:
            hubs = KeyValue(kv.k.gather(2, slots), kv.v.gather(2, slots), ranks >= 0)
        return HubState((lay_out(pattern, kv.k, kv.v, rows_of(ctx)),), hubs, ranks), carry

    def read(self, q: Tokens, state: HubState) -> Tensor:
        """One softmax over window, random blocks and hubs; over all of the context where the row is a hub itself."""
        heads, rows, (pattern,), (layout,) = self.attention.query(q.h), rows_of(q), self.patterns(), state.layouts
        near = attend_pattern(pattern, heads, rows, layout, attend_part)
        read = merge_parts(near, attend_part(heads, state.hubs.k, state.hubs.v, state.hubs.mask)).out
        if rows.own and rows.real.shape[1]:
            slots = state.ranks.clamp_min(0)[:, None, :, None].expand(-1, heads.shape[1], -1, heads.shape[3])
            whole = attend(heads.gather(2, slots), layout.k, layout.v, layout.real)
            old = read.gather(2, slots)
            is_hub = (state.ranks >= 0)[:, None, :, None]
            read = read.scatter_add(2, slots, torch.where(is_hub, whole.to(read.dtype) - old, torch.zeros_like(old)))
        return self.attention.merge(read)
