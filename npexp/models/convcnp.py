"""Convolutional conditional neural process."""

from collections.abc import Sequence

from torch import Tensor

from npexp.layers.grid import Lattice
from npexp.layers.setconv import FromLattice, ToLattice, mean_and_density
from npexp.layers.unet import UNet
from npexp.likelihoods import Likelihood, Predictive
from npexp.models.base import NeuralProcess, Points, State


class ConvCNP(NeuralProcess):
    update_rule = "exact"
    remove_rule = "exact"
    constant_state = True
    cost = "(nc + nt) g"

    def __init__(
        self,
        dx: int,
        dy: int,
        domain: Sequence[float] = (-2.0, 2.0),
        points_per_unit: float = 32.0,
        margin: float = 0.1,
        dz: int = 64,
        num_levels: int = 5,
        kernel_size: int = 5,
        depth_decoder: int = 2,
        reach_in: float = 1.0,
        reach_out: float = 1.0,
        likelihood: Likelihood | None = None,
    ):
        super().__init__(dx, dy)
        self.lattice = Lattice.dense(dx, domain, points_per_unit, margin, multiple=2**num_levels)
        self.encoder = ToLattice(self.lattice, reach_in)
        self.unet = UNet(dx, 1 + dy, dz, dz, num_levels, kernel_size)
        self.decoder = FromLattice(self.lattice, reach_out)
        self._use_head(likelihood, dz, dz, depth_decoder)

    def _encode(self, points: Points) -> Tensor:
        self.lattice.check("context", points.x, points.mask)
        return self.encoder(*points)

    def _extend(self, summary: Tensor, points: Points) -> Tensor:
        return summary + self._encode(points)

    def _retract(self, summary: Tensor, points: Points) -> Tensor:
        return summary - self._encode(points)

    def _predict(self, state: State, xt: Tensor, mask_t: Tensor | None) -> Predictive:
        self.lattice.check("target", xt, mask_t)
        grid = self.unet(mean_and_density(state.summary))
        return self.head(self.decoder(grid.flatten(2), xt), mask_t)
