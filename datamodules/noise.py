"""Laws of the observation noise: where a plain number, the standard deviation, does not say enough."""

from abc import ABC, abstractmethod

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from datamodules.kernels import Range
from datamodules.settings import interval
from datamodules.waves import NUM_HYPER, wave
from npexp.errors import at_least, positive


class Noise(ABC):
    """A law of independent noise, of which each task may draw hyperparameters: a Gaussian part, and what is added."""

    num_hyper: int = 0  # uniform numbers that one task consumes
    gaussian: bool = True  # nothing is added to the Gaussian part, so that likelihoods are exact

    @abstractmethod
    def stddev(self, u: Float[Tensor, "b k"], x: Float[Tensor, "#b n dx"]) -> float | Float[Tensor, "b n"]:
        """Standard deviation of the Gaussian part: one number for all, or one per point.

        Args:
            u: what each task's hyperparameters are made from, in [0, 1], `k` = `num_hyper`, float64.
            x: points, float64.
        """

    def added(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Float[Tensor, "..."]:
        """What comes on top of the Gaussian part, drawn anew for every output, float64."""
        return torch.zeros(shape, dtype=torch.float64)


class Gaussian(Noise):
    """The same normal noise everywhere: what a plain number stands for.

    Args:
        scale: its standard deviation.
    """

    def __init__(self, scale: float = 0.02):
        self.scale = at_least("noise", scale, 0.0)

    def stddev(self, u: Float[Tensor, "b k"], x: Float[Tensor, "#b n dx"]) -> float:
        return float(self.scale)


class Heteroscedastic(Noise):
    """Normal noise whose standard deviation is a function of the inputs, drawn by each task: likelihoods stay exact.

    Its logarithm is a sine wave between two values of the task's own.

    Args:
        scale: range of the standard deviation, log-uniform at both ends of the wave.
        period: range of the wave's period, in units of the inputs, log-uniform.
    """

    num_hyper = NUM_HYPER

    def __init__(self, scale: Range = (0.02, 0.5), period: Range = (1.0, 8.0)):
        self.scale = interval("scale", scale, positive=True)
        self.period = interval("period", period, positive=True)

    def stddev(self, u: Float[Tensor, "b k"], x: Float[Tensor, "#b n dx"]) -> Float[Tensor, "b n"]:
        return wave(u, x, self.scale, self.period)


class StudentT(Noise):
    """Heavy-tailed noise: a Student-t variable times a uniform number, besides normal noise.

    The defaults are the robustness protocol of the code released with Lee et al. 2020 (BNP, arXiv 2008.02956) and
    Nguyen and Grover 2022 (TNP, arXiv 2207.04179). No likelihood is exact.

    Args:
        dof: degrees of freedom; the variance is finite above 2.
        scale: range of the factor, uniform, drawn anew for every output.
        normal: standard deviation of the normal noise besides.
    """

    gaussian = False

    def __init__(self, dof: float = 2.1, scale: Range = (0.0, 0.15), normal: float = 0.02):
        self.dof = positive("dof", dof)
        self.scale = interval("scale", scale, low=0.0)
        self.normal = at_least("normal", normal, 0.0)

    def stddev(self, u: Float[Tensor, "b k"], x: Float[Tensor, "#b n dx"]) -> float:
        return float(self.normal)

    def added(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Float[Tensor, "..."]:
        return torch.from_numpy(rng.uniform(*self.scale, shape) * rng.standard_t(self.dof, shape))


def as_noise(noise: float | Noise) -> Noise:
    """The law that a setting stands for: itself, or normal noise of that standard deviation."""
    return noise if isinstance(noise, Noise) else Gaussian(noise)
