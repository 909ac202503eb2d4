"""Typed errors: what was expected, what came, and what to do about it.

Every mistake a caller can make, and every fault of the machine that we know, raises a subclass of `NPError`; the
command line prints its message on one line and exits with its status: 2 for a mistake in what was asked, 3 where
training diverged, 4 where the machine failed. Anything else that escapes is a defect of this package: status 1.
"""

import math
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any


class NPError(Exception):
    """Base class of everything `npexp` raises by itself.

    Attributes:
        status: with which the command line exits.
    """

    status = 2


class ShapeError(NPError, ValueError):
    """A tensor has the wrong number of axes or a size that contradicts another one."""


class DataError(NPError, ValueError):
    """Values that cannot be learnt from: NaN, infinities, empty data sets, unreadable files."""


class ConfigError(NPError, ValueError):
    """A setting that is impossible, or that contradicts another one."""


class DivergenceError(NPError, ArithmeticError):
    """Training has left the numbers: a loss or a gradient is NaN or infinite."""

    status = 3


class StorageError(NPError, OSError):
    """A file cannot be written: the disk is full, or the folder read-only."""

    status = 4


class LostProcessError(NPError, RuntimeError):
    """Another process of the same run has died."""

    status = 4


class PrecisionError(NPError, ArithmeticError):
    """A result of which rounding would leave too few correct digits."""


class UnsupportedError(NPError, NotImplementedError):
    """The model or mixer cannot do what was asked; the message names one that can."""


class UnknownNameError(NPError, KeyError):
    """A name that does not exist; the message lists the nearest ones that do.

    Args:
        kind: what was looked up, e.g. "model".
        name: the name that came.
        known: the names that exist.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]):
        self.message = f"unknown {kind} '{name}'; {suggest(name, known)}"
        super().__init__(self.message)

    def __str__(self) -> str:  # KeyError would print the repr
        return self.message


def suggest(name: str, known: Iterable[str]) -> str:
    """A hint such as "did you mean 'cmanp'?", or the list of names when none is near."""
    names = sorted(known)
    near = get_close_matches(str(name), names, n=3, cutoff=0.5)  # what came may be of any type
    if near:
        return "did you mean " + " or ".join(f"'{n}'" for n in near) + "?"
    return f"known: {', '.join(names)}"


def at_least(name: str, value: Any, low: int | float) -> Any:
    """Returns `value` when it is finite and no smaller than `low`, else raises `ConfigError`.

    A whole `low` asks for a whole number: `at_least("noise", 0.1, 0.0)` is fine, `at_least("dx", 0.1, 0)` is not.
    """
    kinds, kind = (int, "an integer") if isinstance(low, int) else (int | float, "a number")
    if not (isinstance(value, kinds) and math.isfinite(value) and value >= low):
        raise ConfigError(f"expected {name} to be {kind}, at least {low}, got {value!r}: correct it")
    return value


def positive(name: str, value: Any) -> Any:
    """Returns `value` when it is a finite number above 0, else raises `ConfigError`."""
    if not (isinstance(value, int | float) and 0 < value < math.inf):
        raise ConfigError(f"expected {name} > 0, a finite number, got {value!r}: correct it")
    return value
