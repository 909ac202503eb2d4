"""Slopes and crossings against closed forms."""

import pytest

from npexp.bench.curves import crossing, crossings, slope


def test_slope_of_a_power():
    curve = {n: 3e-6 * n**1.7 for n in (100, 300, 2000, 9000)}
    assert slope(curve) == pytest.approx(1.7, abs=1e-12)
    assert slope(dict.fromkeys((1, 2, 4), 5.0)) == pytest.approx(0, abs=1e-12)
    assert slope({100: 1.0, 200: 2.0}) is None


def test_crossing_of_powers():
    """2 n and n^2 / 500 meet at n = 1,000, where both are 2,000."""
    sizes = (128, 512, 2048, 8192)
    linear, square = {n: 2.0 * n for n in sizes}, {n: n**2 / 500 for n in sizes}
    assert crossing(linear, square) == pytest.approx((1000, 2000))
    assert crossing(square, linear) is None  # ahead only at first
    assert crossing({n: v / 100 for n, v in linear.items()}, square) is None  # ahead everywhere


def test_the_last_crossing_counts():
    level = dict.fromkeys((1, 2, 4, 8), 1.0)
    assert crossing({1: 2.0, 2: 0.5, 4: 2.0, 8: 0.5}, level) == pytest.approx((4 * 2**0.5, 1))
    assert crossing({1: 0.5, 2: 2.0, 8: 0.5}, level) == pytest.approx((4, 1))  # over sizes that both have
    assert crossing({16: 1.0}, level) is None
    assert crossing({2: 1.0, 4: 0.5}, level) == pytest.approx((2, 1))  # equal, then ahead


def test_crossings_are_within_a_mode():
    linear, square = {n: 2.0 * n for n in (128, 512, 2048)}, {n: n**2 / 500 for n in (128, 512, 2048)}
    (found,) = crossings([("encode", "a", linear), ("encode", "b", square), ("predict", "c", square)])
    assert found == ("encode", "a", "b", pytest.approx(1000), pytest.approx(2000))
