"""Families of covariance functions: every task draws its own hyperparameters from the family's law.

A family turns uniform numbers into hyperparameters by inverting their distribution functions, so the same code serves
a random generator (sampling tasks) and a Sobol sequence (integrating over unknown hyperparameters).

Covariances come from GPyTorch's kernel classes, called below their lazy wrappers, which would cost more than the
arithmetic at the sizes of a task. Constraints without a transform let a hyperparameter be set to any batch of values
exactly; in float64, because stationary covariances of nearby points are too close to singular for float32. Distances
are our own, from differences.

In several dimensions distances are Euclidean (`RBF`, `Matern`), or the covariance is the product over dimensions
(`Periodic`, `SpectralMixture`).
"""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cache, reduce

import torch
from jaxtyping import Float
from torch import Tensor

from datamodules.settings import interval
from npexp.errors import ConfigError, at_least

with warnings.catch_warnings():  # its import compiles functions in a way that torch has deprecated
    warnings.simplefilter("ignore", DeprecationWarning)
    import gpytorch
    from gpytorch.constraints import Positive

Range = Sequence[float]  # [low, high]; equal ends fix the hyperparameter


class Kernel(ABC):
    """A distribution over covariance functions. Compose families with `Sum`, `Product` and `Mixed`."""

    num_hyper: int  # uniform numbers that one task consumes
    num_outputs: int = 1  # rows of a point in a covariance, one after the other

    @abstractmethod
    def covariance(
        self, u: Float[Tensor, "b k"], x1: Float[Tensor, "#b n dx"], x2: Float[Tensor, "#b m dx"]
    ) -> Float[Tensor, "b r s"]:
        """Covariances between two sets of points, one covariance function per task; `r` = n `num_outputs`, `s` alike.

        The result is a new tensor, which the caller may change in place.

        Args:
            u: what each task's hyperparameters are made from, in [0, 1], `k` = `num_hyper`, float64.
            x1: points, float64; one task's points serve all `b` functions.
            x2: points, float64; pass `x1` itself for the covariance of one set.
        """


class RBF(Kernel):
    """The squared exponential, scale^2 exp(-d^2 / (2 lengthscale^2)): infinitely smooth functions.

    Args:
        lengthscale: range, in units of the inputs.
        scale: range of the standard deviation.
        log_uniform: draw each range uniformly in its logarithm.
    """

    def __init__(self, lengthscale: Range = (0.1, 0.6), scale: Range = (0.1, 1.0), log_uniform: bool = False):
        self.lengthscale = interval("lengthscale", lengthscale, positive=True)
        self.scale = interval("scale", scale, positive=True)
        self.log_uniform = log_uniform
        self.num_hyper = 2
        self._kernel = plain(gpytorch.kernels.RBFKernel(lengthscale_constraint=untransformed()))

    def covariance(
        self, u: Float[Tensor, "b k"], x1: Float[Tensor, "#b n dx"], x2: Float[Tensor, "#b m dx"]
    ) -> Float[Tensor, "b n m"]:
        lengthscale, scale = draw(u, (self.lengthscale, self.scale), self.log_uniform)
        self._kernel.raw_lengthscale.data = lengthscale
        return self._kernel.forward(x1, x2).mul_(scale.square())


class Matern(Kernel):
    """The Matérn class: functions with finitely many derivatives (`nu` 0.5 none, 1.5 one, 2.5 two).

    Args:
        nu: smoothness, 0.5, 1.5 or 2.5.
        lengthscale: range, in units of the inputs.
        scale: range of the standard deviation.
        log_uniform: draw each range uniformly in its logarithm.
    """

    def __init__(
        self,
        nu: float = 2.5,
        lengthscale: Range = (0.1, 0.6),
        scale: Range = (0.1, 1.0),
        log_uniform: bool = False,
    ):
        if nu not in (0.5, 1.5, 2.5):
            raise ConfigError(f"expected nu to be 0.5, 1.5 or 2.5, got {nu}: choose one of them, or RBF as its limit")
        self.nu = nu
        self.lengthscale = interval("lengthscale", lengthscale, positive=True)
        self.scale = interval("scale", scale, positive=True)
        self.log_uniform = log_uniform
        self.num_hyper = 2
        self._kernel = plain(gpytorch.kernels.MaternKernel(nu=nu, lengthscale_constraint=untransformed()))

    def covariance(
        self, u: Float[Tensor, "b k"], x1: Float[Tensor, "#b n dx"], x2: Float[Tensor, "#b m dx"]
    ) -> Float[Tensor, "b n m"]:
        lengthscale, scale = draw(u, (self.lengthscale, self.scale), self.log_uniform)
        self._kernel.raw_lengthscale.data = lengthscale
        return self._kernel.forward(x1, x2).mul_(scale.square())


