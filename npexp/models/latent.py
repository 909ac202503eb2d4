"""What latent-variable neural processes share: a global latent z with a prior and a posterior."""

from abc import abstractmethod
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.distributions import Normal

from npexp.errors import at_least
from npexp.layers.mlp import Features
from npexp.likelihoods import SetMixture
from npexp.models.base import NeuralProcess, State

NOISE_SEED = 0


class LatentNeuralProcess(NeuralProcess):
    """A neural process with one latent z per task (Garnelo et al. 2018b, arXiv 1807.01622).

    The prior p(z | C) and the posterior q(z | C, T) are one network applied to different sets: `latent(state)` of a
    state that has seen C, or C and T. `predict` mixes over draws from p(z | C) made of one fixed noise buffer that all
    tasks share (common random numbers), so predictions are deterministic, coherent across targets, and independent of
    batch mates. Objectives draw their own noise and call `decode`.

    Args:
        dx: input size.
        dy: output size.
        dim_latent: size of z.
        num_samples: draws that `predict` mixes over.
    """

    latent = True

    def __init__(self, dx: int, dy: int, dim_latent: int, num_samples: int):
        super().__init__(dx, dy)
        at_least("dim_latent", dim_latent, 1)
        at_least("num_samples", num_samples, 1)
        noise = torch.randn(num_samples, 1, dim_latent, generator=torch.Generator().manual_seed(NOISE_SEED))
        self.register_buffer("noise", noise)

    def distribution(self, state: State) -> Normal:
        """The law of z given what the state has seen, factors `[b, dim_latent]`."""
        return self._latent(state.summary)

    def posterior(
        self,
        state: State,
        x: Float[Tensor, "b n dx"],
        y: Float[Tensor, "b n dy"],
        mask: Bool[Tensor, "b n"] | None = None,
    ) -> Normal:
        """The law of z once the state has seen these points, too; nothing is computed that z does not depend on."""
        return self.distribution(self.update(state, x, y, mask))

    def decode(
        self,
        state: State,
        z: Float[Tensor, "s b dl"],
        xt: Float[Tensor, "b nt dx"],
        mask_t: Bool[Tensor, "b nt"] | None = None,
    ) -> SetMixture:
        """The equal mixture over the given z of the laws p(y | z, C)."""
        return SetMixture(self.head(self._decode(state.summary, z, self._targets(state, xt, mask_t)), mask_t))

    def _predict(self, state: State, xt: Tensor, mask_t: Tensor | None) -> SetMixture:
        prior = self.distribution(state)
        return self.decode(state, prior.mean + prior.stddev * self.noise, xt, mask_t)

    @abstractmethod
    def _latent(self, summary: Any) -> Normal:
        """Law of z given a summary."""

    @abstractmethod
    def _decode(self, summary: Any, z: Tensor, xt: Tensor) -> Features:
        """What the head is given, `[s, b, nt, dim_in]`."""


def latent_normal(features: Float[Tensor, "b l"]) -> Normal:
    """Mean and a standard deviation in (0.1, 1) from 2 dim_latent features (Le et al. 2018)."""
    mean, raw = features.chunk(2, -1)
    return Normal(mean, 0.1 + 0.9 * torch.sigmoid(raw), validate_args=False)
