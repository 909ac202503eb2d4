"""Moments of a data set: what a linear regression remembers of it."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor


class Moments(NamedTuple):
    """Plain sums over points, so that data sets are joined by adding and taken apart by subtracting.

    Args:
        gram: the lower triangle of G = sum phi phi', row by row, `[b, m (m + 1) / 2]`.
        cross: S = sum phi y', `[b, m, dy]`.
        total: sum y, `[b, dy]`.
        square: sum y^2, `[b, dy]`.
        count: number of points, or what is left of them after `decay`, `[b]`.
    """

    gram: Tensor
    cross: Tensor
    total: Tensor
    square: Tensor
    count: Tensor


def moments(
    phi: Float[Tensor, "b n m"], y: Float[Tensor, "b n dy"], mask: Bool[Tensor, "b n"] | None = None
) -> Moments:
    """The sums over real points, O(n m^2); padded slots of y hold zeros."""
    if mask is None:
        count = phi.new_full((len(phi),), phi.shape[1])
    else:
        count = mask.sum(1).to(phi)
        phi = torch.where(mask[..., None], phi, torch.zeros_like(phi))
    i, j = torch.tril_indices(phi.shape[-1], phi.shape[-1], device=phi.device)
    return Moments((phi.mT @ phi)[:, i, j], phi.mT @ y, y.sum(1), y.square().sum(1), count)


def symmetric(triangle: Float[Tensor, "b t"], m: int) -> Float[Tensor, "b m m"]:
    """The symmetric matrix of which this is the lower triangle, row by row."""
    i = torch.arange(m, device=triangle.device)
    low, high = torch.minimum(i[:, None], i), torch.maximum(i[:, None], i)
    return triangle[:, (high * (high + 1) // 2 + low).flatten()].unflatten(-1, (m, m))