class Periodic(Kernel):
    """Functions that repeat exactly, scale^2 exp(-2 sum_i sin^2(pi d_i / period) / lengthscale^2).

    Args:
        period: range, in units of the inputs.
        lengthscale: range; without units, it sets how much happens within a period.
        scale: range of the standard deviation.
        log_uniform: draw each range uniformly in its logarithm.
    """

    def __init__(
        self,
        period: Range = (0.1, 0.5),
        lengthscale: Range = (0.1, 0.6),
        scale: Range = (0.1, 1.0),
        log_uniform: bool = False,
    ):
        self.period = interval("period", period, positive=True)
        self.lengthscale = interval("lengthscale", lengthscale, positive=True)
        self.scale = interval("scale", scale, positive=True)
        self.log_uniform = log_uniform
        self.num_hyper = 3
        self._kernel = plain(
            gpytorch.kernels.PeriodicKernel(
                lengthscale_constraint=untransformed(), period_length_constraint=untransformed()
            )
        )

    def covariance(
        self, u: Float[Tensor, "b k"], x1: Float[Tensor, "#b n dx"], x2: Float[Tensor, "#b m dx"]
    ) -> Float[Tensor, "b n m"]:
        period, lengthscale, scale = draw(u, (self.period, self.lengthscale, self.scale), self.log_uniform)
        self._kernel.raw_period_length.data = period
        self._kernel.raw_lengthscale.data = lengthscale.square()  # GPyTorch divides by its lengthscale, not the square
        return self._kernel.forward(x1, x2).mul_(scale.square())


class WeaklyPeriodic(Kernel):
    """Functions that repeat while slowly changing shape: the product of `RBF` and `Periodic`.

    Args:
        lengthscale: range of the distance over which the shape changes, in units of the inputs.
        period: range, in units of the inputs.
        periodic_lengthscale: range; without units, it sets how much happens within a period.
        scale: range of the standard deviation.
        log_uniform: draw each range uniformly in its logarithm.
    """

    def __init__(
        self,
        lengthscale: Range = (0.5, 2.0),
        period: Range = (0.25, 1.0),
        periodic_lengthscale: Range = (0.5, 1.5),
        scale: Range = (0.1, 1.0),
        log_uniform: bool = False,
    ):
        self.lengthscale = interval("lengthscale", lengthscale, positive=True)
        self.period = interval("period", period, positive=True)
        self.periodic_lengthscale = interval("periodic_lengthscale", periodic_lengthscale, positive=True)
        self.scale = interval("scale", scale, positive=True)
        self.log_uniform = log_uniform
        envelope = RBF(self.lengthscale, (1.0, 1.0), log_uniform)
        self._product = Product([envelope, Periodic(self.period, self.periodic_lengthscale, self.scale, log_uniform)])
        self.num_hyper = self._product.num_hyper

    def covariance(
        self, u: Float[Tensor, "b k"], x1: Float[Tensor, "#b n dx"], x2: Float[Tensor, "#b m dx"]
    ) -> Float[Tensor, "b n m"]:
        return self._product.covariance(u, x1, x2)


