"""Student's t: a normal law with heavy tails."""

import math

import torch
from jaxtyping import Float
from scipy import special
from torch import Tensor

from npexp.errors import ConfigError
from npexp.likelihoods.base import Factorised, Likelihood
from npexp.likelihoods.gaussian import check_floor, positive
from npexp.likelihoods.noise import uniform
from npexp.ops.special import on_cpu

MIN_DF, MAX_DF = 2.1, 100.0  # learned degrees of freedom: the variance exists; beyond 100 nobody can tell from a normal


class IndependentStudentT(Factorised):
    """Independent outputs loc + scale T, T of Student's t law.

    Args:
        loc: `[*s, b, nt, dy]`.
        scale: `[*s, b, nt, dy]`, positive; the standard deviation is scale sqrt(df / (df - 2)).
        df: degrees of freedom, `[*s, b, nt, dy]`, above 2.
    """

    def __init__(
        self,
        loc: Float[Tensor, "*s b nt dy"],
        scale: Float[Tensor, "*s b nt dy"],
        df: Float[Tensor, "*s b nt dy"],
    ):
        self.loc, self.scale, self.df = loc, scale, df

    @property
    def mean(self) -> Float[Tensor, "*s b nt dy"]:
        """Mean of each output."""
        return self.loc

    @property
    def stddev(self) -> Float[Tensor, "*s b nt dy"]:
        """Standard deviation of each output."""
        return self.scale * (self.df / (self.df - 2)).sqrt()

    def log_density(self, y: Float[Tensor, "... b nt dy"]) -> Float[Tensor, "... b nt dy"]:
        """Log density of Student's t."""
        return self._standard_log_density((y - self.loc) / self.scale) - self.scale.log()

    def sample(self, n: int, seed: int | None = None) -> Float[Tensor, "n *s b nt dy"]:
        """Independent draws."""
        return self.icdf(uniform(n, self.loc, seed))

    def cdf(self, y: Float[Tensor, "... b nt dy"]) -> Float[Tensor, "... b nt dy"]:
        """Distribution function, from SciPy."""
        return on_cpu(special.stdtr, self.df, (y - self.loc) / self.scale)

    def icdf(self, level: Float[Tensor, "... b nt dy"]) -> Float[Tensor, "... b nt dy"]:
        """Quantiles, from SciPy."""
        return self.loc + self.scale * on_cpu(special.stdtrit, self.df, level)

    def crps(self, y: Float[Tensor, "b nt dy"]) -> Float[Tensor, "b nt dy"]:
        """Closed form (Jordan, Krüger & Lerch 2019, Journal of Statistical Software 90(12), appendix A)."""
        z, df = (y - self.loc) / self.scale, self.df
        density = self._standard_log_density(z).exp()
        half = torch.full_like(df, 0.5)
        spread = (_log_beta(half, df - 0.5) - 2 * _log_beta(half, df / 2)).exp() * 2 * df.sqrt() / (df - 1)
        inside = z * (2 * self.cdf(y) - 1) + 2 * density * (df + z.square()) / (df - 1)
        return self.scale * (inside - spread)

    def _standard_log_density(self, z: Tensor) -> Tensor:
        df = self.df
        normaliser = torch.lgamma((df + 1) / 2) - torch.lgamma(df / 2) - 0.5 * (df * math.pi).log()
        return normaliser - (df + 1) / 2 * (z.square() / df).log1p()


class StudentT(Likelihood):
    """Outputs with outliers: Student's t, whose log density grows with the logarithm of an error, not its square.

    Args:
        df: degrees of freedom, above 2 so that the variance exists; None learns them per target and output, between
            2.1 and 100.
        min_stddev: floor on the scale, in units of y.
    """

    def __init__(self, df: float | None = None, min_stddev: float = 0.01):
        super().__init__()
        if df is not None and not 2 < df <= 1000:  # float32 loses the difference of the log gammas beyond
            raise ConfigError(f"expected df above 2 and at most 1000, got {df}: for more use Gaussian")
        self.df, self.min_stddev = df, check_floor("min_stddev", min_stddev)

    def num_features(self, dy: int) -> int:
        """Location, raw scale and, where it is learned, raw degrees of freedom: 2 dy or 3 dy."""
        return (2 if self.df is not None else 3) * dy

    def forward(self, features: Float[Tensor, "*s b nt f"]) -> IndependentStudentT:
        """`[*s, b, nt, 2 dy or 3 dy]` to independent Student's t laws."""
        if self.df is not None:
            loc, raw = features.chunk(2, -1)
            return IndependentStudentT(loc, positive(raw, self.min_stddev), torch.full_like(loc, self.df))
        loc, raw, raw_df = features.chunk(3, -1)
        # between the reciprocals, in which the law changes evenly
        share = torch.sigmoid(raw_df)
        return IndependentStudentT(loc, positive(raw, self.min_stddev), 1 / (share / MIN_DF + (1 - share) / MAX_DF))


def _log_beta(a: Tensor, b: Tensor) -> Tensor:
    return torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)
