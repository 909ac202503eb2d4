"""Neural process: a deterministic and a latent summary."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Normal

from npexp.layers.deepset import DeepSet, Pool
from npexp.layers.mlp import Features
from npexp.likelihoods import Likelihood
from npexp.models.additive import AdditiveNeuralProcess
from npexp.models.base import Points
from npexp.models.latent import LatentNeuralProcess, latent_normal


class NPSummary(NamedTuple):
    """The two pooled contexts."""

    deterministic: Pool
    latent: Pool


class NP(AdditiveNeuralProcess, LatentNeuralProcess):
    """CNP plus a global latent, so that draws are coherent functions (Garnelo et al. 2018b, arXiv 1807.01622).

    Cost O(nc + s nt), state O(1). Use it for coherent samples at linear cost; like every deep set it under-fits.

    Args:
        dx: input size.
        dy: output size.
        dz: hidden width.
        dim_latent: size of z.
        depth_phi: linear layers before each mean.
        depth_rho: linear layers after it.
        depth_decoder: linear layers of the decoder.
        num_samples: draws of z that `predict` mixes over; 50 in the published tests.
        likelihood: the head; None is a Gaussian with floor 0.01.
    """

    cost = "nc + s nt"

    def __init__(
        self,
        dx: int,
        dy: int,
        dz: int = 128,
        dim_latent: int = 128,
        depth_phi: int = 4,
        depth_rho: int = 2,
        depth_decoder: int = 3,
        num_samples: int = 32,
        likelihood: Likelihood | None = None,
    ):
        super().__init__(dx, dy, dim_latent, num_samples)
        self.deterministic = DeepSet(dx + dy, dz, dz, depth_phi, depth_rho)
        self.latent_encoder = DeepSet(dx + dy, dz, 2 * dim_latent, depth_phi, depth_rho)
        self._use_head(likelihood, dz + dim_latent + dx, dz, depth_decoder)

    def _encode(self, points: Points) -> NPSummary:
        xy = torch.cat([points.x, points.y], -1)
        return NPSummary(self.deterministic.pool(xy, points.mask), self.latent_encoder.pool(xy, points.mask))

    def _mass(self, summary: NPSummary) -> Tensor:
        return summary.latent.count[:, 0]

    def _latent(self, summary: NPSummary) -> Normal:
        return latent_normal(self.latent_encoder.summary(summary.latent))

    def _decode(self, summary: NPSummary, z: Tensor, xt: Tensor) -> Features:
        return self.deterministic.summary(summary.deterministic)[:, None], z[:, :, None], xt
