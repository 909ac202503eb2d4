"""Locality-sensitive hashing: rows read the context points whose keys point their way."""

from functools import reduce
from math import isqrt
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, pad

from npexp.batch import real
from npexp.errors import at_least
from npexp.layers.groups import ROWS, group_rows
from npexp.layers.pattern import NOWHERE
from npexp.mixers.base import Carry, Mixer, Site, Tokens, register
from npexp.mixers.pattern import rows_of
from npexp.mixers.windows import below, root
from npexp.ops.attention import Part, attend_part, merge_parts
from npexp.ops.blocks import attend_blocks, cover


class Hashed(NamedTuple):
    """Keys and where each of r rounds of hashing puts them.

    Args:
        k: keys of unit norm, `[b, h, nc, dh]`.
        v: values.
        code: bucket times nc plus rank of the context points, sorted, `[b, h, r, nc]`.
        cell: which chunk each context point is in, `[b, h, r, nc]`: from 2 on, with a number left out in front of each
            bucket, so that a number and the one below are a chunk and the previous one of its bucket.
    """

    k: Tensor
    v: Tensor
    code: Tensor
    cell: Tensor


@register("reformer")
class Reformer(Mixer):
    """Reformer (Kitaev et al. 2020, arXiv 2001.04451): rows read the keys that hash to their own bucket.

    Queries are keys: a bucket is the pair of directions nearest to the query, one from each of two sets of frozen
    random ones. The points of a bucket are cut into chunks by rank, and a row, context or target, reads the chunk of
    its own rank and the one before, so that a bucket that overflows hides nothing. A context point reads itself only
    if it would read nothing else. What several rounds of hashing find is read as one set. A task has about nc / chunk
    buckets: up to `chunk` points this is one softmax over all of them.

    For sharp look-ups in long contexts, where points at any distance may matter. Time O((nc + nt) r c dz) after
    hashing and sorting, which take O(sqrt(nc / c) + log(nc)) per row and head; state O(nc). Buckets are not
    differentiable; "routing" learns where its centroids lie.

    Args:
        site: where in the model it sits.
        chunk: c, points per chunk.
        rounds: r, hashings.
        num_buckets: most buckets of a task, by default enough for millions of points.
    """

    family = "learned"
    paper = "2001.04451"
    published = "n log(n)"
    cost = "(nc + nt) r c"
    permutation_invariant = False
    needs_order = True
    state = "grows"

    def __init__(self, site: Site, chunk: int = 32, rounds: int = 2, num_buckets: int = 2**16):
        super().__init__()
        self.chunk, self.rounds = at_least("chunk", chunk, 1), at_least("rounds", rounds, 1)
        self.num_buckets, self.num_heads = at_least("num_buckets", num_buckets, 1), site.num_heads
        self.to_q = nn.Linear(site.dz, site.dz, bias=False)
        self.to_v = nn.Linear(site.dz, site.dz, bias=False)
        self.to_out = nn.Linear(site.dz, site.dz)
        shape = (2, rounds, site.num_heads, site.dz // site.num_heads, -(-_root(num_buckets) // 2))
        self.register_buffer("directions", normalize(torch.randn(shape), dim=-2))  # no long one attracts more

    def summarise(self, ctx: Tokens, carry: Carry = None) -> tuple[Hashed, Carry]:
        """Keys, values and their chunks."""
        q, v, nc = self._split(self.to_q(ctx.h)), self._split(self.to_v(ctx.h)), max(ctx.h.shape[1], 1)
        bucket = torch.where(real(ctx.mask, ctx.h)[:, None, None], self._bucket(q, ctx.n, nc), self._bound(nc))
        index = torch.arange(ctx.h.shape[1], device=q.device)
        code = (bucket * nc + index).sort(-1)[0]
        behind = index - torch.searchsorted(code, code // nc * nc)  # rank within the bucket
        cell = ((behind % self.chunk == 0).long() + (behind == 0)).cumsum(-1)
        return Hashed(normalize(q, dim=-1), v, code, cell.gather(-1, (code % nc).argsort(-1))), carry

    def read(self, q: Tokens, state: Hashed) -> Tensor:
        """Each row's softmax over all that any round finds for it."""
        heads = self._split(self.to_q(q.h))
        cell, slot = self._cell(heads, q, state), torch.full_like(q.h[..., 0], -1).long() if q.slot is None else q.slot
        slot = slot[:, None].expand(heads.shape[:3])
        found = reduce(merge_parts, (self._round(i, heads, cell, slot, state) for i in range(self.rounds)))
        read = found.out
        if q.slot is not None:
            own = state.v.gather(2, slot[..., None].expand_as(read))
            read = torch.where(found.lse[..., None] == -torch.inf, own, read)
        return self.to_out(read.transpose(1, 2).flatten(2).to(self.to_out.weight.dtype))

    def _round(self, i: int, q: Tensor, cell: Tensor, slot: Tensor, state: Hashed) -> Part:
        """What round i finds and none before it has; heads are tasks of their own here, as their orders differ.

        That no pair is counted twice equals the published subtraction of log-multiplicities.
        """
        k, v, code, cells = (t.flatten(0, 1) for t in state)
        cell, nc = cell.flatten(0, 1), code.shape[2]
        order = code[:, i] % max(nc, 1)
        k, v = (t.gather(1, order[..., None].expand_as(t))[:, None] for t in (k, v))
        chunks = nc // self.chunk
        size = max(min(q.shape[2] // max(chunks, 1), ROWS), 1)
        groups = group_rows(cell[:, i].contiguous(), chunks + 2 * self._bound(nc) + 4, size)
        ascending = cells[:, i].gather(1, order)
        low = torch.searchsorted(ascending, groups.label - 1)
        high = torch.searchsorted(ascending, groups.label, right=True) - 1
        there = [groups.fill(cell[:, r]).flatten(0, 1) for r in range(i + 1)]
        own = groups.fill(slot.flatten(0, 1)).flatten(0, 1)

        def allowed(slots: Tensor, some: Tensor) -> Tensor:
            task = (some // groups.label.shape[1])[:, None]
            index = order[task, slots]
            back = (there[r][some][..., None] - cells[task, r, index][:, None] for r in range(i, -1, -1))
            found, *before = ((steps == 0) | (steps == 1) for steps in back)
            other = own[some][..., None] != index[:, None]
            return reduce(lambda new, old: new & ~old, before, found & other)

        table = cover(low[..., None], high[..., None], self.chunk, nc)
        rows = groups.fill(q.flatten(0, 1))[:, None]
        part = attend_blocks(rows, k, v, table, allowed, self.chunk, attend_part)
        return Part(*(groups.take(t[:, 0]).unflatten(0, q.shape[:2]) for t in part))

    def _cell(self, heads: Tensor, q: Tokens, state: Hashed) -> Tensor:
        """The chunk of the last point of each row's bucket up to its rank, or of the first; 0 for none at all."""
        code, nc = state.code, max(state.code.shape[3], 1)
        start = self._bucket(heads, q.n, nc) * nc
        rank = below(rows_of(q))[:, None, None]
        last = torch.searchsorted(code, start + rank, right=True) - 1
        place = torch.maximum(last, torch.searchsorted(code, start))
        code, cell = pad(code, (0, 1), value=NOWHERE), pad(state.cell.gather(-1, code % nc), (0, 1))
        return torch.where(code.gather(-1, place) // nc * nc == start, cell.gather(-1, place), 0)

    def _bucket(self, q: Tensor, n: Tensor, nc: int) -> Tensor:
        """Bucket of each row in a task of n points, nc at most: `[b, h, r, m]`.

        Which direction or its opposite is nearest, among as many of both sets as give the task its buckets.
        """
        most = -(-_root(min(-(-nc // self.chunk), self.num_buckets)) // 2)
        with torch.no_grad(), torch.autocast(q.device.type, enabled=False):
            along = torch.einsum("bhmd,trhdk->tbhrmk", q.to(self.directions.dtype), self.directions[..., :most])
            along = torch.stack([along, -along], -1).flatten(-2)
            count = (-(-n // self.chunk)).clamp(1, self.num_buckets)
            first = root(count)[:, 0]
            sizes = torch.stack([first, -(-count // first)])[..., None, None, None]
            out = torch.arange(along.shape[-1], device=n.device) >= sizes[..., None]
            high, low = along.masked_fill(out, -torch.inf).argmax(-1)
            return high * sizes[1] + low

    def _bound(self, nc: int) -> int:
        """No task of nc points has more buckets than this."""
        count = min(-(-nc // self.chunk), self.num_buckets)
        return count + _root(count)

    def _split(self, h: Tensor) -> Tensor:
        h = h.to(torch.promote_types(h.dtype, torch.float32))
        return h.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


def _root(n: int) -> int:
    """The square root of n, rounded up."""
    return isqrt(max(n - 1, 0)) + 1
