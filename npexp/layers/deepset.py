"""Deep sets: a mean over points between two row-wise networks."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from npexp.batch import count
from npexp.layers.mlp import mlp


class Pool(NamedTuple):
    """A mean that can be taken apart again.

    Args:
        total: the sum, `[b, dz]`.
        count: number of points, int64, or the sum of their weights once some have decayed, `[b, 1]`.
    """

    total: Tensor
    count: Tensor

    @property
    def mean(self) -> Tensor:
        """`[b, dz]`; 0 for an empty set."""
        return self.total / torch.where(self.count > 0, self.count, 1)


class DeepSet(nn.Module):
    """rho(mean_i phi(p_i)) (Zaheer et al. 2017, arXiv 1703.06114): time O(n), state O(1), insert and remove exact.

    Args:
        dim_in: size of a point.
        dz: hidden width.
        dim_out: size of the summary.
        depth_phi: linear layers before the mean.
        depth_rho: linear layers after it.
    """

    def __init__(self, dim_in: int, dz: int, dim_out: int, depth_phi: int = 4, depth_rho: int = 2):
        super().__init__()
        self.phi = mlp(dim_in, dz, dz, depth_phi)
        self.rho = mlp(dz, dz, dim_out, depth_rho)

    def pool(self, points: Float[Tensor, "b n d"], mask: Bool[Tensor, "b n"] | None = None) -> Pool:
        """Sum of phi over real points, in float32 or better."""
        return pool_rows(self.phi(points), mask)

    def summary(self, pool: Pool) -> Float[Tensor, "b e"]:
        """rho of the mean."""
        return self.rho(pool.mean.to(next(self.rho.parameters()).dtype))


def pool_rows(h: Float[Tensor, "b n dz"], mask: Bool[Tensor, "b n"] | None = None) -> Pool:
    """Sum and number of the real rows."""
    h = h.to(torch.promote_types(h.dtype, torch.float32))
    if mask is not None:
        h = torch.where(mask[..., None], h, torch.zeros_like(h))
    return Pool(h.sum(1), count(mask, h)[:, None])
