"""Bootstrapping neural process."""

import torch
from torch import Tensor, nn

from npexp.errors import at_least
from npexp.layers.deepset import DeepSet, Pool
from npexp.likelihoods import Likelihood
from npexp.models.base import Points
from npexp.models.bootstrap import BootstrapNeuralProcess


class BNP(BootstrapNeuralProcess):
    """CNP over bootstraps of the context (Lee et al. 2020, arXiv 2008.02956).

    Cost O(s (nc + nt)), state O(nc + s), updates recompute. Use it in place of an NP where coherent samples at linear
    cost should not hang on a Gaussian latent variable; like every deep set it under-fits.

    Args:
        dx: input size.
        dy: output size.
        dz: hidden width.
        num_encoders: deep sets side by side, their summaries concatenated; 2 in the published comparisons.
        depth_phi: linear layers before the mean.
        depth_rho: linear layers after it.
        depth_decoder: linear layers of the decoder, 2 or more.
        num_samples: bootstraps that `predict` mixes over; 50 in the published tests.
        likelihood: the head; None is a Gaussian with floor 0.01.
    """

    cost = "s (nc + nt)"

    def __init__(
        self,
        dx: int,
        dy: int,
        dz: int = 128,
        num_encoders: int = 1,
        depth_phi: int = 4,
        depth_rho: int = 2,
        depth_decoder: int = 3,
        num_samples: int = 16,
        likelihood: Likelihood | None = None,
    ):
        super().__init__(dx, dy, num_samples)
        at_least("num_encoders", num_encoders, 1)
        self.encoders = nn.ModuleList(DeepSet(dx + dy, dz, dz, depth_phi, depth_rho) for _ in range(num_encoders))
        self._use_decoder(likelihood, num_encoders * dz, dz, depth_decoder)

    def _represent(self, points: Points) -> tuple[Pool, ...]:
        xy = torch.cat([points.x, points.y], -1)
        return tuple(encoder.pool(xy, points.mask) for encoder in self.encoders)

    def _read(self, summary: tuple[Pool, ...], xt: Tensor) -> tuple[Tensor, ...]:
        return tuple(e.summary(pool)[:, None] for e, pool in zip(self.encoders, summary, strict=True))
