"""The diagonal Gaussian head."""

import math
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import softplus
from torch.special import ndtr, ndtri

from npexp.errors import ConfigError
from npexp.likelihoods.base import Likelihood, Predictive, check_outputs, hide_padding, standard_normal
from npexp.likelihoods.mixture import SetMixture
from npexp.ops.normal import mean_absolute, normal_log_prob


class DiagonalGaussian(Predictive):
    """Independent normal outputs.

    Args:
        mean: `[b, nt, dy]`.
        stddev: `[b, nt, dy]`, positive.
    """

    def __init__(self, mean: Float[Tensor, "b nt dy"], stddev: Float[Tensor, "b nt dy"]):
        self._mean, self._stddev = mean, stddev

    @property
    def mean(self) -> Float[Tensor, "b nt dy"]:
        """Mean of each output."""
        return self._mean

    @property
    def stddev(self) -> Float[Tensor, "b nt dy"]:
        """Standard deviation of each output."""
        return self._stddev

    def joint_log_prob(
        self, yt: Float[Tensor, "b nt dy"], mask_t: Bool[Tensor, "b nt"] | None = None
    ) -> Float[Tensor, " b"]:
        """The sum of the marginals, O(nt)."""
        check_outputs(yt, self._mean, mask_t)
        log_prob = self.marginal_log_prob(hide_padding(yt, self._mean.detach(), mask_t))
        if mask_t is not None:
            log_prob = torch.where(mask_t, log_prob, torch.zeros_like(log_prob))
        return log_prob.sum(-1)

    def marginal_log_prob(self, yt: Float[Tensor, "b nt dy"]) -> Float[Tensor, "b nt"]:
        """Normal log density of each target, summed over outputs."""
        check_outputs(yt, self._mean)
        return normal_log_prob(yt, self._mean, self._stddev).sum(-1)

    def sample(self, n: int, seed: int | None = None) -> Float[Tensor, "n b nt dy"]:
        """Independent draws."""
        return self._mean + self._stddev * standard_normal(n, self._mean, seed)

    def cdf(self, y: Float[Tensor, "... b nt dy"]) -> Float[Tensor, "... b nt dy"]:
        """Normal distribution function."""
        return ndtr((y - self._mean) / self._stddev)

    def crps(self, y: Float[Tensor, "b nt dy"]) -> Float[Tensor, "b nt dy"]:
        """Closed form (Gneiting & Raftery 2007, eq. 21)."""
        return mean_absolute(y - self._mean, self._stddev) - self._stddev / math.sqrt(math.pi)

    def quantile(self, levels: Float[Tensor, " q"]) -> Float[Tensor, "q b nt dy"]:
        """Closed form."""
        return self._mean + self._stddev * ndtri(torch.as_tensor(levels).to(self._mean))[:, None, None, None]


class Gaussian(Likelihood):
    """Normal outputs with a standard deviation per target and output, the default head of every model.

    Args:
        min_stddev: floor f on the standard deviation, in units of y. Without one, a few over-confident targets cost
            whole batches; a floor above the noise of the data caps the log-likelihood at -log f - 0.92.
        scale: "softplus" gives f + (1 - f) softplus(raw), "exp" gives f + exp(raw).
    """

    def __init__(self, min_stddev: float = 0.0, scale: Literal["softplus", "exp"] = "softplus"):
        super().__init__()
        if not 0 <= min_stddev < 1:
            raise ConfigError(f"expected 0 <= min_stddev < 1 (in units of y), got {min_stddev}: rescale y or lower it")
        self.min_stddev, self.scale = min_stddev, scale

    def num_features(self, dy: int) -> int:
        """Mean and raw scale of each output: 2 dy."""
        return 2 * dy

    def forward(self, features: Float[Tensor, "*s b nt f"]) -> Predictive:
        """`[b, nt, 2 dy]` to independent normals; `[s, b, nt, 2 dy]` to an equal mixture of s of them per set."""
        features = features.to(torch.promote_types(features.dtype, torch.float32))
        mean, raw = features.chunk(2, -1)
        f = self.min_stddev
        stddev = f + raw.exp() if self.scale == "exp" else f + (1 - f) * softplus(raw)
        return DiagonalGaussian(mean, stddev) if mean.ndim == 3 else SetMixture(mean, stddev)