class SpectralMixture(Kernel):
    """Mixtures of Gaussians as spectral density (Wilson and Adams 2013, arXiv 1302.4245): quasi-periodic functions.

    The covariance is scale^2 prod_i sum_q w_q exp(-2 pi^2 d_i^2 bandwidth_q^2) cos(2 pi d_i frequency_q), with weights
    uniform on the simplex and the same mixture in every dimension.

    Args:
        num_components: Gaussians in the mixture.
        frequency: range of their means, in cycles per unit of the inputs.
        bandwidth: range of their standard deviations, in the same units.
        scale: range of the standard deviation of the function.
        log_uniform: draw each range uniformly in its logarithm.
    """

    def __init__(
        self,
        num_components: int = 3,
        frequency: Range = (0.1, 3.0),
        bandwidth: Range = (0.1, 0.5),
        scale: Range = (0.1, 1.0),
        log_uniform: bool = False,
    ):
        self.num_components = at_least("num_components", num_components, 1)
        self.frequency = interval("frequency", frequency, positive=True)
        self.bandwidth = interval("bandwidth", bandwidth, positive=True)
        self.scale = interval("scale", scale, positive=True)
        self.log_uniform = log_uniform
        self.num_hyper = 1 + 3 * num_components
        names = ("mixture_weights", "mixture_means", "mixture_scales")
        constraints = {f"{name}_constraint": untransformed() for name in names}
        self._kernel = plain(gpytorch.kernels.SpectralMixtureKernel(num_components, **constraints))

    def covariance(
        self, u: Float[Tensor, "b k"], x1: Float[Tensor, "#b n dx"], x2: Float[Tensor, "#b m dx"]
    ) -> Float[Tensor, "b n m"]:
        q, kernel = self.num_components, self._kernel
        ranges = (self.scale, *[self.frequency] * q, *[self.bandwidth] * q)
        scale, *others = draw(u[:, : len(ranges)], ranges, self.log_uniform)
        kernel.raw_mixture_means.data = torch.stack(others[:q], 1)  # [b, q, 1, 1]
        kernel.raw_mixture_scales.data = torch.stack(others[q:], 1)
        weights = -torch.log1p(-u[:, len(ranges) :].clamp(1e-12, 1 - 1e-12))  # ratios of exponentials fill the simplex
        kernel.raw_mixture_weights.data = weights / weights.sum(1, keepdim=True)
        kernel.ard_num_dims = x1.shape[-1]
        return kernel.forward(x1, x2).mul_(scale.square())


class Sum(Kernel):
    """Sums of independent functions, one from each family.

    Args:
        kernels: the families.
    """

    def __init__(self, kernels: list[Kernel]):
        self.kernels = members("Sum", kernels)
        self.num_hyper = sum(kernel.num_hyper for kernel in kernels)
        self.num_outputs = kernels[0].num_outputs

    def covariance(
        self, u: Float[Tensor, "b k"], x1: Float[Tensor, "#b n dx"], x2: Float[Tensor, "#b m dx"]
    ) -> Float[Tensor, "b r s"]:
        parts = u.split([kernel.num_hyper for kernel in self.kernels], 1)
        return reduce(Tensor.add_, (k.covariance(p, x1, x2) for k, p in zip(self.kernels, parts, strict=True)))


class Product(Kernel):
    """Products of covariances, one from each family; their scales multiply.

    Args:
        kernels: the families.
    """

    def __init__(self, kernels: list[Kernel]):
        self.kernels = members("Product", kernels)
        self.num_hyper = sum(kernel.num_hyper for kernel in kernels)
        self.num_outputs = kernels[0].num_outputs

    def covariance(
        self, u: Float[Tensor, "b k"], x1: Float[Tensor, "#b n dx"], x2: Float[Tensor, "#b m dx"]
    ) -> Float[Tensor, "b r s"]:
        parts = u.split([kernel.num_hyper for kernel in self.kernels], 1)
        return reduce(Tensor.mul_, (k.covariance(p, x1, x2) for k, p in zip(self.kernels, parts, strict=True)))


