"""How curves grow, and where they cross."""

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping
from itertools import permutations
from typing import NamedTuple

Curve = Mapping[int, int | float]  # values above 0 by size, ascending


class Crossing(NamedTuple):
    """A model becomes faster than another one from some size of the context on, where both take as long."""

    mode: str
    faster: str
    slower: str
    size: float
    seconds: float


def slope(curve: Curve) -> float | None:
    """The power of n that a curve grows with, least squares of logarithms; None for fewer than three sizes."""
    if len(curve) < 3:
        return None
    x, y = (list(map(math.log, numbers)) for numbers in (curve, curve.values()))
    return statistics.linear_regression(x, y).slope


def crossing(a: Curve, b: Curve) -> tuple[float, float] | None:
    """The size from which a stays below b, up to the largest size of both, and their value there.

    Between two sizes the logarithms are straight lines.

    Returns:
        None where a is not below b at the largest size, or is so at all sizes.
    """
    gaps = [(n, math.log(a[n] / b[n])) for n in a if n in b]
    if not gaps or gaps[-1][1] >= 0:
        return None
    for (low, before), (high, after) in zip(gaps[-2::-1], gaps[:0:-1], strict=True):
        if before >= 0:
            part = before / (before - after)
            return low ** (1 - part) * high**part, a[low] ** (1 - part) * a[high] ** part
    return None


def crossings(curves: Iterable[tuple[str, str, Curve]]) -> Iterator[Crossing]:
    """Of every two models in the same mode, given mode, model and seconds by size."""
    for (mode, a, fast), (other, b, slow) in permutations(curves, 2):
        if mode == other and (found := crossing(fast, slow)) is not None:
            yield Crossing(mode, a, b, *found)
