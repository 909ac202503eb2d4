"""Knots: G rows at fixed places of a task's order, so that operators of one length serve contexts of any.

A point of rank r among n has the quantile u = (r + 1/2) / n; knot g sits at u = (g + 1/2) / G. With n = G points and
knots coincide. Both ways are products with a matrix of hat functions, which on every device sums in one order; a
scatter would not.
"""

import torch
from jaxtyping import Bool, Float, Int, Real
from torch import Tensor


def knot_weights(
    pos: Real[Tensor, "b n"], n: Int[Tensor, " b"], num_knots: int, dtype: torch.dtype
) -> Float[Tensor, "b n g"]:
    """Weights of linear interpolation between the knots; each row sums to 1, beyond the outermost knots too."""
    return _hats(_place(pos, n, num_knots, dtype).clamp(0, num_knots - 1), num_knots, 1)


def to_knots(
    h: Float[Tensor, "b n d"],
    pos: Real[Tensor, "b n"],
    n: Int[Tensor, " b"],
    mask: Bool[Tensor, "b n"] | None,
    num_knots: int,
) -> Float[Tensor, "b g d"]:
    """Each knot's average of the points near it, weighted by relu(1 - |u_j - u_g| / max(1/G, 1/n)): O(n G d).

    In float32 or better. No knot goes empty, however few points there are; without any they are 0.

    Args:
        h: rows of the points; those of padded ones may hold anything.
        pos: ranks.
        n: real points.
        mask: real rows.
        num_knots: G.
    """
    dtype = torch.promote_types(h.dtype, torch.float32)
    with torch.autocast(h.device.type, enabled=False):
        width = (num_knots / n.to(dtype)).clamp(1, num_knots)
        weights, h = _hats(_place(pos, n, num_knots, dtype), num_knots, width[:, None, None]), h.to(dtype)
        if mask is not None:
            weights, h = (torch.where(mask[..., None], t, torch.zeros_like(t)) for t in (weights, h))
        total = weights.sum(1)
        return weights.mT @ h / torch.where(total > 0, total, torch.ones_like(total))[..., None]


def from_knots(rows: Float[Tensor, "b g d"], pos: Real[Tensor, "b n"], n: Int[Tensor, " b"]) -> Float[Tensor, "b n d"]:
    """Rows of the knots, linearly interpolated at each rank: O(n G d)."""
    with torch.autocast(rows.device.type, enabled=False):
        return knot_weights(pos, n, rows.shape[1], rows.dtype) @ rows


def to_knots_naive(h: Tensor, pos: Tensor, n: Tensor, mask: Tensor | None, num_knots: int) -> Tensor:
    """Twin of `to_knots` that goes through tasks and knots, and writes in quantiles."""
    knots = h.new_zeros(len(h), num_knots, h.shape[-1])
    for i, count in enumerate(n.tolist()):
        keep = torch.ones_like(pos[i], dtype=torch.bool) if mask is None else mask[i]
        for g in range(num_knots if count else 0):
            distance = ((pos[i][keep].to(h.dtype) + 0.5) / count - (g + 0.5) / num_knots).abs()
            w = (1 - distance / max(1 / num_knots, 1 / count)).relu()
            knots[i, g] = (w[:, None] * h[i][keep]).sum(0) / w.sum()
    return knots


def from_knots_naive(rows: Tensor, pos: Tensor, n: Tensor) -> Tensor:
    """Twin of `from_knots` that looks up the two nearest knots of every row."""
    last = rows.shape[1] - 1
    out = []
    for i in range(len(rows)):
        for r in pos[i].tolist():
            place = min(max((r + 0.5) / max(int(n[i]), 1) * (last + 1) - 0.5, 0), last)
            low = int(place)
            out.append((1 - place + low) * rows[i, low] + (place - low) * rows[i, min(low + 1, last)])
    return torch.stack(out).unflatten(0, pos.shape)


def _place(pos: Tensor, n: Tensor, num_knots: int, dtype: torch.dtype) -> Tensor:
    """Where ranks lie among the knots, which are at 0 .. G-1, `[b, n]`."""
    return (pos.to(dtype) + 0.5) * (num_knots / n.clamp_min(1).to(dtype))[:, None] - 0.5


def _hats(place: Tensor, num_knots: int, width: Tensor | int) -> Tensor:
    knots = torch.arange(num_knots, device=place.device, dtype=place.dtype)
    return (1 - (place[..., None] - knots).abs() / width).clamp_min(0)
