"""Convolutional conditional neural process."""

from collections.abc import Sequence

from torch import Tensor

from npexp.errors import at_least
from npexp.layers.grid import Lattice
from npexp.layers.setconv import FromLattice, LatticeSums, ToLattice, mean_and_density
from npexp.layers.unet import UNet
from npexp.likelihoods import Likelihood, Predictive
from npexp.models.additive import AdditiveNeuralProcess
from npexp.models.base import Points, State


class ConvCNP(AdditiveNeuralProcess):
    """Context points smeared onto a lattice, a U-Net over it, read at the targets (Gordon et al. 2020).

    arXiv 1910.13556. With a low-rank likelihood it is the ConvGNP (Markou et al. 2022, arXiv 2203.08775). Use it for
    signals, images and fields of up to three dimensions whose laws are the same everywhere; where inputs have more
    dimensions or no known range, use a Transformer. Data on a grid are no special case: with `points_per_unit` of the
    grid, pixels fall on lattice points, and a missing pixel is a place without density, not one of value 0.

    The state is two sums per lattice point, so updates and removals are exact and cost only their own points; removed
    points leave round-off behind, about 1e-7 of what was there. The U-Net runs in `predict`, so a stream pays for it
    once, and one call with many targets is cheaper than many calls.

    The lattice is fixed, as predictions may depend neither on other targets nor on other tasks, and inputs outside the
    domain are refused. Shifts by whole cells of the coarsest level, spacing 2^num_levels, change predictions only by
    what happens at the ends of the lattice; other shifts a little more.

    Cost O((nc + nt) g) plus the U-Net, on a lattice of g = (points_per_unit (high - low))^dx points; state O(g).

    Args:
        dx: input size, 1 to 3.
        dy: output size.
        domain: (low, high) of the inputs on every axis; points outside are refused.
        points_per_unit: lattice points per unit of x; two or more per shortest lengthscale.
        margin: how far the lattice reaches beyond the domain, in units of x.
        dz: channels of the U-Net, and width of the network in front of the likelihood.
        num_levels: halvings of the resolution inside the U-Net; features see 2 to 4 times
            2^num_levels lattice points to either side, and know nothing of what is further away.
        kernel_size: width of the convolutions, odd.
        depth_decoder: linear layers from features to the likelihood.
        likelihood: the head; None is a Gaussian with floor 0.01.

    Raises:
        ConfigError: an impossible lattice, or more than three input dimensions.
        DataError: from `encode`, `update` and `predict`, an input outside the domain.
    """

    cost = "(nc + nt) g + unet(g)"

    def __init__(
        self,
        dx: int,
        dy: int,
        domain: Sequence[float] = (-2.0, 2.0),
        points_per_unit: float = 16.0,
        margin: float = 0.1,
        dz: int = 64,
        num_levels: int = 4,
        kernel_size: int = 5,
        depth_decoder: int = 2,
        likelihood: Likelihood | None = None,
    ):
        super().__init__(dx, dy)
        at_least("num_levels", num_levels, 0)
        self.lattice = Lattice.dense(dx, domain, points_per_unit, margin, multiple=2**num_levels)
        self.encoder = ToLattice(self.lattice)
        self.unet = UNet(dx, 1 + dy, dz, dz, num_levels, kernel_size)
        self.decoder = FromLattice(self.lattice)
        self._use_head(likelihood, dz, dz, depth_decoder)

    def _encode(self, points: Points) -> LatticeSums:
        self.lattice.check("context", points.x, points.mask)
        return self.encoder(*points)

    def _mass(self, summary: LatticeSums) -> Tensor:
        return summary.count

    def _predict(self, state: State, xt: Tensor, mask_t: Tensor | None) -> Predictive:
        self.lattice.check("target", xt, mask_t)
        channels = mean_and_density(state.summary).to(next(self.unet.parameters()).dtype)
        grid = self.unet(channels)
        return self.head(self.decoder(grid.flatten(2), xt), mask_t)
