"""Outputs that are often exactly 0 and otherwise positive, such as rainfall."""

import torch
from jaxtyping import Bool, Float
from scipy import special
from torch import Tensor
from torch.nn.functional import logsigmoid

from npexp.likelihoods.base import Likelihood
from npexp.likelihoods.gaussian import check_floor, positive
from npexp.likelihoods.noise import uniform
from npexp.likelihoods.support import Restricted
from npexp.ops.special import on_cpu


class IndependentBernoulliGamma(Restricted):
    """Independent outputs that are 0, or with probability p of a gamma law.

    `log_density` is the log mass 1 - p at 0 and the log density p gamma(y) above.

    Args:
        logits: log odds of a positive output, `[*s, b, nt, dy]`.
        shape: k of the gamma law, `[*s, b, nt, dy]`, positive.
        scale: of the gamma law, `[*s, b, nt, dy]`, positive, in units of y.
    """

    support = "of 0 or more"

    def __init__(
        self,
        logits: Float[Tensor, "*s b nt dy"],
        shape: Float[Tensor, "*s b nt dy"],
        scale: Float[Tensor, "*s b nt dy"],
    ):
        self.logits, self.shape, self.scale = logits, shape, scale

    @property
    def probabilities(self) -> Float[Tensor, "*s b nt dy"]:
        """P(Y > 0)."""
        return torch.sigmoid(self.logits)

    @property
    def mean(self) -> Float[Tensor, "*s b nt dy"]:
        """p k scale."""
        return self.probabilities * self.shape * self.scale

    @property
    def stddev(self) -> Float[Tensor, "*s b nt dy"]:
        """scale sqrt(p k (1 + k (1 - p)))."""
        inner = self.probabilities * self.shape * (1 + self.shape * torch.sigmoid(-self.logits))
        return self.scale * inner.sqrt()

    def contains(self, y: Float[Tensor, "... b nt dy"]) -> Bool[Tensor, "... b nt dy"]:
        """0 or more, and finite."""
        return (y >= 0) & y.isfinite()

    def log_density_inside(self, y: Float[Tensor, "... b nt dy"]) -> Float[Tensor, "... b nt dy"]:
        """Log mass at 0, log density above."""
        k, above = self.shape, y > 0
        z = torch.where(above, y, torch.ones_like(y)) / self.scale
        gamma = (k - 1) * z.log() - z - torch.lgamma(k) - self.scale.log()
        return torch.where(above, logsigmoid(self.logits) + gamma, logsigmoid(-self.logits))

    def sample(self, n: int, seed: int | None = None) -> Float[Tensor, "n *s b nt dy"]:
        """Independent draws."""
        return self.icdf(uniform(n, self.logits, seed))

    def cdf(self, y: Float[Tensor, "... b nt dy"]) -> Float[Tensor, "... b nt dy"]:
        """A step of 1 - p at 0, then p times the regularised incomplete gamma function, from SciPy."""
        above = self.probabilities * self._gamma_cdf(y, self.shape)
        return torch.where(y < 0, 0.0, torch.sigmoid(-self.logits) + above)

    def icdf(self, level: Float[Tensor, "... b nt dy"]) -> Float[Tensor, "... b nt dy"]:
        """0 up to the level 1 - p, then a gamma quantile, from SciPy."""
        above = ((level - torch.sigmoid(-self.logits)) / self.probabilities).clamp(0, 1 - torch.finfo(level.dtype).eps)
        return self.scale * on_cpu(special.gammaincinv, self.shape, above)

    def crps(self, y: Float[Tensor, "b nt dy"]) -> Float[Tensor, "b nt dy"]:
        """E|Y - y| - E|Y - Y'| / 2 from the gamma law's (Scheuerer & Möller 2015, appendix A)."""
        p, k, mean = self.probabilities, self.shape, self.shape * self.scale
        away = y * (2 * self._gamma_cdf(y, k) - 1) - mean * (2 * self._gamma_cdf(y, k + 1) - 1)
        # half of E|G - G'| is scale / B(1/2, k)
        half_spread = self.scale * (torch.lgamma(k + 0.5) - torch.lgamma(k)).exp() / torch.pi**0.5
        return torch.sigmoid(-self.logits) * (y - p * mean) + p * away - p.square() * half_spread

    def _gamma_cdf(self, y: Tensor, shape: Tensor) -> Tensor:
        return on_cpu(special.gammainc, shape, y.clamp_min(0) / self.scale)


class BernoulliGamma(Likelihood):
    """Outputs that are often exactly 0 and otherwise positive: rain, claims, waiting times.

    Args:
        min_shape: floor on the shape of the gamma law; below 1 its density is infinite at 0.
        min_scale: floor on its scale, in units of y.
    """

    def __init__(self, min_shape: float = 0.05, min_scale: float = 0.01):
        super().__init__()
        self.min_shape, self.min_scale = check_floor("min_shape", min_shape), check_floor("min_scale", min_scale)

    def num_features(self, dy: int) -> int:
        """Logit, raw shape and raw scale of each output: 3 dy."""
        return 3 * dy

    def forward(self, features: Float[Tensor, "*s b nt f"]) -> IndependentBernoulliGamma:
        """`[*s, b, nt, 3 dy]` to independent Bernoulli-gamma laws."""
        logits, shape, scale = features.chunk(3, -1)
        return IndependentBernoulliGamma(logits, positive(shape, self.min_shape), positive(scale, self.min_scale))
