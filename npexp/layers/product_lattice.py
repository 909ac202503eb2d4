"""A lattice whose axes differ: space beside time, or a longitude that closes on itself."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from npexp.errors import ConfigError
from npexp.layers.grid import Lattice, check_domain, check_dx

T = TypeVar("T")


class Neighbours(NamedTuple):
    """Lattice points near some inputs.

    Args:
        index: which ones, `[b, n, k]`, int64, flat with the last coordinate running fastest.
        offset: input minus lattice point along each axis, in steps of the lattice, `[b, n, k, dx]`.
    """

    index: Tensor
    offset: Tensor


@dataclass(frozen=True)
class ProductLattice:
    """The product of one `Lattice` per axis; fixed before any data is seen.

    Args:
        axes: lattices with dx = 1.
        periodic: which axes close: there the last point is a neighbour of the first, and both ends of the domain are
            one place.
    """

    axes: tuple[Lattice, ...]
    periodic: tuple[bool, ...]

    @classmethod
    def dense(
        cls,
        dx: int,
        domain: Sequence[float] | Sequence[Sequence[float]],
        points_per_unit: float | Sequence[float],
        periodic: bool | Sequence[bool] = False,
        multiple: Sequence[int] | None = None,
    ) -> "ProductLattice":
        """A lattice of given spacing; each setting is one value for all axes or a list with one per axis.

        Args:
            dx: input size.
            domain: (low, high) of the inputs, or one such pair per axis.
            points_per_unit: lattice points per unit of x.
            periodic: whether the axis closes; its length must be a whole number of steps.
            multiple: the size of each axis is rounded up to a multiple of this; a periodic axis cannot be.

        Raises:
            ConfigError: lists that do not fit dx, what `Lattice.dense` refuses, or a periodic axis of broken length.
        """
        check_dx(dx)
        domains = per_axis("domain", domain, dx, nested=True)
        rates, closed = per_axis("points_per_unit", points_per_unit, dx), per_axis("periodic", periodic, dx)
        multiples = (1,) * dx if multiple is None else tuple(multiple)
        axes = []
        for pair, rate, closes, m in zip(domains, rates, closed, multiples, strict=True):
            axis = Lattice.dense(1, pair, rate, multiple=1 if closes else m)
            axes.append(_close(axis, rate, m) if closes else axis)
        return cls(tuple(axes), closed)

    @property
    def dx(self) -> int:
        """Number of axes."""
        return len(self.axes)

    @property
    def shape(self) -> tuple[int, ...]:
        """Points along each axis."""
        return tuple(axis.size for axis in self.axes)

    @property
    def num_points(self) -> int:
        """Their product."""
        return math.prod(self.shape)

    def check(self, kind: str, x: Float[Tensor, "b n dx"], mask: Bool[Tensor, "b n"] | None = None) -> None:
        """Raises `DataError` when a real input lies outside the domain."""
        check_domain(kind, x, [(axis.low, axis.high) for axis in self.axes], mask)

    def neighbours(self, x: Float[Tensor, "b n dx"], k: int) -> Neighbours:
        """The `k` nearest lattice points along each axis, and their product: k^dx in all, O(n k^dx).

        An axis of fewer points gives all of them. Within `k` steps of an end that does not close, the block of
        neighbours stays inside the lattice. Inputs beyond the domain are taken to its end.
        """
        index, offset = x.new_zeros(*x.shape[:-1], 1, dtype=torch.long), x.new_zeros(*x.shape[:-1], 1, 0)
        for i, (axis, closes) in enumerate(zip(self.axes, self.periodic, strict=True)):
            width = min(k, axis.size)
            position = (x[..., i] - axis.start) / axis.spacing
            position = position % axis.size if closes else position.clamp(0, axis.size - 1)
            first = (position - (width - 1) / 2).round()
            if not closes:
                first = first.clamp(0, axis.size - width)
            steps = first[..., None] + torch.arange(width, dtype=x.dtype, device=x.device)
            away = position[..., None] - steps
            index = (index[..., None] * axis.size + (steps.long() % axis.size)[..., None, :]).flatten(-2)
            before = offset[..., :, None, :].expand(*offset.shape[:-1], width, -1)
            here = away[..., None, :, None].expand(*before.shape[:-1], 1)
            offset = torch.cat([before, here], -1).flatten(-3, -2)
        return Neighbours(index, offset)


def per_axis(name: str, value: T | Sequence[T], dx: int, nested: bool = False) -> tuple[T, ...]:
    """One value per axis from a single value, or from a list of dx of them.

    Args:
        name: of the setting, for the message.
        value: what was given.
        dx: number of axes.
        nested: whether a single value is itself a list.

    Raises:
        ConfigError: a list of another length.
    """
    single = not isinstance(value, Sequence) or (nested and not any(isinstance(v, Sequence) for v in value))
    values = (value,) * dx if single else tuple(value)
    if len(values) != dx:
        raise ConfigError(f"expected {name} to be one value, or a list of dx={dx}, got {value}: correct it")
    return values


def _close(axis: Lattice, points_per_unit: float, multiple: int) -> Lattice:
    """The axis as a circle: as many points as steps, the first at `low`."""
    length = axis.high - axis.low
    size = round(length * points_per_unit)
    if abs(size - length * points_per_unit) > 1e-6 * max(size, 1) or size < 2 or size % multiple:
        raise ConfigError(
            f"expected a periodic axis to hold a whole number of steps, at least 2 and a multiple of {multiple}, got "
            f"{length:g} * points_per_unit = {length * points_per_unit:g}: change points_per_unit"
        )
    return Lattice(1, axis.low, axis.high, axis.low, length / size, size)
