"""Pooling of consecutive ranks: every `size` context points become one, the last ones also where they are fewer.

Real points come first. Only they count: what padding holds is never looked at, and a group that lacks some is scaled to
what a full one would give.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import pad


def mean_ranks(
    t: Float[Tensor, "b *h n d"], size: int, mask: Bool[Tensor, "b n"] | None = None
) -> Float[Tensor, "b *h m d"]:
    """Means of ranks (p size, ..., p size + size - 1), m = n / size rounded up; 0 for a group of pads: O(n d).

    Args:
        t: rows in order, perhaps with an axis of heads.
        size: ranks per group.
        mask: real rows. Groups are real where their first rank is, `mask[:, ::size]`.
    """
    groups, count = _in_groups(t, size, mask)
    return (groups.sum(-2) / count).to(t.dtype)


def mean_ranks_naive(t: Tensor, size: int, mask: Tensor | None = None) -> Tensor:
    """Twin of `mean_ranks` that takes one group of one task after the other."""
    return _one_by_one(t, size, mask, lambda rows: rows.mean(-2))


def convolve_ranks(
    t: Float[Tensor, "b *h n d"], weight: Float[Tensor, "*h size d e"], mask: Bool[Tensor, "b n"] | None = None
) -> Float[Tensor, "b *h m e"]:
    """Convolution of stride `size`, sum_i W_i t_(p size + i) over real rows, times size / how many there are.

    O(n d e), in float32 or better. With W_i = I / size it is `mean_ranks`.

    Args:
        t: rows in order, perhaps with an axis of heads.
        weight: one map for each rank of a group, for each head.
        mask: real rows.
    """
    groups, count = _in_groups(t, weight.shape[-3], mask)
    with torch.autocast(t.device.type, enabled=False):
        return groups.flatten(-2) @ weight.flatten(-3, -2).to(groups.dtype) * (weight.shape[-3] / count)


def convolve_ranks_naive(t: Tensor, weight: Tensor, mask: Tensor | None = None) -> Tensor:
    """Twin of `convolve_ranks` that takes one group of one task after the other."""
    size = weight.shape[-3]

    def convolve(rows: Tensor) -> Tensor:
        taps = [rows[..., i : i + 1, :] @ weight[..., i, :, :] for i in range(rows.shape[-2])]
        return torch.stack(taps).sum(0)[..., 0, :] * (size / len(taps))

    return _one_by_one(t, size, mask, convolve)


def _real(t: Tensor, mask: Tensor | None) -> Tensor:
    """The mask, spelt out where None says that all rows are real."""
    return torch.ones(t.shape[0], t.shape[-2], dtype=torch.bool, device=t.device) if mask is None else mask


def _in_groups(t: Tensor, size: int, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Rows `[b, *h, m, size, d]`, zeros for pads, and how many of each group are real, at least 1, `[b, *1, m, 1]`."""
    there = _real(t, mask)
    if t.ndim == 4:
        there = there[:, None]
    t = t.to(torch.promote_types(t.dtype, torch.float32))
    if mask is not None:
        t = torch.where(there[..., None], t, torch.zeros_like(t))
    lacking = -t.shape[-2] % size
    t, there = pad(t, (0, 0, 0, lacking)), pad(there, (0, lacking))
    count = there.unflatten(-1, (-1, size)).sum(-1).clamp_min(1)
    return t.unflatten(-2, (-1, size)), count[..., None].to(t.dtype)


def _one_by_one(t: Tensor, size: int, mask: Tensor | None, pool: Callable[[Tensor], Tensor]) -> Tensor:
    counts, starts = _real(t, mask).sum(1).tolist(), range(0, t.shape[-2], size)
    empty = torch.zeros_like(pool(t[0, ..., :1, :]))

    def group(rows: Tensor, n: int, start: int) -> Tensor:
        return pool(rows[..., start : min(start + size, n), :]) if start < n else empty

    pooled = [torch.stack([group(rows, n, i) for i in starts], -2) for rows, n in zip(t, counts, strict=True)]
    return torch.stack(pooled)
