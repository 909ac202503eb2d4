"""What a latent-variable model predicts: a mixture over whole sets of targets."""

import math

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from npexp.likelihoods.base import Predictive
from npexp.likelihoods.gaussian import DiagonalGaussian
from npexp.likelihoods.joint import JointGaussian
from npexp.ops.normal import mean_absolute


class SetMixture(Predictive):
    """An equal mixture of s laws, the component chosen once per task: a joint law, whatever the components are.

    `joint_log_prob` mixes the densities of whole sets; `marginal_log_prob` mixes each target's own, the number that
    the literature reports for NP and ANP (papers differ in which; see Le et al. 2018, Nguyen & Grover 2022).

    Args:
        law: the components, side by side on one leading axis: `[s, b, nt, ...]`.
    """

    def __init__(self, law: Predictive):
        self.law = law

    @property
    def mean(self) -> Float[Tensor, "b nt dy"]:
        """Mean over components."""
        return self.law.mean.mean(0)

    @property
    def stddev(self) -> Float[Tensor, "b nt dy"]:
        """Root of the mean variance plus the variance of the means."""
        return (self.law.stddev.square().mean(0) + self.law.mean.var(0, unbiased=False)).sqrt()

    def component_log_prob(
        self, yt: Float[Tensor, "b nt dy"], mask_t: Bool[Tensor, "b nt"] | None = None
    ) -> Float[Tensor, "s b"]:
        """log p(y_1, ..., y_nt) under each component."""
        return self.law.joint_log_prob(yt, mask_t)

    def joint_log_prob(
        self, yt: Float[Tensor, "b nt dy"], mask_t: Bool[Tensor, "b nt"] | None = None
    ) -> Float[Tensor, " b"]:
        """log mean_s p(y_1, ..., y_nt | component s), s times the cost of a component."""
        return _log_mean_exp(self.component_log_prob(yt, mask_t))

    def marginal_log_prob(self, yt: Float[Tensor, "b nt dy"]) -> Float[Tensor, "b nt"]:
        """log mean_s p(y_i | component s) for each target."""
        return _log_mean_exp(self.law.marginal_log_prob(yt))

    def sample(self, n: int, seed: int | None = None) -> Float[Tensor, "n b nt dy"]:
        """A component per draw and task, then its outputs; with a seed, the same component for all tasks."""
        (s, b), device = self.law.mean.shape[:2], self.law.mean.device
        if seed is None:
            chosen = torch.randint(s, (n, b), device=device)
        else:
            drawn = np.random.default_rng([seed, s]).integers(s, size=n)  # another stream than the noise's
            chosen = torch.as_tensor(drawn, device=device)[:, None].expand(n, b)
        return self.law.pick(chosen, torch.arange(b, device=device)).sample(1, seed)[0]

    def cdf(self, y: Float[Tensor, "... b nt dy"]) -> Float[Tensor, "... b nt dy"]:
        """Mean of the components' distribution functions."""
        return self.law.cdf(y.unsqueeze(-4)).mean(-4)

    def crps(self, y: Float[Tensor, "b nt dy"]) -> Float[Tensor, "b nt dy"]:
        """Of classes exact; of normal components E|Y - y| - E|Y - Y'|/2 in closed form (Grimit et al. 2006), O(s^2)."""
        if (one := self.law.collapsed()) is not None:
            return one.crps(y)
        if not isinstance(self.law, DiagonalGaussian | JointGaussian):
            return super().crps(y)
        means, stddevs = self.law.mean, self.law.stddev
        spread = torch.zeros_like(y)
        for m, d in zip(means, stddevs, strict=True):
            spread = spread + mean_absolute(means - m, (stddevs.square() + d.square()).sqrt()).mean(0)
        return mean_absolute(y - means, stddevs).mean(0) - 0.5 * spread / len(means)


def _log_mean_exp(x: Tensor) -> Tensor:
    return x.logsumexp(0) - math.log(x.shape[0])
