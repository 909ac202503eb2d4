"""Conditional neural process."""

import torch
from torch import Tensor, nn

from npexp.errors import at_least
from npexp.layers.deepset import DeepSet, Pool
from npexp.likelihoods import Likelihood, Predictive
from npexp.models.additive import AdditiveNeuralProcess
from npexp.models.base import Points, State


class CNP(AdditiveNeuralProcess):
    """The mean of embedded context points, decoded at each target (Garnelo et al. 2018a, arXiv 1807.01613).

    Cost O(nc + nt), state O(1). The baseline: the mean blurs, so it under-fits.

    Args:
        dx: input size.
        dy: output size.
        dz: hidden width.
        num_encoders: deep sets side by side, their summaries concatenated; 2 in the published comparisons, which give
            the CNP the parameters of an NP.
        depth_phi: linear layers before the mean.
        depth_rho: linear layers after it.
        depth_decoder: linear layers of the decoder.
        likelihood: the head; None is a Gaussian with floor 0.01.
    """

    cost = "nc + nt"

    def __init__(
        self,
        dx: int,
        dy: int,
        dz: int = 128,
        num_encoders: int = 1,
        depth_phi: int = 4,
        depth_rho: int = 2,
        depth_decoder: int = 3,
        likelihood: Likelihood | None = None,
    ):
        super().__init__(dx, dy)
        at_least("num_encoders", num_encoders, 1)
        self.encoders = nn.ModuleList(DeepSet(dx + dy, dz, dz, depth_phi, depth_rho) for _ in range(num_encoders))
        self._use_head(likelihood, num_encoders * dz + dx, dz, depth_decoder)

    def _encode(self, points: Points) -> tuple[Pool, ...]:
        xy = torch.cat([points.x, points.y], -1)
        return tuple(encoder.pool(xy, points.mask) for encoder in self.encoders)

    def _mass(self, summary: tuple[Pool, ...]) -> Tensor:
        return summary[0].count[:, 0]

    def _predict(self, state: State, xt: Tensor, mask_t: Tensor | None) -> Predictive:
        r = torch.cat([encoder.summary(pool) for encoder, pool in zip(self.encoders, state.summary, strict=True)], -1)
        return self.head((r[:, None], xt), mask_t)
