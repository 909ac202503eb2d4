"""Set convolutions: from scattered points to a lattice and back (Gordon et al. 2020, arXiv 1910.13556)."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from npexp.batch import count
from npexp.layers.grid import Lattice

# Density below which a place counts as unseen. It bounds what round-off can do: after a removal, sums that should be 0
# are about 1e-7 of what they were, and would otherwise be divided by one another.
FLOOR = 1e-3


class LatticeSums(NamedTuple):
    """Plain sums over points, see `ToLattice`.

    Args:
        sums: at every lattice point, `[b, 1 + dy, size, ..., size]`.
        count: number of points, `[b]`.
    """

    sums: Tensor
    count: Tensor


class ToLattice(nn.Module):
    """Sums of the points around each lattice point: channel 0 their density, the others their values.

    `out[c, g] = sum_i exp(-|x_i - u_g|^2 / (2 l^2)) v_ic` with `v_i0 = 1`. Sums are additive: those of two sets are
    the sums of both, in any order. The kernel factorises over axes, so that nothing of size n size^dx is ever held:
    time O(n size^dx dy), memory O(n size^(dx-1) dy). The length scale l is learned and starts at the lattice's spacing.

    Args:
        lattice: where to.
    """

    def __init__(self, lattice: Lattice):
        super().__init__()
        self.lattice = lattice
        self.log_scale = nn.Parameter(torch.tensor(lattice.spacing).log())

    def forward(
        self, x: Float[Tensor, "b n dx"], y: Float[Tensor, "b n dy"], mask: Bool[Tensor, "b n"] | None = None
    ) -> LatticeSums:
        """Sums over real points, in float32 or better."""
        with torch.autocast(x.device.type, enabled=False):  # which would round the sums
            x, y = (v.to(torch.promote_types(v.dtype, torch.float32)) for v in (x, y))
            values = torch.cat([torch.ones_like(y[..., :1]), y], -1)
            if mask is not None:
                values = torch.where(mask[..., None], values, torch.zeros_like(values))
            *first, last = (half_square.neg().exp() for half_square in _half_squares(x, self.lattice, self.log_scale))
            for w in first:
                values = (values[..., None] * w[:, :, None]).flatten(2)  # [b, n, c size^k]
            return LatticeSums((values.mT @ last).view(len(x), -1, *self.lattice.shape), count(mask, x))


class FromLattice(nn.Module):
    """Weighted means of the lattice points around each place, with weights exp(-|x - u_g|^2 / (2 l^2)), normalised.

    Time O(nt size^dx dz), memory O(nt size^(dx-1) dz). The length scale l is learned and starts at the spacing.

    Args:
        lattice: where from.
    """

    def __init__(self, lattice: Lattice):
        super().__init__()
        self.lattice = lattice
        self.log_scale = nn.Parameter(torch.tensor(lattice.spacing).log())

    def forward(self, grid: Float[Tensor, "*s b c g"], x: Float[Tensor, "b nt dx"]) -> Float[Tensor, "*s b nt c"]:
        """Rows of the places.

        Args:
            grid: channels over the lattice, its axes flattened, the last coordinate running fastest.
            x: the places.
        """
        # a softmax does not underflow where l is far below the spacing
        *first, last = (half.neg().softmax(-1).mT for half in _half_squares(x, self.lattice, self.log_scale))
        rows = grid.unflatten(-1, (-1, self.lattice.size)).flatten(-3, -2) @ last  # [*s, b, c size^k, nt]
        for w in reversed(first):
            rows = (rows.unflatten(-2, (-1, self.lattice.size)) * w[:, None]).sum(-2)
        return rows.mT


def mean_and_density(pooled: LatticeSums) -> Float[Tensor, "b c *g"]:
    """The density, on a logarithmic scale, and the mean value around each lattice point, 0 where there is none.

    Many points change the logarithm little, so that a network sees contexts of all sizes on one scale.
    """
    density, values = pooled.sums[:, :1], pooled.sums[:, 1:]
    density = density.clamp_min(0)  # round-off of removals
    return torch.cat([density.log1p(), values / (density + FLOOR)], 1)


def _half_squares(x: Tensor, lattice: Lattice, log_scale: Tensor) -> list[Tensor]:
    """Half the squared distances along each axis in units of the length scale, `[b, n, size]` each."""
    places = x[..., None] - lattice.axis(x)
    return list((places / log_scale.exp()).square().div(2).unbind(-2))
