"""Attentive neural process."""

from typing import NamedTuple

from torch import Tensor
from torch.distributions import Normal

from npexp.layers.attention import KeyValue
from npexp.layers.attentive import AttentivePath, PooledPath
from npexp.layers.deepset import Pool
from npexp.layers.mlp import Features
from npexp.likelihoods import Likelihood
from npexp.models.base import Points, State, join
from npexp.models.latent import LatentNeuralProcess, latent_normal


class ANPSummary(NamedTuple):
    """Keys and values for the targets' attention, and the pooled context of the latent path."""

    memory: KeyValue
    latent: Pool


class ANP(LatentNeuralProcess):
    """NP whose deterministic path is attention over the context (Kim et al. 2019, arXiv 1901.05761).

    Both paths begin with self-attention of the context, in the wiring of Lee et al. 2020 (arXiv 2008.02956). Cost
    O(nc^2 + nc nt + s nt), state O(nc), updates recompute.

    Args:
        dx: input size.
        dy: output size.
        dz: hidden width.
        dim_latent: size of z.
        num_heads: attention heads.
        depth_value: linear layers that embed a context point, before self-attention.
        depth_key: linear layers that embed an input as query or key.
        depth_rho: linear layers after the latent path's mean.
        depth_decoder: linear layers of the decoder.
        num_samples: draws of z that `predict` mixes over; 50 in the published tests.
        likelihood: the head; None is a Gaussian with floor 0.01.
    """

    cost = "nc^2 + nc nt + s nt"

    def __init__(
        self,
        dx: int,
        dy: int,
        dz: int = 128,
        dim_latent: int = 128,
        num_heads: int = 8,
        depth_value: int = 2,
        depth_key: int = 2,
        depth_rho: int = 2,
        depth_decoder: int = 3,
        num_samples: int = 32,
        likelihood: Likelihood | None = None,
    ):
        super().__init__(dx, dy, dim_latent, num_samples)
        self.attentive = AttentivePath(dx, dy, dz, num_heads, depth_value, depth_key)
        self.pooled = PooledPath(dx, dy, dz, 2 * dim_latent, num_heads, depth_value, depth_rho)
        self._use_head(likelihood, dz + dim_latent + dx, dz, depth_decoder)

    def _encode(self, points: Points) -> ANPSummary:
        return ANPSummary(self.attentive(*points), self.pooled(*points))

    def _latent(self, summary: ANPSummary) -> Normal:
        return latent_normal(self.pooled.summary(summary.latent))

    def posterior(self, state: State, x: Tensor, y: Tensor, mask: Tensor | None = None) -> Normal:
        """Of the latent path alone."""
        everything = join(state.context, self._points(x, y, mask, state))
        return latent_normal(self.pooled.summary(self.pooled(*everything)))

    def _decode(self, summary: ANPSummary, z: Tensor, xt: Tensor) -> Features:
        return self.attentive.read(summary.memory, xt), z[:, :, None], xt
