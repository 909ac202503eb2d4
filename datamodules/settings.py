"""Checks of constructor arguments, and their description as plain data for the names of cache files."""

import inspect
import math
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from npexp.errors import ConfigError


def interval(name: str, ends: Sequence[float], low: float = -math.inf, positive: bool = False) -> tuple[float, float]:
    """Returns `(low end, high end)` as floats; equal ends fix the value.

    Args:
        name: the argument, for the error message.
        ends: what the caller gave.
        low: smallest end allowed.
        positive: both ends must exceed zero.

    Raises:
        ConfigError: not two finite numbers in ascending order, or below the limit.
    """
    good = is_pair(ends, int | float) and low <= ends[0] <= ends[1] and (ends[0] > 0 or not positive)
    if not good:
        limit = "0 < " if positive else f"{low} <= " if low > -math.inf else ""
        raise ConfigError(f"expected {name} as [low, high] with {limit}low <= high, got {ends!r}: correct the ends")
    return float(ends[0]), float(ends[1])


def sizes(name: str, ends: Sequence[int], low: int) -> tuple[int, int]:
    """Returns the smallest and largest size, both included, or raises `ConfigError`."""
    if not (is_pair(ends, int) and low <= ends[0] <= ends[1]):
        raise ConfigError(f"expected {name} as two integers, {low} <= low <= high, got {ends!r}: correct the ends")
    return ends[0], ends[1]


def fractions(val_fraction: float, test_fraction: float) -> tuple[float, float]:
    """Returns the shares of two parts of three, or raises `ConfigError` where they leave too little for the third."""
    if not (val_fraction > 0 and test_fraction > 0 and val_fraction + test_fraction <= 0.99):
        raise ConfigError(
            f"expected val_fraction and test_fraction above 0 with a sum of at most 0.99, got {val_fraction} and "
            f"{test_fraction}: leave something for each of the three parts"
        )
    return val_fraction, test_fraction


def is_pair(ends: Any, kinds: Any) -> bool:
    """Whether `ends` holds two finite numbers of the given types."""
    listed = isinstance(ends, Sequence) and len(ends) == 2
    return listed and all(isinstance(end, kinds) and math.isfinite(end) for end in ends)


def describe(value: Any, ignore: frozenset[str] = frozenset()) -> Any:
    """A value as JSON-ready plain data: an object becomes its class and all its constructor settings.

    This relies on a habit of this package: a constructor stores each argument under the argument's own name.

    Args:
        value: a plain value, a container, or an object such as a kernel or a datamodule.
        ignore: constructor settings of `value` to leave out.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [describe(item) for item in value]
    names = [n for n in inspect.signature(type(value)).parameters if n not in ignore]
    return {"class": type(value).__qualname__, **{n: describe(getattr(value, n)) for n in names}}
