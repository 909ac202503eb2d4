"""Means with their errors: over seeds, over test batches, and of differences on the same tasks; no PyTorch."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

RESAMPLES = 9999  # sign flips; all of them where there are no more


class Estimate(NamedTuple):
    """A mean and its standard error, NaN where that is unknown."""

    mean: float
    error: float


class Paired(NamedTuple):
    """The mean difference of two runs over the same tasks.

    Args:
        difference: of the means over tasks, second less first.
        error: its standard error, batches being independent and tasks within one not.
        p_t: two-sided p-value of Student's t test on it.
        p_flip: two-sided p-value of the permutation test that flips signs of whole batches.
        batches: how many there are.
    """

    difference: float
    error: float
    p_t: float
    p_flip: float
    batches: int


def over_seeds(values: Sequence[float], errors: Sequence[float]) -> Estimate:
    """Mean over seeds with its standard error; a single seed keeps its own error, which is one over test batches."""
    if len(values) == 1:
        return Estimate(values[0], errors[0])
    return Estimate(float(np.mean(values)), float(np.std(values, ddof=1) / math.sqrt(len(values))))


def over_batches(values: np.ndarray, batch: np.ndarray) -> Estimate:
    """Mean over tasks, with the standard error of a ratio of sums over independent batches (Cochran 1977, chapter 6).

    The same as `npexp.metrics.Evaluation` reports, from the tasks themselves.

    Args:
        values: of the tasks, `[n]`.
        batch: the number of each task's batch, `[n]`.
    """
    mean = float(values.mean())
    with np.errstate(invalid="ignore"):  # infinite scores
        spread = _totals(values - mean, batch)
    if len(spread) == 1:
        return Estimate(mean, math.nan)
    return Estimate(mean, math.sqrt(len(spread) / (len(spread) - 1) * np.square(spread).sum()) / len(values))


def pooled(values: np.ndarray, batch: np.ndarray, weight: np.ndarray) -> Estimate:
    """Mean over batches of each batch's weighted mean: the convention of most published tables.

    Args:
        values: of the tasks, `[n]`.
        batch: the number of each task's batch, `[n]`.
        weight: targets of each task, `[n]`.
    """
    means = _totals(values * weight, batch) / _totals(weight, batch)
    error = means.std(ddof=1) / math.sqrt(len(means)) if len(means) > 1 else math.nan
    return Estimate(float(means.mean()), float(error))


def paired(first: np.ndarray, second: np.ndarray, batch: np.ndarray) -> Paired:
    """Compares two runs on the same tasks.

    Where all batches are of one size, `p_t` is that of the paired t test on the means of the batches.

    Args:
        first: a score of one run, `[n]`.
        second: that of the other one.
        batch: the number of each task's batch, `[n]`.
    """
    from scipy import stats  # takes a second to import

    gain = second - first
    difference, error = over_batches(gain, batch)
    totals = _totals(gain, batch)
    if not totals.any():  # the same predictions: no test is needed, and none is defined
        return Paired(difference, 0.0, 1.0, 1.0, len(totals))
    if len(totals) == 1:
        return Paired(difference, math.nan, math.nan, math.nan, 1)
    p_t = 2 * stats.t.sf(abs(difference) / error, len(totals) - 1) if error > 0 else 0.0
    flipped = stats.permutation_test(
        (totals,),
        lambda x, axis: x.mean(axis=axis),
        permutation_type="samples",
        n_resamples=RESAMPLES,
        batch=500,
        vectorized=True,
        rng=np.random.default_rng(0),
    )
    return Paired(difference, error, float(p_t), float(flipped.pvalue), len(totals))


def best(values: Sequence[float], better: int, error: Callable[[int, int], float]) -> list[bool]:
    """Which are the best, or as good within the standard error of the difference.

    Args:
        values: one for each model, NaN where it has none.
        better: 1 where more is better, -1 where less is.
        error: of the difference of two of them, by their places; NaN where it is unknown.
    """
    known = [i for i, value in enumerate(values) if not math.isnan(value)]
    top = max(known, key=lambda i: better * values[i], default=None)
    behind = {i: better * (values[top] - values[i]) for i in known}
    return [i in behind and (behind[i] == 0 or behind[i] <= error(i, top)) for i in range(len(values))]


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Which points (cost, value) no other one beats in both, by increasing cost."""
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1]))
    front: list[int] = []
    for i in order:
        if not front or points[i][1] > points[front[-1]][1]:
            front.append(i)
    return front


def _totals(values: np.ndarray, batch: np.ndarray) -> np.ndarray:
    """Sums over the tasks of each batch."""
    _, index = np.unique(batch, return_inverse=True)
    return np.bincount(index, weights=values)
