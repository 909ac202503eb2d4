"""A mixture over whole sets of targets: what latent-variable models predict, and banks of joint experts."""

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
    """A mixture of s laws, the component chosen once per task: a joint law, whatever the components are.

    `joint_log_prob` mixes the densities of whole sets; `marginal_log_prob` mixes each target's own, the number that
    the literature reports for NP and ANP (papers differ in which; see Le et al. 2018, Nguyen & Grover 2022).

    Args:
        law: the components, side by side on one leading axis: `[s, b, nt, ...]`.
        log_weights: of the components in each task, log-normalised over s, `[s, b]`; None is an equal mixture.
    """

    def __init__(self, law: Predictive, log_weights: Float[Tensor, "s b"] | None = None):
        self.law, self.log_weights = law, log_weights

    @property
    def mean(self) -> Float[Tensor, "b nt dy"]:
        """Mean over components."""
        return self._average(self.law.mean)

    @property
    def stddev(self) -> Float[Tensor, "b nt dy"]:
        """Root of the mean variance plus the variance of the means."""
        return self._average(self.law.stddev.square() + (self.law.mean - self.mean).square()).sqrt()

    def component_log_prob(
        self, yt: Float[Tensor, "b nt dy"], mask_t: Bool[Tensor, "b nt"] | None = None
    ) -> Float[Tensor, "s b"]:
        """log p(y_1, ..., y_nt) under each component."""
        return self.law.joint_log_prob(yt, mask_t)

    def joint_log_prob(
        self, yt: Float[Tensor, "b nt dy"], mask_t: Bool[Tensor, "b nt"] | None = None
    ) -> Float[Tensor, " b"]:
        """log of the mean over s of p(y_1, ..., y_nt | component s), s times the cost of a component."""
        return self._log_average(self.component_log_prob(yt, mask_t))

    def marginal_log_prob(self, yt: Float[Tensor, "b nt dy"]) -> Float[Tensor, "b nt"]:
        """log of the mean over s of p(y_i | component s) for each target."""
        return self._log_average(self.law.marginal_log_prob(yt))

    def sample(self, n: int, seed: int | None = None) -> Float[Tensor, "n b nt dy"]:
        """A component per draw and task, then its outputs; with a seed, the same component for all tasks."""
        (s, b), device = self.law.mean.shape[:2], self.law.mean.device
        if seed is None:
            level = torch.rand(n, b, device=device)
        else:  # another stream than the noise's
            level = torch.as_tensor(np.random.default_rng([seed, s]).random(n)).to(device)[:, None].expand(n, b)
        if self.log_weights is None:
            chosen = (level * s).long()
        else:
            chosen = (level[:, None] > self.log_weights.exp().cumsum(0)).sum(1)
        chosen = chosen.clamp_max(s - 1)  # weights may sum to less than a level
        return self.law.pick(chosen, torch.arange(b, device=device)).sample(1, seed)[0]

    def cdf(self, y: Float[Tensor, "... b nt dy"]) -> Float[Tensor, "... b nt dy"]:
        """Mean of the components' distribution functions."""
        return self._average(self.law.cdf(y.unsqueeze(-4)), -4)

    def crps(self, y: Float[Tensor, "b nt dy"]) -> Float[Tensor, "b nt dy"]:
        """Of classes exact; of normal components E|Y - y| - E|Y - Y'|/2 in closed form (Grimit et al. 2006), O(s^2)."""
        if self.log_weights is None and (one := self.law.collapsed()) is not None:
            return one.crps(y)
        if not isinstance(self.law, DiagonalGaussian | JointGaussian):
            return super().crps(y)
        means, stddevs = self.law.mean, self.law.stddev
        between = [
            self._average(mean_absolute(means - m, (stddevs.square() + d.square()).sqrt()))
            for m, d in zip(means, stddevs, strict=True)
        ]
        return self._average(mean_absolute(y - means, stddevs)) - 0.5 * self._average(torch.stack(between))

    def _average(self, values: Tensor, axis: int = 0) -> Tensor:
        """Over components, of `[..., s, b, nt, dy]` with s at this axis."""
        if self.log_weights is None:
            return values.mean(axis)
        return (values * self.log_weights.exp()[..., None, None]).sum(axis)

    def _log_average(self, values: Tensor) -> Tensor:
        """Log of the mean of exp over components, of `[s, b, ...]`."""
        if self.log_weights is None:
            return values.logsumexp(0) - math.log(values.shape[0])
        return (values + self.log_weights.view(*self.log_weights.shape, *[1] * (values.ndim - 2))).logsumexp(0)
