"""Locality-sensitive hashing: rows read the context points whose keys point their way."""

from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from npexp.batch import real
from npexp.errors import at_least
from npexp.layers.groups import ROWS, group_rows
from npexp.mixers.base import Carry, Mixer, Site, Tokens, register
from npexp.ops.attention import Part, attend_part, merge_parts
from npexp.ops.blocks import attend_blocks, cover


class Hashed(NamedTuple):
    """Keys and where each of r rounds of hashing puts them.

    Args:
        k: keys of unit norm, `[b, h, nc, dh]`.
        v: values.
        order: which context point lies in each slot, sorted by bucket, then rank, `[b, h, r, nc]`.
        code: bucket of each context point, -1 where rows of its bucket do not see it, `[b, h, r, nc]`.
        first: slot where each bucket begins, and at last where the real ones end, `[b, h, r, buckets + 1]`.
    """

    k: Tensor
    v: Tensor
    order: Tensor
    code: Tensor
    first: Tensor


@register("reformer")
class Reformer(Mixer):
    """Reformer (Kitaev et al. 2020, arXiv 2001.04451): rows read the keys that hash to their own bucket.

    Queries are keys: a bucket is the nearest of a set of frozen random directions to the query, the context is sorted
    by (bucket, rank) and cut into chunks, and a row reads its bucket's points in the first two chunks that hold any.
    A context point reads itself only if it would read nothing else. What several rounds of hashing find is read as one
    set. A task has about nc / chunk buckets: up to `chunk` points this is one softmax over all of them.

    For sharp look-ups in long contexts, where points at any distance may matter. Time O((nc + nt) r c dz) after
    sorting, state O(nc). Buckets are not differentiable; "routing" learns where its centroids lie.

    Args:
        site: where in the model it sits.
        chunk: c, slots per chunk.
        rounds: r, hashings.
        num_buckets: most buckets of a task.
    """

    family = "learned"
    paper = "2001.04451"
    published = "n log(n)"
    cost = "(nc + nt) r c"
    permutation_invariant = False
    needs_order = True
    state = "grows"

    def __init__(self, site: Site, chunk: int = 32, rounds: int = 2, num_buckets: int = 64):
        super().__init__()
        self.chunk, self.rounds = at_least("chunk", chunk, 1), at_least("rounds", rounds, 1)
        self.num_buckets, self.num_heads = at_least("num_buckets", num_buckets, 1), site.num_heads
        self.to_q = nn.Linear(site.dz, site.dz, bias=False)
        self.to_v = nn.Linear(site.dz, site.dz, bias=False)
        self.to_out = nn.Linear(site.dz, site.dz)
        shape = (rounds, site.num_heads, site.dz // site.num_heads, -(-num_buckets // 2))
        self.register_buffer("directions", torch.randn(shape))

    def summarise(self, ctx: Tokens, carry: Carry = None) -> tuple[Hashed, Carry]:
        """Keys, values and their buckets."""
        q, v = self._split(self.to_q(ctx.h)), self._split(self.to_v(ctx.h))
        there = real(ctx.mask, ctx.h)[:, None, None]
        bucket = torch.where(there, self._bucket(q, ctx.n), self.num_buckets)
        codes, order = bucket.sort(dim=-1, stable=True)
        every = torch.arange(self.num_buckets + 1, device=q.device).repeat(*codes.shape[:3], 1)
        first = torch.searchsorted(codes, every)
        seen = order.argsort(-1) < self._end(first).gather(-1, bucket)
        return Hashed(normalize(q, dim=-1), v, order, torch.where(seen & there, bucket, -1), first), carry

    def read(self, q: Tokens, state: Hashed) -> Tensor:
        """Each row's softmax over all that any round finds for it."""
        heads = self._split(self.to_q(q.h))
        bucket, slot = self._bucket(heads, q.n), torch.full_like(q.h[..., 0], -1).long() if q.slot is None else q.slot
        slot = slot[:, None].expand(heads.shape[:3])
        found = reduce(merge_parts, (self._round(i, heads, bucket, slot, state) for i in range(self.rounds)))
        read = found.out
        if q.slot is not None:
            own = state.v.gather(2, slot[..., None].expand_as(read))
            read = torch.where(found.lse[..., None] == -torch.inf, own, read)
        return self.to_out(read.transpose(1, 2).flatten(2).to(self.to_out.weight.dtype))

    def _round(self, i: int, q: Tensor, bucket: Tensor, slot: Tensor, state: Hashed) -> Part:
        """What round i finds and none before it has; heads are tasks of their own here, as their orders differ.

        That no pair is counted twice equals the published subtraction of log-multiplicities.
        """
        k, v, order, code, first = (t.flatten(0, 1) for t in state)
        nc, order, first, bucket = order.shape[2], order[:, i], first[:, i], bucket.flatten(0, 1)
        k, v = (t.gather(1, order[..., None].expand_as(t))[:, None] for t in (k, v))
        size = max(min(q.shape[2] // max(min(nc // self.chunk, self.num_buckets), 1), ROWS), 1)
        groups = group_rows(bucket[:, i], self.num_buckets, size)
        low = first[:, :-1].gather(1, groups.label)
        high = torch.minimum(first[:, 1:], self._end(first)[:, :-1]).gather(1, groups.label) - 1
        there, own = [groups.fill(bucket[:, r]) for r in range(i + 1)], groups.fill(slot.flatten(0, 1))

        def allowed(slots: Tensor, some: slice) -> Tensor:
            index = order.gather(1, slots.flatten(1))
            found, *before = (
                there[r][:, some, :, None] == code[:, r].gather(1, index).view(slots.shape)[:, :, None]
                for r in range(i, -1, -1)
            )
            other = own[:, some, :, None] != index.view(slots.shape)[:, :, None]
            return reduce(lambda new, old: new & ~old, before, found & other)

        table = cover(low[..., None], high[..., None], self.chunk, nc)
        rows = groups.fill(q.flatten(0, 1))[:, None]
        part = attend_blocks(rows, k, v, table, allowed, self.chunk, attend_part)
        return Part(*(groups.take(t[:, 0]).unflatten(0, q.shape[:2]) for t in part))

    def _bucket(self, q: Tensor, n: Tensor) -> Tensor:
        """Which direction or its opposite is nearest, among as many as a task of n points has: `[b, h, r, m]`."""
        with torch.no_grad(), torch.autocast(q.device.type, enabled=False):
            along = torch.einsum("bhmd,rhdk->bhrmk", q.to(self.directions.dtype), self.directions)
            along = torch.stack([along, -along], -1).flatten(-2)
            count = (-(-n // self.chunk)).clamp(1, self.num_buckets)
            out = torch.arange(along.shape[-1], device=n.device) >= count[:, None, None, None, None]
            return along.masked_fill(out, -torch.inf).argmax(-1)

    def _end(self, first: Tensor) -> Tensor:
        """Where the second chunk ends, of those that hold a bucket which begins at slot `first`."""
        return (first // self.chunk + 2) * self.chunk

    def _split(self, h: Tensor) -> Tensor:
        h = h.to(torch.promote_types(h.dtype, torch.float32))
        return h.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
