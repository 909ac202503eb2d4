"""A mixture of normals for each output."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.special import ndtr

from npexp.errors import at_least
from npexp.likelihoods.base import Factorised, Likelihood, standard_normal
from npexp.likelihoods.gaussian import check_floor, positive
from npexp.likelihoods.noise import stream, uniform
from npexp.ops.normal import mean_absolute, normal_log_prob


class NormalMixture(Factorised):
    """Independent outputs, each of a mixture of K normals of its own.

    Args:
        log_weights: `[*s, b, nt, dy, K]`, log-normalised over K.
        means: `[*s, b, nt, dy, K]`.
        stddevs: `[*s, b, nt, dy, K]`, positive.
    """

    def __init__(
        self,
        log_weights: Float[Tensor, "*s b nt dy k"],
        means: Float[Tensor, "*s b nt dy k"],
        stddevs: Float[Tensor, "*s b nt dy k"],
    ):
        self.log_weights, self.means, self.stddevs = log_weights, means, stddevs

    @property
    def mean(self) -> Float[Tensor, "*s b nt dy"]:
        """Weighted mean of the components."""
        return self._average(self.means)

    @property
    def stddev(self) -> Float[Tensor, "*s b nt dy"]:
        """Root of the mean variance plus the variance of the means."""
        return self._average(self.stddevs.square() + (self.means - self.mean[..., None]).square()).sqrt()

    def log_density(self, y: Float[Tensor, "... b nt dy"]) -> Float[Tensor, "... b nt dy"]:
        """Log of the weighted sum of densities."""
        return (self.log_weights + normal_log_prob(y[..., None], self.means, self.stddevs)).logsumexp(-1)

    def sample(self, n: int, seed: int | None = None) -> Float[Tensor, "n *s b nt dy"]:
        """A component for every output, then a normal draw."""
        level = uniform(n, self.mean, stream(seed, 1))[..., None]
        passed = level > self.log_weights.exp().cumsum(-1)
        chosen = passed.sum(-1, keepdim=True).clamp_max(self.means.shape[-1] - 1)  # weights may sum to less than level
        mean, stddev = (v.expand(n, *v.shape).gather(-1, chosen)[..., 0] for v in (self.means, self.stddevs))
        return mean + stddev * standard_normal(n, self.mean, seed)

    def cdf(self, y: Float[Tensor, "... b nt dy"]) -> Float[Tensor, "... b nt dy"]:
        """Weighted mean of normal distribution functions."""
        below = ndtr((y[..., None] - self.means) / self.stddevs)
        # normalised in the precision of y: weights rounded to less than 1 in sum would send extreme quantiles far away
        return (self.log_weights.to(below.dtype).softmax(-1) * below).sum(-1)

    def crps(self, y: Float[Tensor, "b nt dy"]) -> Float[Tensor, "b nt dy"]:
        """Closed form E|Y - y| - E|Y - Y'| / 2 (Grimit et al. 2006), O(K^2)."""
        means, variances, weights = self.means, self.stddevs.square(), self.log_weights.exp()
        between = mean_absolute(
            means[..., None] - means[..., None, :], (variances[..., None] + variances[..., None, :]).sqrt()
        )
        spread = (between * weights[..., None] * weights[..., None, :]).sum((-2, -1))
        return self._average(mean_absolute(y[..., None] - means, self.stddevs)) - 0.5 * spread

    def _average(self, values: Tensor) -> Tensor:
        return (self.log_weights.exp() * values).sum(-1)


class GaussianMixture(Likelihood):
    """Skewed or many-peaked outputs: a mixture of normals per target and output (Bishop 1994).

    Outputs of one target are independent of each other, and so are targets; latent-variable models and joint
    likelihoods are what makes those depend on each other.

    Args:
        num_components: K.
        min_stddev: floor on every component's standard deviation, in units of y. Without one, a component that sits on
            a repeated value has an infinite density.
    """

    def __init__(self, num_components: int = 3, min_stddev: float = 0.01):
        super().__init__()
        self.num_components = at_least("num_components", num_components, 1)
        self.min_stddev = check_floor("min_stddev", min_stddev)

    def num_features(self, dy: int) -> int:
        """Logit, mean and raw scale of each component: 3 K dy."""
        return 3 * self.num_components * dy

    def forward(self, features: Float[Tensor, "*s b nt f"]) -> NormalMixture:
        """`[*s, b, nt, 3 K dy]` to independent mixtures."""
        logits, means, raw = features.unflatten(-1, (-1, 3 * self.num_components)).chunk(3, -1)
        return NormalMixture(torch.log_softmax(logits, -1), means, positive(raw, self.min_stddev))
