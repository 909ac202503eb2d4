"""Outputs between 0 and 1."""

import math

import torch
from jaxtyping import Bool, Float
from scipy import special
from torch import Tensor

from npexp.likelihoods.base import Likelihood
from npexp.likelihoods.gaussian import check_floor, positive
from npexp.likelihoods.noise import uniform
from npexp.likelihoods.support import Restricted
from npexp.ops.special import on_cpu


class IndependentBeta(Restricted):
    """Independent outputs of the beta law on (0, 1).

    Args:
        a: `[*s, b, nt, dy]`, positive; below 1 the density is infinite at 0.
        b: `[*s, b, nt, dy]`, positive; below 1 the density is infinite at 1.
    """

    support = "strictly between 0 and 1"

    def __init__(self, a: Float[Tensor, "*s b nt dy"], b: Float[Tensor, "*s b nt dy"]):
        self.a, self.b = a, b

    @property
    def mean(self) -> Float[Tensor, "*s b nt dy"]:
        """a / (a + b)."""
        return self.a / (self.a + self.b)

    @property
    def stddev(self) -> Float[Tensor, "*s b nt dy"]:
        """Standard deviation of each output."""
        total = self.a + self.b
        return (self.a * self.b / (total + 1)).sqrt() / total

    def contains(self, y: Float[Tensor, "... b nt dy"]) -> Bool[Tensor, "... b nt dy"]:
        """Strictly between 0 and 1."""
        return (y > 0) & (y < 1)

    def log_density_inside(self, y: Float[Tensor, "... b nt dy"]) -> Float[Tensor, "... b nt dy"]:
        """Beta log density."""
        return (self.a - 1) * y.log() + (self.b - 1) * (-y).log1p() - self._log_beta(self.a, self.b)

    def sample(self, n: int, seed: int | None = None) -> Float[Tensor, "n *s b nt dy"]:
        """Independent draws; one that rounds to 0 or 1 is moved to the nearest number inside."""
        limits = torch.finfo(self.a.dtype)
        return self.icdf(uniform(n, self.a, seed)).clamp(limits.tiny, 1 - limits.eps)

    def cdf(self, y: Float[Tensor, "... b nt dy"]) -> Float[Tensor, "... b nt dy"]:
        """The regularised incomplete beta function, from SciPy."""
        return on_cpu(special.betainc, self.a, self.b, y.clamp(0, 1))

    def icdf(self, level: Float[Tensor, "... b nt dy"]) -> Float[Tensor, "... b nt dy"]:
        """Its inverse, from SciPy."""
        return on_cpu(special.betaincinv, self.a, self.b, level)

    def crps(self, y: Float[Tensor, "b nt dy"]) -> Float[Tensor, "b nt dy"]:
        """Closed form (Jordan, Krüger & Lerch 2019, Journal of Statistical Software 90(12), appendix A)."""
        a, b = self.a, self.b
        spread = (math.log(2) + self._log_beta(2 * a, 2 * b) - a.log() - 2 * self._log_beta(a, b)).exp()
        one_more = IndependentBeta(a + 1, b)
        return y * (2 * self.cdf(y) - 1) + self.mean * (1 - 2 * one_more.cdf(y) - spread)

    @staticmethod
    def _log_beta(a: Tensor, b: Tensor) -> Tensor:
        return torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)


class Beta(Likelihood):
    """Outputs strictly between 0 and 1, such as shares. For other bounds see `Transformed` with "affine".

    Args:
        min_concentration: floor on both parameters, which keeps mass from piling up at 0 or 1 alone.
    """

    def __init__(self, min_concentration: float = 0.05):
        super().__init__()
        self.min_concentration = check_floor("min_concentration", min_concentration)

    def num_features(self, dy: int) -> int:
        """Both raw parameters of each output: 2 dy."""
        return 2 * dy

    def forward(self, features: Float[Tensor, "*s b nt f"]) -> IndependentBeta:
        """`[*s, b, nt, 2 dy]` to independent beta laws."""
        return IndependentBeta(*positive(features, self.min_concentration).chunk(2, -1))
