"""Conditional attentive neural process."""

from torch import Tensor

from npexp.layers.attention import KeyValue
from npexp.layers.attentive import AttentivePaths
from npexp.layers.deepset import Pool
from npexp.likelihoods import Likelihood, Predictive
from npexp.models.base import NeuralProcess, Points, State


class CANP(NeuralProcess):
    """ANP without the latent variable: each target attends to the context, beside one pooled view of it for all.

    The deterministic attentive baseline of Lee et al. 2020 (arXiv 2008.02956); the latent path of the ANP (Kim et al.
    2019, arXiv 1901.05761) is a second deterministic one. Cost O(nc^2 + nc nt), state O(nc), updates recompute. Use it
    where nc is small and draws need not be coherent; TNP scores higher at the same cost.

    Args:
        dx: input size.
        dy: output size.
        dz: hidden width.
        num_heads: attention heads.
        depth_value: linear layers that embed a context point, before self-attention.
        depth_key: linear layers that embed an input as query or key.
        depth_rho: linear layers after the pooled path's mean.
        depth_decoder: linear layers of the decoder.
        likelihood: the head; None is a Gaussian with floor 0.01.
    """

    cost = "nc^2 + nc nt"

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
        likelihood: Likelihood | None = None,
    ):
        super().__init__(dx, dy)
        self.paths = AttentivePaths(dx, dy, dz, num_heads, depth_value, depth_key, depth_rho)
        self._use_head(likelihood, self.paths.dim_out + dx, dz, depth_decoder)

    def _encode(self, points: Points) -> tuple[KeyValue, Pool]:
        return self.paths(*points)

    def _predict(self, state: State, xt: Tensor, mask_t: Tensor | None) -> Predictive:
        return self.head((*self.paths.read(state.summary, xt), xt), mask_t)
