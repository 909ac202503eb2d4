"""A regular lattice over a box: the ground that convolutions and gridded pseudo-tokens stand on."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from npexp.errors import ConfigError, DataError, at_least

SLACK = 1e-6  # share of the domain's width: a uniform draw may round to just beyond its end


@dataclass(frozen=True)
class Lattice:
    """`size ** dx` points at equal distances, the same on each axis; fixed before any data is seen.

    A lattice that followed the data would let targets and batch mates change each other's predictions. Make one with
    `dense` or `sized`. Tensors over it have the axes `[b, size, ..., size, c]`, or `[b, size ** dx, c]` with the last
    coordinate running fastest.

    Args:
        dx: input size, 1 to 3; the lattice grows as size ** dx.
        low: smallest coordinate of an input.
        high: largest coordinate of an input.
        start: coordinate of the first lattice point, at most `low`.
        spacing: distance between neighbours.
        size: points on each axis.
    """

    dx: int
    low: float
    high: float
    start: float
    spacing: float
    size: int

    @classmethod
    def dense(
        cls,
        dx: int,
        domain: Sequence[float],
        points_per_unit: float,
        margin: float = 0.0,
        multiple: int = 1,
    ) -> "Lattice":
        """A lattice of given spacing that starts at the lower end of the domain, less the margin.

        Data on a grid of the same spacing that includes the lower end therefore coincides with lattice points.

        Args:
            dx: input size.
            domain: (low, high) of the inputs on every axis.
            points_per_unit: lattice points per unit of x.
            margin: how far the lattice reaches beyond the domain, at least, in units of x.
            multiple: the size is rounded up to a multiple of this, half of the surplus on either side.

        Raises:
            ConfigError: an empty domain, a dx other than 1, 2 or 3, or a spacing that is no positive number.
        """
        low, high = _check(dx, domain)
        if not 0 < points_per_unit < math.inf:
            raise ConfigError(f"expected points_per_unit > 0, got {points_per_unit}: correct it")
        beyond = math.ceil(at_least("margin", margin, 0.0) * points_per_unit - 1e-9)
        least = math.ceil((high - low) * points_per_unit - 1e-9) + 1 + 2 * beyond
        size = math.ceil(least / at_least("multiple", multiple, 1)) * multiple
        before = beyond + (size - least) // 2
        return cls(dx, low, high, low - before / points_per_unit, 1 / points_per_unit, size)

    @classmethod
    def sized(cls, dx: int, domain: Sequence[float], size: int) -> "Lattice":
        """A lattice of `size` points per axis from one end of the domain to the other.

        Args:
            dx: input size.
            domain: (low, high) of the inputs on every axis.
            size: points on each axis, at least 2.

        Raises:
            ConfigError: an empty domain, a dx other than 1, 2 or 3, or fewer than 2 points.
        """
        low, high = _check(dx, domain)
        return cls(dx, low, high, low, (high - low) / (at_least("size", size, 2) - 1), size)

    @property
    def shape(self) -> tuple[int, ...]:
        """(size, ..., size), dx times."""
        return (self.size,) * self.dx

    @property
    def num_points(self) -> int:
        """size ** dx."""
        return self.size**self.dx

    def axis(self, like: Tensor) -> Float[Tensor, " g"]:
        """Coordinates of the lattice points along one axis, in the dtype and on the device of `like`."""
        steps = torch.arange(self.size, dtype=like.dtype, device=like.device)
        return self.start + self.spacing * steps

    def points(self, like: Tensor) -> Float[Tensor, "m dx"]:
        """All lattice points, the last coordinate running fastest."""
        axis = self.axis(like)
        return torch.stack(torch.meshgrid(*[axis] * self.dx, indexing="ij"), -1).reshape(-1, self.dx)

    def nearest(self, x: Float[Tensor, "b n dx"]) -> Int[Tensor, "b n"]:
        """Flat index into `points` of the lattice point nearest to each input of the domain."""
        steps = ((x - self.start) / self.spacing).round().long().clamp(0, self.size - 1)
        flat = steps[..., 0]
        for i in range(1, self.dx):
            flat = flat * self.size + steps[..., i]
        return flat

    def check(self, kind: str, x: Float[Tensor, "b n dx"], mask: Bool[Tensor, "b n"] | None = None) -> None:
        """Raises `DataError` when a real input lies outside the domain: it could not be seen, and must not be dropped.

        Args:
            kind: "context" or "target", for the message.
            x: the inputs.
            mask: real ones.
        """
        check_domain(kind, x, [(self.low, self.high)] * self.dx, mask)


def check_domain(
    kind: str,
    x: Float[Tensor, "b n dx"],
    domain: Sequence[tuple[float, float]],
    mask: Bool[Tensor, "b n"] | None = None,
) -> None:
    """Raises `DataError` when a real input lies outside the domain, given as (low, high) of each axis."""
    low, high = x.new_tensor(domain).unbind(-1)
    slack = SLACK * (high - low)
    outside = ~((x >= low - slack) & (x <= high + slack))  # NaN is outside too
    if mask is not None:
        outside = outside & mask[..., None]
    if bool(outside.any()):
        task, point, column = (int(i) for i in outside.nonzero()[0])
        raise DataError(
            f"expected {kind} x within the model's domain [{domain[column][0]:g}, {domain[column][1]:g}], got "
            f"{float(x[task, point, column]):g} at task {task}, point {point}, column {column}: "
            "rescale x, or build the model with a wider `domain`"
        )


def check_dx(dx: int) -> None:
    """Raises `ConfigError` unless the input size is 1, 2 or 3."""
    if not 1 <= at_least("dx", dx, 1) <= 3:
        raise ConfigError(f"expected dx of 1, 2 or 3, got {dx}: a lattice grows as size ** dx, use a model without one")


def _check(dx: int, domain: Sequence[float]) -> tuple[float, float]:
    check_dx(dx)
    if len(domain) != 2 or not all(map(math.isfinite, domain)) or not domain[0] < domain[1]:
        raise ConfigError(f"expected domain [low, high] with low < high, in units of x, got {list(domain)}: correct it")
    return float(domain[0]), float(domain[1])
