"""The canonical order of a context set: one layout for every permutation of the same points.

Sorting at the entry makes any mixer permutation-invariant bit for bit, provided that ties are broken by content. In
one dimension points are sorted by x. In d dimensions they follow a Morton (Z-order) curve of cells with a fixed side
around the task's centre-free origin 0, so that adding a point never reshuffles the others.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

CELL = 2.0**-10  # side of a Morton cell, in units of x; finer differences are resolved by the tie-break on x
BOX = 8.0  # the cells reach at least that far from 0: where there are too few bits for that they are larger


def curve_key(x: Float[Tensor, "b n dx"]) -> Tensor:
    """Position along the curve, `[b, n]`: x itself in one dimension, an int64 Morton code otherwise.

    With dx axes each gets 63 // dx bits, so codes say little beyond about six dimensions.
    """
    dx = x.shape[-1]
    if dx == 1:
        return x[..., 0]
    bits = 63 // dx
    half = 1 << (bits - 1)
    cells = (x.double() / max(CELL, BOX / half)).floor().clamp(-half, half - 1).long() + half
    code = torch.zeros_like(cells[..., 0])
    for bit in range(bits):
        for axis in range(dx):
            code |= ((cells[..., axis] >> bit) & 1) << (bit * dx + axis)
    return code


def canonical_order(
    x: Float[Tensor, "b n dx"], y: Float[Tensor, "b n dy"], mask: Bool[Tensor, "b n"] | None = None
) -> Int[Tensor, "b n"]:
    """Indices that sort points by curve key, then x, then y, with padded slots last: O(n log n) per task."""
    columns = [curve_key(x), *x.unbind(-1), *y.unbind(-1)]
    order = torch.arange(x.shape[1], device=x.device).expand(x.shape[:2])
    for column in reversed(columns):  # stable sorts, least significant key first
        order = order.gather(1, column.gather(1, order).argsort(dim=1, stable=True))
    if mask is not None:
        order = order.gather(1, (~mask).gather(1, order).to(torch.uint8).argsort(dim=1, stable=True))
    return order


def target_rank(sorted_keys: Tensor, keys: Tensor, n: Int[Tensor, " b"]) -> Tensor:
    """Rank of each target among the context, `[b, nt]`: (context keys <= target key) - 1/2.

    Args:
        sorted_keys: the context's curve keys in canonical order, `[b, nc]`.
        keys: the targets' curve keys, `[b, nt]`.
        n: real context points, `[b]`.
    """
    slots = torch.arange(sorted_keys.shape[1], device=keys.device)
    top = torch.finfo(keys.dtype).max if keys.is_floating_point() else torch.iinfo(keys.dtype).max
    padded = torch.where(slots < n[:, None], sorted_keys, torch.full_like(sorted_keys, top))
    rank = torch.searchsorted(padded.contiguous(), keys.contiguous(), right=True)
    return torch.minimum(rank, n[:, None]) - 0.5
