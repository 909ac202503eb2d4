"""Fast samplers of long functions: exact on chains and on grids, approximate by random features elsewhere."""

from abc import ABC, abstractmethod
from typing import NamedTuple

import numpy as np
import torch
from scipy.special import gammainccinv, ndtri

from datamodules import markov
from datamodules.kernels import (
    RBF,
    Kernel,
    Matern,
    Mixed,
    Periodic,
    Product,
    SpectralMixture,
    Sum,
    WeaklyPeriodic,
    draw,
)
from datamodules.sampled import distinct
from npexp.errors import ConfigError, DataError, at_least

STATIONARY = (RBF, Matern, Periodic, SpectralMixture, WeaklyPeriodic)
ROUNDING = 1e-12  # eigenvalues below zero by less, relative to the largest, are zero
DOUBLINGS = 4  # of the circle, before an embedding is given up
STEPS = 2**16  # of chains that are made at once: more would not fit a cache
ENTRIES = 2**22  # of a matrix of features: 32 MiB for each temporary


class Drawn(NamedTuple):
    """Points and functions of a batch.

    Args:
        x: points, `[b, n, dx]`, float32.
        y: functions there without noise, `[b, n]`, float64.
        u: what the hyperparameters were made from, `[b, k]`.
    """

    x: np.ndarray
    y: np.ndarray
    u: np.ndarray


class Sampler(ABC):
    """A way to draw functions of a family at many points.

    Attributes:
        kernel: the family.
        approximate: the law of the samples is not exactly that of the family.
        max_dx: largest input size.
        max_points: largest number of points.
    """

    kernel: Kernel
    approximate = False
    max_dx: float = 1
    max_points: float = float("inf")

    @abstractmethod
    def draw(self, rng: np.random.Generator, ends: tuple[float, float], b: int, n: int, dx: int) -> Drawn:
        """`b` functions at `n` points each, which lie between `ends` in every dimension."""


