"""Bootstrapping attentive neural process."""

from torch import Tensor

from npexp.layers.attention import KeyValue
from npexp.layers.attentive import AttentivePaths
from npexp.layers.deepset import Pool
from npexp.likelihoods import Likelihood
from npexp.models.base import Points
from npexp.models.bootstrap import BootstrapNeuralProcess


class BANP(BootstrapNeuralProcess):
    """CANP over bootstraps of the context (Lee et al. 2020, arXiv 2008.02956).

    Cost O(s (nc^2 + nc nt)), state O(s nc), updates recompute. Use it in place of an ANP where nc is small and draws
    should not hang on a Gaussian latent variable.

    Args:
        dx: input size.
        dy: output size.
        dz: hidden width.
        num_heads: attention heads.
        depth_value: linear layers that embed a context point, before self-attention.
        depth_key: linear layers that embed an input as query or key.
        depth_rho: linear layers after the pooled path's mean.
        depth_decoder: linear layers of the decoder, 2 or more.
        num_samples: bootstraps that `predict` mixes over; 50 in the published tests.
        likelihood: the head; None is a Gaussian with floor 0.01.
    """

    cost = "s (nc^2 + nc nt)"

    def __init__(
        self,
        dx: int,
        dy: int,
        dz: int = 128,
        num_heads: int = 8,
        depth_value: int = 2,
        depth_key: int = 2,
        depth_rho: int = 2,
        depth_decoder: int = 3,
        num_samples: int = 16,
        likelihood: Likelihood | None = None,
    ):
        super().__init__(dx, dy, num_samples)
        self.paths = AttentivePaths(dx, dy, dz, num_heads, depth_value, depth_key, depth_rho)
        self._use_decoder(likelihood, self.paths.dim_out, dz, depth_decoder)

    def _represent(self, points: Points) -> tuple[KeyValue, Pool]:
        return self.paths(*points)

    def _read(self, summary: tuple[KeyValue, Pool], xt: Tensor) -> tuple[Tensor, ...]:
        return self.paths.read(summary, xt)
