"""Errors and p-values against scipy, Evaluation's formula and counting."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from npexp.report.estimates import Estimate, best, over_batches, over_seeds, paired, pareto, pooled


def scores(sizes, seed=0):
    rng = np.random.default_rng(seed)
    batch = np.repeat(np.arange(len(sizes)), sizes)
    common = rng.normal(size=len(sizes))[batch]
    return common + rng.normal(size=len(batch)), common + rng.normal(0.3, 1, len(batch)), batch


def test_over_seeds():
    assert over_seeds([1.0], [0.2]) == Estimate(1.0, 0.2)
    mean, error = over_seeds([1.0, 2.0, 4.0], [9.0, 9.0, 9.0])
    assert (mean, error) == (pytest.approx(7 / 3), pytest.approx(stats.sem([1.0, 2.0, 4.0])))


def test_equal_batches_are_a_paired_t_test_on_their_means():
    first, second, batch = scores([4] * 9)
    means = [x.reshape(9, 4).mean(1) for x in (first, second)]
    found = paired(first, second, batch)
    expected = stats.ttest_rel(means[1], means[0])
    assert found.p_t == pytest.approx(expected.pvalue)
    assert found.difference / found.error == pytest.approx(expected.statistic)
    assert found.batches == 9


def test_unequal_batches_against_the_definition():
    """A ratio of sums over batches, and all 2^6 flips of whole batches."""
    sizes = [1, 5, 2, 2, 7, 3]
    first, second, batch = scores(sizes, seed=3)
    gains = np.split(second - first, np.cumsum(sizes)[:-1])
    mean = np.concatenate(gains).mean()
    squares = sum((g.sum() - mean * len(g)) ** 2 for g in gains)
    found = paired(first, second, batch)
    assert found.difference == pytest.approx(mean)
    assert found.error == pytest.approx(math.sqrt(6 / 5 * squares) / sum(sizes))
    assert found.p_t == pytest.approx(2 * stats.t.sf(abs(mean) / found.error, 5))
    totals = np.array([g.sum() for g in gains])
    flips = np.array(list(itertools.product([1, -1], repeat=6))) @ totals
    assert found.p_flip == pytest.approx((np.abs(flips) >= abs(totals.sum()) - 1e-12).mean())


def test_tasks_of_a_batch_are_not_independent():
    """A hundred copies of each task change nothing."""
    first, second, batch = scores([1] * 8)
    many = [np.repeat(x, 100) for x in (first, second, batch)]
    np.testing.assert_allclose(paired(*many)[:4], paired(first, second, batch)[:4])


def test_nothing_to_compare():
    first, _, batch = scores([2, 2])
    assert paired(first, first, batch)[:4] == (0.0, 0.0, 1.0, 1.0)
    alone = paired(first[:2], first[:2] + np.array([1, 2]), batch[:2])
    assert alone.difference == pytest.approx(1.5) and math.isnan(alone.error) and math.isnan(alone.p_t)


def test_pooled():
    values, weight, batch = np.array([1.0, 2.0, 4.0]), np.array([1.0, 3.0, 5.0]), np.array([0, 0, 1])
    mean, error = pooled(values, batch, weight)
    assert mean == pytest.approx((7 / 4 + 4) / 2) and error == pytest.approx((4 - 7 / 4) / 2)


def test_one_batch_has_no_error():
    assert math.isnan(over_batches(np.array([1.0, 2.0]), np.zeros(2)).error)


def test_best_are_those_within_the_error_of_the_difference():
    values, errors = [1.0, 1.4, 0.89, math.nan], [0.3, 0.4, 0.3, 9.0]
    error = lambda i, j: math.hypot(errors[i], errors[j])  # noqa: E731
    assert best(values, 1, error) == [True, True, False, False]  # 0.4 < 0.5 and 0.51 > 0.5
    assert best(values, -1, error) == [True, False, True, False]
    assert best([1.0, 1.1], 1, lambda i, j: math.nan) == [False, True]
    assert best([math.nan], 1, error) == [False] and best([], 1, error) == []


def test_pareto_against_all_pairs():
    rng = np.random.default_rng(0)
    points = [tuple(p) for p in rng.integers(0, 8, (30, 2)).astype(float).tolist()]
    front = {points[i] for i in pareto(points)}
    beaten = {p for p in points for q in points if q[0] <= p[0] and q[1] >= p[1] and q != p}
    assert front == set(points) - beaten
    costs = [points[i][0] for i in pareto(points)]
    assert costs == sorted(costs)
