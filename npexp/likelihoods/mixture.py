"""What a latent-variable model predicts: a mixture over whole sets of targets."""

import math

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.special import ndtr

from npexp.likelihoods.base import Predictive, check_outputs, hide_padding, standard_normal
from npexp.ops.normal import mean_absolute, normal_log_prob


class SetMixture(Predictive):
    """An equal mixture of s factorised normal laws, the component chosen once per task: a joint law.

    `joint_log_prob` mixes the densities of whole sets; `marginal_log_prob` mixes each target's own, the number that
    the literature reports for NP and ANP (papers differ in which; see Le et al. 2018, Nguyen & Grover 2022).

    Args:
        means: `[s, b, nt, dy]`.
        stddevs: `[s, b, nt, dy]`, positive.
    """

    def __init__(self, means: Float[Tensor, "s b nt dy"], stddevs: Float[Tensor, "s b nt dy"]):
        self.means, self.stddevs = means, stddevs

    @property
    def mean(self) -> Float[Tensor, "b nt dy"]:
        """Mean over components."""
        return self.means.mean(0)

    @property
    def stddev(self) -> Float[Tensor, "b nt dy"]:
        """Root of the mean variance plus the variance of the means."""
        return (self.stddevs.square().mean(0) + self.means.var(0, unbiased=False)).sqrt()

    def component_log_prob(
        self, yt: Float[Tensor, "b nt dy"], mask_t: Bool[Tensor, "b nt"] | None = None
    ) -> Float[Tensor, "s b"]:
        """log p(y_1, ..., y_nt) under each component."""
        check_outputs(yt, self.means, mask_t)
        log_prob = normal_log_prob(hide_padding(yt, self.means.detach(), mask_t), self.means, self.stddevs).sum(-1)
        if mask_t is not None:
            log_prob = torch.where(mask_t, log_prob, torch.zeros_like(log_prob))
        return log_prob.sum(-1)

    def joint_log_prob(
        self, yt: Float[Tensor, "b nt dy"], mask_t: Bool[Tensor, "b nt"] | None = None
    ) -> Float[Tensor, " b"]:
        """log mean_s prod_i p(y_i | component s), O(s nt)."""
        return _log_mean_exp(self.component_log_prob(yt, mask_t))

    def marginal_log_prob(self, yt: Float[Tensor, "b nt dy"]) -> Float[Tensor, "b nt"]:
        """log mean_s p(y_i | component s) for each target."""
        check_outputs(yt, self.means)
        return _log_mean_exp(normal_log_prob(yt, self.means, self.stddevs).sum(-1))

    def sample(self, n: int, seed: int | None = None) -> Float[Tensor, "n b nt dy"]:
        """A component per draw and task, then independent outputs given it; with a seed, the same one for all tasks."""
        s, b = self.means.shape[:2]
        if seed is None:
            pick = torch.randint(s, (n, b), device=self.means.device)
        else:
            drawn = np.random.default_rng([seed, s]).integers(s, size=n)  # another stream than the noise's
            pick = torch.as_tensor(drawn, device=self.means.device)[:, None].expand(n, b)
        task = torch.arange(b, device=self.means.device)
        noise = standard_normal(n, self.means[0], seed)
        return self.means[pick, task] + self.stddevs[pick, task] * noise

    def cdf(self, y: Float[Tensor, "... b nt dy"]) -> Float[Tensor, "... b nt dy"]:
        """Mean of the components' distribution functions."""
        return torch.stack([ndtr((y - m) / d) for m, d in zip(self.means, self.stddevs, strict=True)]).mean(0)

    def crps(self, y: Float[Tensor, "b nt dy"]) -> Float[Tensor, "b nt dy"]:
        """Closed form E|Y - y| - E|Y - Y'|/2 (Grimit et al. 2006): time O(s^2), memory O(s) per output."""
        spread = torch.zeros_like(y)
        for m, d in zip(self.means, self.stddevs, strict=True):
            spread = spread + mean_absolute(self.means - m, (self.stddevs.square() + d.square()).sqrt()).mean(0)
        return mean_absolute(y - self.means, self.stddevs).mean(0) - 0.5 * spread / len(self.means)

    def quantile(self, levels: Float[Tensor, " q"]) -> Float[Tensor, "q b nt dy"]:
        """Bisection of the distribution function, to 2^-40 of the mixture's width."""
        low = (self.means - 9 * self.stddevs).amin(0).expand(len(levels), *self.means.shape[1:])
        high = (self.means + 9 * self.stddevs).amax(0).expand_as(low)
        level = levels.to(low)[:, None, None, None]
        for _ in range(40):
            middle = (low + high) / 2
            below = self.cdf(middle) < level
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return (low + high) / 2


def _log_mean_exp(x: Tensor) -> Tensor:
    return x.logsumexp(0) - math.log(x.shape[0])
