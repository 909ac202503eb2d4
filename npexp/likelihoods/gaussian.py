"""The diagonal Gaussian: the default head of every model."""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import softplus
from torch.special import ndtr, ndtri

from npexp.errors import ConfigError, UnknownNameError
from npexp.layers.mlp import mlp
from npexp.likelihoods.base import Factorised, Head, Likelihood, standard_normal
from npexp.ops.normal import mean_absolute, normal_log_prob


class DiagonalGaussian(Factorised):
    """Independent normal outputs.

    Args:
        mean: `[*s, b, nt, dy]`.
        stddev: `[*s, b, nt, dy]`, positive.
    """

    def __init__(self, mean: Float[Tensor, "*s b nt dy"], stddev: Float[Tensor, "*s b nt dy"]):
        self._mean, self._stddev = mean, stddev

    @property
    def mean(self) -> Float[Tensor, "*s b nt dy"]:
        """Mean of each output."""
        return self._mean

    @property
    def stddev(self) -> Float[Tensor, "*s b nt dy"]:
        """Standard deviation of each output."""
        return self._stddev

    def log_density(self, y: Float[Tensor, "... b nt dy"]) -> Float[Tensor, "... b nt dy"]:
        """Normal log density."""
        return normal_log_prob(y, self._mean, self._stddev)

    def sample(self, n: int, seed: int | None = None) -> Float[Tensor, "n *s b nt dy"]:
        """Independent draws."""
        return self._mean + self._stddev * standard_normal(n, self._mean, seed)

    def cdf(self, y: Float[Tensor, "... b nt dy"]) -> Float[Tensor, "... b nt dy"]:
        """Normal distribution function."""
        return ndtr((y - self._mean) / self._stddev)

    def icdf(self, level: Float[Tensor, "... b nt dy"]) -> Float[Tensor, "... b nt dy"]:
        """Closed form."""
        return self._mean + self._stddev * ndtri(level)

    def crps(self, y: Float[Tensor, "b nt dy"]) -> Float[Tensor, "b nt dy"]:
        """Closed form (Gneiting & Raftery 2007, eq. 21)."""
        return mean_absolute(y - self._mean, self._stddev) - self._stddev / math.sqrt(math.pi)


class Gaussian(Likelihood):
    """Normal outputs with a standard deviation per target and output, the default head of every model.

    Args:
        min_stddev: floor f on the standard deviation, in units of y. Without one, a few over-confident targets cost
            whole batches; a floor above the noise of the data caps the log-likelihood at -log f - 0.92.
        scale: "softplus" gives f + (1 - f) softplus(raw), "exp" gives f + exp(raw).
        homoscedastic: one learned standard deviation per output instead, the same at every target.
    """

    def __init__(
        self, min_stddev: float = 0.0, scale: Literal["softplus", "exp"] = "softplus", homoscedastic: bool = False
    ):
        super().__init__()
        if scale not in ("softplus", "exp"):
            raise UnknownNameError("scale", scale, ("softplus", "exp"))
        self.min_stddev, self.scale = check_floor("min_stddev", min_stddev), scale
        self.homoscedastic = homoscedastic

    def num_features(self, dy: int) -> int:
        """Mean and raw scale of each output: 2 dy."""
        return 2 * dy

    def head(self, dim_in: int, dim_hidden: int, dy: int, depth: int) -> Head:
        """Homoscedastic: a network for the mean, and a parameter per output."""
        if not self.homoscedastic:
            return super().head(dim_in, dim_hidden, dy, depth)
        return Head(self, nn.Sequential(mlp(dim_in, dim_hidden, dy, depth), Constant(dy)))

    def forward(self, features: Float[Tensor, "*s b nt f"]) -> DiagonalGaussian:
        """Means and raw scales, `[*s, b, nt, 2 dy]`, to independent normals."""
        mean, raw = features.chunk(2, -1)
        return DiagonalGaussian(mean, positive(raw, self.min_stddev, self.scale))


class Constant(nn.Module):
    """Appends learned numbers that are the same for every target: `[..., d]` to `[..., d + k]`, 0 at first."""

    def __init__(self, k: int):
        super().__init__()
        self.value = nn.Parameter(torch.zeros(k))

    def forward(self, h: Tensor) -> Tensor:
        """`[..., d]` to `[..., d + k]`."""
        return torch.cat([h, self.value.to(h.dtype).expand(*h.shape[:-1], -1)], -1)


def check_floor(name: str, floor: float) -> float:
    """Returns a floor in [0, 1), else raises `ConfigError`."""
    if not 0 <= floor < 1:
        raise ConfigError(f"expected 0 <= {name} < 1, got {floor}: rescale y or lower it")
    return floor


def positive(raw: Tensor, floor: float, scale: str = "softplus") -> Tensor:
    """f + (1 - f) softplus(raw), or f + exp(raw) with scale "exp"."""
    return floor + raw.exp() if scale == "exp" else floor + (1 - floor) * softplus(raw)
