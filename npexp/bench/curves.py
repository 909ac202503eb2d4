"""How curves grow, and where they cross."""

import math
import statistics
from collections.abc import Mapping

Curve = Mapping[int, int | float]  # values above 0 by size, ascending


def slope(curve: Curve) -> float | None:
    """The power of n that a curve grows with, least squares of logarithms; None for fewer than three sizes."""
    if len(curve) < 3:
        return None
    x, y = (list(map(math.log, numbers)) for numbers in (curve, curve.values()))
    return statistics.linear_regression(x, y).slope


def crossing(a: Curve, b: Curve) -> float | None:
    """The size from which a stays below b, up to the largest size of both.

    Between two sizes the logarithms are straight lines.

    Returns:
        None where a is not below b at the largest size, or is so at all sizes.
    """
    gaps = [(math.log(n), math.log(a[n] / b[n])) for n in a if n in b]
    if not gaps or gaps[-1][1] >= 0:
        return None
    for (x0, y0), (x1, y1) in zip(gaps[-2::-1], gaps[:0:-1], strict=True):
        if y0 >= 0:
            return math.exp(x0 + (x1 - x0) * y0 / (y0 - y1))
    return None
