"""The normal law, elementwise."""

import math

from torch import Tensor
from torch.special import ndtr

LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


def normal_log_prob(y: Tensor, mean: Tensor, stddev: Tensor) -> Tensor:
    """Log density, in nats."""
    return -0.5 * ((y - mean) / stddev).square() - stddev.log() - LOG_SQRT_2PI


def mean_absolute(mean: Tensor, stddev: Tensor) -> Tensor:
    """E|X| of a normal X: mean (2 Phi(z) - 1) + 2 stddev phi(z) with z = mean / stddev."""
    z = mean / stddev
    return mean * (2 * ndtr(z) - 1) + 2 * stddev * (-0.5 * z.square() - LOG_SQRT_2PI).exp()
