"""Softmax attention of rows over a few blocks of keys each: what every sparse pattern comes down to.

Keys lie in slots that are cut into blocks of equal size. A group of rows shares a list of blocks; these are gathered,
and a predicate says which of their keys each row may attend to. Time and memory O(rows x keys gathered), whatever the
number of keys there are, with ordinary gradients on every device.
"""

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
    v: Float[Tensor, "b h n dh"],
    table: Int[Tensor, "b g t"],
    allowed: Callable[[Tensor, slice], Tensor],
    size: int,
    using: Callable[..., Any] = attend,
) -> Any:
    """Attention of g groups of r rows over the blocks in their table: O(g r t size dh); 0 for a row without keys.

    Args:
        q: queries.
        k: keys in slots.
        v: values in slots.
        table: blocks that each group reads, from `cover`; -1 for none.
        allowed: from slots `[b, g', l]` and the slice of groups they belong to, to which of them each row may attend
            to, `[b, g', r, l]`. Slots behind the last key never count.
        size: slots per block.
        using: `attend`, whose result is `[b, h, g, r, dh]`, or a function of the same arguments whose result is a
            NamedTuple of tensors `[b, h, g, r, ...]`, such as `attend_part`.
    """
    (b, h, groups, _, dh), (n, t) = q.shape, (k.shape[2], table.shape[2])
    blocks = max(-(-n // size), 1)
    packed = pad(torch.stack([k, v.to(k.dtype)], -2).transpose(1, 2), (0, 0, 0, 0, 0, 0, 0, blocks * size - n))
    packed = packed.reshape(b * blocks, size * h * 2 * dh)
    start = blocks * torch.arange(b, device=q.device)[:, None, None]
    within = torch.arange(size, device=q.device)
    step = max(GATHERED // max(b * t * size * h * dh, 1), 1)
    found = []
    for i in range(0, max(groups, 1), step):
        some = slice(i, i + step)
        listed = table[:, some]
        own = packed.index_select(0, (start + listed.clamp_min(0)).flatten())
        own = own.reshape(b * listed.shape[1], t * size, h, 2, dh).transpose(1, 2)
        slots = torch.where(listed[..., None] >= 0, listed[..., None] * size + within, n).flatten(2)
        mask = (allowed(slots.clamp_max(max(n - 1, 0)), some) & (slots < n)[:, :, None]).flatten(0, 1)
        rows = q[:, :, some].movedim(2, 1).flatten(0, 1)
        found.append(using(rows, own[..., 0, :], own[..., 1, :], mask))
    if isinstance(found[0], Tensor):
        return _join(found, b)
    return type(found[0])(*(_join(parts, b) for parts in zip(*found, strict=True)))


def _join(chunks: Sequence[Tensor], b: int) -> Tensor:
    """Chunks `[b g', h, r, ...]` as one `[b, h, g, r, ...]`."""
    return torch.cat([chunk.unflatten(0, (b, -1)) for chunk in chunks], 1).transpose(1, 2)
