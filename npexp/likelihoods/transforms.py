"""Increasing maps from the real line to the outputs' range, each with the logarithm of its slope.

A transform is named after what it does to data: with "log", the logarithm of y follows the law.
"""

import inspect
import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from npexp.errors import ConfigError, UnknownNameError, suggest


class Transform(ABC):
    """An increasing map z -> y from the real line onto (low, high).

    Attributes:
        low: lower end of the outputs' range.
        high: its upper end.
        explosive: whether y grows exponentially in z, so that heavy tails would leave it without a mean.
    """

    low: float = -math.inf
    high: float = math.inf
    explosive: bool = False

    @abstractmethod
    def forward(self, z: Tensor) -> Tensor:
        """y of z."""

    @abstractmethod
    def inverse(self, y: Tensor) -> Tensor:
        """z of y, for y strictly inside the range."""

    @abstractmethod
    def log_slope(self, z: Tensor) -> Tensor:
        """log dy/dz at z."""


class Log(Transform):
    """y = exp z, for positive outputs that span orders of magnitude."""

    low, explosive = 0.0, True

    def forward(self, z: Tensor) -> Tensor:
        """exp z."""
        return z.exp()

    def inverse(self, y: Tensor) -> Tensor:
        """log y."""
        return y.log()

    def log_slope(self, z: Tensor) -> Tensor:
        """z."""
        return z


class Softplus(Transform):
    """y = log(1 + exp z), for positive outputs: as exp below 1, as the identity above."""

    low = 0.0

    def forward(self, z: Tensor) -> Tensor:
        """softplus z."""
        return softplus(z)

    def inverse(self, y: Tensor) -> Tensor:
        """log(exp y - 1)."""
        return y + (-(-y).expm1()).log()

    def log_slope(self, z: Tensor) -> Tensor:
        """log of the sigmoid."""
        return logsigmoid(z)


class Logit(Transform):
    """y = low + (high - low) / (1 + exp(-z)), for outputs between two bounds.

    Args:
        low: lower bound.
        high: upper bound.
    """

    def __init__(self, low: float = 0.0, high: float = 1.0):
        if not -math.inf < low < high < math.inf:
            raise ConfigError(f"expected finite low < high, got low={low} and high={high}: swap or correct them")
        self.low, self.high = low, high

    def forward(self, z: Tensor) -> Tensor:
        """Between the bounds."""
        return self.low + (self.high - self.low) * torch.sigmoid(z)

    def inverse(self, y: Tensor) -> Tensor:
        """The log odds of y's place between the bounds; finite for every y strictly between them."""
        return (y - self.low).log() - (self.high - y).log()

    def log_slope(self, z: Tensor) -> Tensor:
        """Of the sigmoid, times the width."""
        return math.log(self.high - self.low) + logsigmoid(z) + logsigmoid(-z)


class Asinh(Transform):
    """y = scale sinh z, for outputs of both signs with long tails: as the identity near 0, as exp far away.

    Args:
        scale: where the one turns into the other, in units of y.
    """

    explosive = True

    def __init__(self, scale: float = 1.0):
        self.scale = _positive("scale", scale)

    def forward(self, z: Tensor) -> Tensor:
        """scale sinh z."""
        return self.scale * z.sinh()

    def inverse(self, y: Tensor) -> Tensor:
        """asinh(y / scale)."""
        return (y / self.scale).asinh()

    def log_slope(self, z: Tensor) -> Tensor:
        """log(scale cosh z)."""
        return math.log(self.scale) + z.abs() + softplus(-2 * z.abs()) - math.log(2)


class Shift(Transform):
    """y = shift + scale z.

    Args:
        shift: in units of y.
        scale: in units of y, positive.
    """

    def __init__(self, shift: float = 0.0, scale: float = 1.0):
        if not math.isfinite(shift):
            raise ConfigError(f"expected a finite shift, got {shift}")
        self.shift, self.scale = shift, _positive("scale", scale)

    def forward(self, z: Tensor) -> Tensor:
        """shift + scale z."""
        return self.shift + self.scale * z

    def inverse(self, y: Tensor) -> Tensor:
        """(y - shift) / scale."""
        return (y - self.shift) / self.scale

    def log_slope(self, z: Tensor) -> Tensor:
        """log scale."""
        return torch.full_like(z, math.log(self.scale))


TRANSFORMS: dict[str, type[Transform]] = {
    "log": Log,
    "softplus": Softplus,
    "logit": Logit,
    "asinh": Asinh,
    "affine": Shift,
}


def make_transform(name: str, settings: dict[str, Any] | None = None) -> Transform:
    """Builds a transform by name.

    Raises:
        UnknownNameError: no such transform.
        ConfigError: a setting that it does not have, or an impossible one.
    """
    if name not in TRANSFORMS:
        raise UnknownNameError("transform", name, TRANSFORMS)
    cls, settings = TRANSFORMS[name], settings or {}
    known = inspect.signature(cls).parameters
    for key in settings:
        if key not in known:
            raise ConfigError(f"transform '{name}' has no setting '{key}'; {suggest(key, known)}")
    return cls(**settings)


def _positive(name: str, value: float) -> float:
    if not 0 < value < math.inf:
        raise ConfigError(f"expected {name} > 0, got {value}: correct it")
    return value