class Mixed(Kernel):
    """Each task picks one of several families, all equally likely. List a family twice to make it twice as likely.

    Args:
        kernels: the families.
    """

    def __init__(self, kernels: list[Kernel]):
        self.kernels = members("Mixed", kernels)
        self.num_hyper = 1 + max(kernel.num_hyper for kernel in kernels)
        self.num_outputs = kernels[0].num_outputs

    def covariance(
        self, u: Float[Tensor, "b k"], x1: Float[Tensor, "#b n dx"], x2: Float[Tensor, "#b m dx"]
    ) -> Float[Tensor, "b r s"]:
        family = (u[:, 0] * len(self.kernels)).long().clamp(max=len(self.kernels) - 1)
        result = u.new_empty(u.shape[0], x1.shape[1] * self.num_outputs, x2.shape[1] * self.num_outputs)
        for number, kernel in enumerate(self.kernels):
            rows = (family == number).nonzero()[:, 0]  # the tasks of one family go through its kernel together
            if len(rows):
                hyper = u[rows, 1 : 1 + kernel.num_hyper]
                result.index_copy_(0, rows, kernel.covariance(hyper, of_tasks(x1, rows), of_tasks(x2, rows)))
        return result


def members(name: str, kernels: list[Kernel]) -> list[Kernel]:
    """Returns the families of a composed one.

    Raises:
        ConfigError: there are none, or they differ in their number of outputs.
    """
    if not kernels:
        raise ConfigError(f"expected {name} to hold at least one kernel, got none: list its kernels")
    outputs = [kernel.num_outputs for kernel in kernels]
    if len(set(outputs)) > 1:
        raise ConfigError(f"expected kernels of {name} with as many outputs each, got {outputs}: use families of one")
    return kernels


def of_tasks(x: Float[Tensor, "b n dx"], rows: Tensor) -> Float[Tensor, "r n dx"]:
    """The points of some tasks; points shared by all tasks stay shared."""
    return x if x.shape[0] == 1 else x[rows]


def draw(u: Float[Tensor, "b k"], ranges: Sequence[Range], log_uniform: bool) -> list[Float[Tensor, "b 1 1"]]:
    """Uniform numbers to hyperparameters, one `[b, 1, 1]` tensor per range."""
    low, step = (v.to(u) for v in ends(tuple(ranges), log_uniform))
    values = low * step**u if log_uniform else torch.addcmul(low, step, u)
    return list(values[:, :, None, None].unbind(1))


@cache
def ends(ranges: tuple[tuple[float, float], ...], log_uniform: bool) -> tuple[Float[Tensor, " k"], Float[Tensor, " k"]]:
    """Low ends, and what leads from them to the high ones; made once, as a tensor of Python numbers is slow to make."""
    low, high = torch.tensor(ranges, dtype=torch.float64).T
    return low, high / low if log_uniform else high - low


def distances(
    x1: Float[Tensor, "*b n dx"],
    x2: Float[Tensor, "*b m dx"],
    diag: bool = False,
    last_dim_is_batch: bool = False,
    square_dist: bool = False,
) -> Float[Tensor, "... n m"]:
    """Euclidean distances, or their squares: the method `covar_dist` of GPyTorch's kernels, by differences.

    GPyTorch expands the square instead, which loses the distances of near points to rounding and takes several times
    as long at the sizes of a task.

    Args:
        x1: points.
        x2: points.
        diag: always False, as nobody here asks for a diagonal alone.
        last_dim_is_batch: a matrix for each dimension, `[..., dx, n, m]`.
        square_dist: the squares.
    """
    if last_dim_is_batch:
        x1, x2 = x1.mT[..., None], x2.mT[..., None]  # [..., dx, n, 1]
    apart = x1[..., :, None, 0] - x2[..., None, :, 0]
    if x1.shape[-1] == 1:
        return apart.square_() if square_dist else apart.abs_()
    square = apart.square_()
    for d in range(1, x1.shape[-1]):  # a sum over an axis as short as this would take ten times as long
        apart = x1[..., :, None, d] - x2[..., None, :, d]
        square.addcmul_(apart, apart)
    return square if square_dist else square.sqrt_()


def untransformed() -> Positive:
    """A constraint that stores a hyperparameter as it is: no rounding, and any batch shape may be assigned."""
    return Positive(transform=None)


def plain(kernel: gpytorch.kernels.Kernel) -> gpytorch.kernels.Kernel:
    """The kernel in float64, with our distances and without gradients, which would cost half as much again."""
    kernel.covar_dist = distances
    return kernel.double().requires_grad_(False)