class Markov(Sampler):
    """Exact samples of Matérn functions at any points of one dimension, in O(n), with exact likelihoods.

    See `datamodules.markov` for the source.

    Args:
        kernel: the family, a `Matern`.
    """

    def __init__(self, kernel: Kernel):
        if not isinstance(kernel, Matern):
            raise ConfigError(
                f"expected a Matern kernel for Markov, got {type(kernel).__name__}: use it, Circulant or RandomFeatures"
            )
        self.kernel = kernel
        self.order = int(kernel.nu + 0.5)

    def draw(self, rng: np.random.Generator, ends: tuple[float, float], b: int, n: int, dx: int) -> Drawn:
        u = rng.random((b, self.kernel.num_hyper))
        x = rng.uniform(*ends, (b, n)).astype(np.float32)
        rate, scale = self.units(u)
        order = x.argsort(1)
        tau = markov.distances(np.take_along_axis(x, order, 1).astype(float), rate)
        chains, y = np.empty((b, n)), np.empty((b, n))
        tasks = max(1, STEPS // n)
        for start in range(0, b, tasks):
            part = tau[start : start + tasks]
            chains[start : start + tasks] = markov.sample(
                self.order, part, rng.standard_normal((*part.shape, self.order))
            )
        np.put_along_axis(y, order, scale[:, None] * chains, 1)
        return Drawn(x[..., None], y, u)

    def units(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`tau` per unit of x, and the standard deviation of the functions, `[b]` each."""
        kernel = self.kernel
        lengthscale, scale = (
            v.numpy()[:, 0, 0]
            for v in draw(torch.from_numpy(u), (kernel.lengthscale, kernel.scale), kernel.log_uniform)
        )
        return np.sqrt(2 * kernel.nu) / lengthscale, scale


class Circulant(Sampler):
    """Exact samples of stationary functions on a regular grid of one dimension, by FFT in O(n log n).

    The grid is bent to a circle, twice as long or more, whose covariance the Fourier transform diagonalises
    (Dietrich and Newsam 1997, Fast and exact simulation of stationary Gaussian processes; Wood and Chan 1994). Points
    are drawn from the grid, no point twice in a task.

    Args:
        kernel: the family, stationary.
        num_points: points of the grid.

    Raises:
        ConfigError: a family that is not stationary, or has several outputs.
    """

    def __init__(self, kernel: Kernel, num_points: int = 4096):
        if not stationary(kernel):
            raise ConfigError(
                f"expected a stationary kernel of one output for Circulant, got {type(kernel).__name__}: use one of "
                + ", ".join(family.__name__ for family in STATIONARY)
            )
        self.kernel = kernel
        self.num_points = at_least("num_points", num_points, 2)
        self.max_points = num_points

    def draw(self, rng: np.random.Generator, ends: tuple[float, float], b: int, n: int, dx: int) -> Drawn:
        u = rng.random((b, self.kernel.num_hyper))
        places = distinct(rng, np.full(b, self.num_points), n, None)
        step = (ends[1] - ends[0]) / (self.num_points - 1)
        values = self.eigenvalues(u, step)
        on_grid = self.on_grid(values, rng.standard_normal((b, 2 * values.shape[1] - 2)))
        x = (ends[0] + step * places).astype(np.float32)
        return Drawn(x[..., None], np.take_along_axis(on_grid, places, 1), u)

    def eigenvalues(self, u: np.ndarray, step: float) -> np.ndarray:
        """Half of those of each task's circle, `[b, points]`, all at least zero.

        Raises:
            DataError: no circle of a covariance is a covariance.
        """
        points = self.num_points
        for _ in range(DOUBLINGS):
            lags = torch.arange(points, dtype=torch.float64)[None, :, None] * step
            row = self.kernel.covariance(torch.from_numpy(u), torch.zeros_like(lags[:, :1]), lags)[:, 0].numpy()
            values = np.fft.rfft(np.concatenate([row, row[:, -2:0:-1]], 1)).real
            worst = (values.min(1) / values.max(1)).min()
            if worst > -ROUNDING:
                return values.clip(0)
            points = 2 * points
        raise DataError(
            f"expected a covariance that fades on the grid of {self.num_points} points, got eigenvalues down to "
            f"{worst:.1e} of the largest on a circle: widen input_range or shorten the lengthscales"
        )

    def on_grid(self, values: np.ndarray, white: np.ndarray) -> np.ndarray:
        """Functions on the grid, `[b, num_points]`, from white noise on the circle, `[b, 2 points - 2]`."""
        circle = np.fft.irfft(np.sqrt(values) * np.fft.rfft(white), white.shape[1])
        return circle[:, : self.num_points]


class RandomFeatures(Sampler):
    """Approximate samples in any dimension: sums of cosines with random frequencies, in O(n num_features).

    Over all draws the covariance is exact, but a task's own functions are spanned by its `num_features` waves (Rahimi
    and Recht 2007, Random features for large-scale kernel machines): they have less detail than the family.

    Args:
        kernel: the family, `RBF` or `Matern`.
        num_features: waves of each function; errors of a task's covariance fall as one over their root.
    """

    approximate = True
    max_dx = float("inf")

    def __init__(self, kernel: Kernel, num_features: int = 1024):
        if not isinstance(kernel, RBF | Matern):
            raise ConfigError(
                f"expected RBF or Matern for RandomFeatures, got {type(kernel).__name__}: use one of them"
            )
        self.kernel = kernel
        self.num_features = at_least("num_features", num_features, 1)

    def draw(self, rng: np.random.Generator, ends: tuple[float, float], b: int, n: int, dx: int) -> Drawn:
        u = rng.random((b, self.kernel.num_hyper))
        x = rng.uniform(*ends, (b, n, dx)).astype(np.float32)
        frequencies, scale = self.frequencies(u, rng.random((b, self.num_features, dx + 1)))
        phases = 2 * np.pi * rng.random((b, 1, self.num_features))
        weights = scale[:, None] * rng.standard_normal((b, self.num_features))
        y = np.empty((b, n))
        rows = max(1, ENTRIES // self.num_features)
        for task in range(b):
            for start in range(0, n, rows):
                part = slice(start, start + rows)
                waves = features(x[task, part].astype(float), frequencies[task], phases[task])
                y[task, part] = waves @ weights[task]
        return Drawn(x, y, u)

    def frequencies(self, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Frequencies `[b, num_features, dx]` and standard deviations `[b]`, from uniform numbers `[.., dx + 1]`.

        They are normal for `RBF`, and Student-t with 2 nu degrees of freedom for `Matern`.
        """
        kernel = self.kernel
        lengthscale, scale = (
            w.numpy() for w in draw(torch.from_numpy(u), (kernel.lengthscale, kernel.scale), kernel.log_uniform)
        )
        frequencies = ndtri(v[..., :-1]) / lengthscale
        if isinstance(kernel, Matern):
            frequencies /= np.sqrt(gammainccinv(kernel.nu, v[..., -1:]) / kernel.nu)  # chi-square over its mean
        return frequencies, scale[:, 0, 0]


def features(x: np.ndarray, frequencies: np.ndarray, phases: np.ndarray) -> np.ndarray:
    """Waves of one task at points `[n, dx]`, `[n, m]`, whose products have the mean of the covariance."""
    return np.cos(x @ frequencies.T + phases) * np.sqrt(2 / len(frequencies))


def stationary(kernel: Kernel) -> bool:
    """Whether the covariances of a family depend on differences of inputs only, and are of one output."""
    if isinstance(kernel, Sum | Product | Mixed):
        return all(stationary(part) for part in kernel.kernels)
    return isinstance(kernel, STATIONARY)
