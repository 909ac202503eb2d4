"""Softmax attention of rows over a few blocks of keys each: what every sparse pattern comes down to.

Keys lie in slots that are cut into blocks of equal size. A group of rows shares a list of blocks; these are gathered,
and a predicate says which of their keys each row may attend to. Time and memory O(rows x keys gathered), whatever the
number of keys there are, with ordinary gradients on every device.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from npexp.ops.attention import attend

GATHERED = 2**23  # numbers that are gathered at a time


def cover(low: Int[Tensor, "b g s"], high: Int[Tensor, "b g s"], size: int, num_slots: int) -> Int[Tensor, "b g t"]:
    """The blocks that s intervals of slots touch, in a table padded with -1; none is listed twice.

    Args:
        low: first slot of each interval; may be negative.
        high: last slot of each interval; below `low` for an empty one.
        size: slots per block.
        num_slots: how many slots there are.
    """
    low, high = low.clamp_min(0), high.clamp_max(num_slots - 1)
    if not low.numel():
        return low[..., :0]
    first, order = (low // size).sort(-1)
    last = torch.where(high >= low, high // size, -1).gather(2, order)
    # in order of their first blocks, each interval adds what lies behind all those in front of it
    reached = last.cummax(-1)[0]
    first[..., 1:] = torch.maximum(first[..., 1:], reached[..., :-1] + 1)
    added = (last - first + 1).clamp_min(0)
    until = added.cumsum(-1)
    place = torch.arange(int(until[..., -1].max()), device=low.device).expand(*low.shape[:2], -1).contiguous()
    source = torch.searchsorted(until, place, right=True)
    inside = source < low.shape[2]
    source = source.clamp_max(low.shape[2] - 1)
    table = first.gather(2, source) + place - (until - added).gather(2, source)
    return torch.where(inside, table, -1)


def attend_blocks(
    q: Float[Tensor, "b h g r dh"],
    k: Float[Tensor, "b h n dh"],
    v: Float[Tensor, "b h n dv"],
    table: Int[Tensor, "b g t"],
    allowed: Callable[[Tensor, Tensor], Tensor],
    size: int,
    using: Callable[..., Any] = attend,
) -> Any:
    """Attention of g groups of r rows over the blocks in their table: O(g r t size dh); 0 for a row without keys.

    Groups with lists of similar length are taken together, so that one long list is no burden to the others.

    Args:
        q: queries.
        k: keys in slots.
        v: values in slots.
        table: blocks that each group reads, from `cover`; -1 for none.
        allowed: from slots `[c, l]` of some groups, and which these are, `[c]`, as numbers below b g, to which of the
            slots each row may attend, `[c, r, l]`. Slots behind the last key never count.
        size: slots per block.
        using: `attend`, whose result is `[b, h, g, r, dh]`, or a function of the same arguments whose result is a
            NamedTuple of tensors `[b, h, g, r, ...]`, such as `attend_part`.
    """
    (b, h, groups), (n, dh) = q.shape[:3], k.shape[2:]
    blocks = max(-(-n // size), 1)
    packed = pad(torch.cat([k, v.to(k.dtype)], -1).transpose(1, 2), (0, 0, 0, 0, 0, blocks * size - n))
    packed = packed.reshape(b * blocks, -1)
    rows, table = q.transpose(1, 2).flatten(0, 1), table.flatten(0, 1)
    start = blocks * torch.arange(b, device=q.device).repeat_interleave(groups)[:, None]
    within = torch.arange(size, device=q.device)
    found, parts = [], _chunks(table, packed.shape[1])
    for some, longest in parts:
        listed = table[some, :longest]
        own = packed.index_select(0, (start[some] + listed.clamp_min(0)).flatten())
        own = own.reshape(len(some), longest * size, h, k.shape[3] + v.shape[3]).transpose(1, 2)
        slots = torch.where(listed[..., None] >= 0, listed[..., None] * size + within, n).flatten(1)
        mask = allowed(slots.clamp_max(max(n - 1, 0)), some) & (slots < n)[:, None]
        found.append(using(rows.index_select(0, some), own[..., :dh], own[..., dh:], mask))
    back = torch.cat([some for some, _ in parts]).argsort()

    def join(chunks: Sequence[Tensor]) -> Tensor:
        """Chunks `[c, h, r, ...]` as one `[b, h, g, r, ...]`."""
        return torch.cat(list(chunks)).index_select(0, back).unflatten(0, (b, groups)).transpose(1, 2)

    if isinstance(found[0], Tensor):
        return join(found)
    return type(found[0])(*(join(chunks) for chunks in zip(*found, strict=True)))


def _chunks(table: Tensor, weight: int) -> list[tuple[Tensor, int]]:
    """Which groups are taken together, `[c]`, and how many blocks the longest of their lists has; at least one chunk.

    Lists in a chunk differ in length by a factor of two at most, and its keys and values, `weight` numbers per block,
    fit into what may be gathered at a time.
    """
    listed = (table >= 0) * torch.arange(1, table.shape[1] + 1, device=table.device)
    lengths, order = pad(listed, (1, 0)).amax(1).sort(descending=True, stable=True)
    ordered, chunks, i = lengths.tolist(), [], 0
    while i < len(ordered) or not chunks:
        longest = ordered[i] if ordered else 0
        most = min(len(ordered), i + max(GATHERED // max(longest * weight, 1), 1))
        j = bisect_right(ordered, -longest / 2, i, most, key=lambda length: -length)
        chunks.append((order[i:j], longest))
        i = j
    return chunks
