"""Policies: what is context and what is target, by their definitions."""

import numpy as np
import pytest

from datamodules.contexts import choose
from npexp.errors import DataError

N = 40
ORDER = np.linspace(0, 1, N)


def draws(policy, order=ORDER, nc=7, nt=5, first=0, num=300):
    for seed in range(num):
        context, targets = choose(policy, np.random.default_rng(seed), order, nc, nt, first)
        both = np.concatenate([context, targets])
        assert len(set(both.tolist())) == len(both) and both.min() >= 0 and both.max() < len(order)
        yield context, targets


def test_random_takes_any_points_equally_often():
    found = [np.zeros(N), np.zeros(N)]
    for context, targets in draws("random", num=2000):
        assert (len(context), len(targets)) == (7, 5)
        for counts, chosen in zip(found, (context, targets), strict=True):
            counts[chosen] += 1
    for counts, size in zip(found, (7, 5), strict=True):
        expected = 2000 * size / N
        assert abs(counts - expected).max() < 5 * np.sqrt(expected)


def test_a_forecast_follows_its_context():
    cuts = set()
    for context, targets in draws("forecast"):
        assert (np.diff(np.concatenate([context, targets])) == 1).all()
        assert (len(context), len(targets)) == (7, 5)
        cuts.add(int(targets[0]))
    assert cuts == set(range(7, N - 4))


def test_a_forecast_begins_where_targets_may():
    seen = [int(t[0]) for _, t in draws("forecast", first=33)]
    assert set(seen) == {33, 34, 35}
    context, targets = next(draws("forecast", first=38))  # two points are left: fewer targets, all the context
    assert targets.tolist() in ([38, 39], [39]) and context.tolist() == list(range(targets[0] - 7, targets[0]))


def test_a_gap_has_context_on_both_sides():
    begins = set()
    for context, targets in draws("gap"):
        assert (np.diff(targets) == 1).all() and len(targets) == 5 and len(context) == 7
        assert (np.diff(np.sort(np.concatenate([context, targets]))) == 1).all()
        assert context.min() < targets.min() and targets.max() < context.max()
        begins.add(int(targets[0]))
    assert begins == set(range(1, N - 5))


def test_extrapolation_lies_around_the_context():
    sides = set()
    for context, targets in draws("extrapolation"):
        assert (np.diff(context) == 1).all() and len(context) == 7 and len(targets) == 5
        assert ((targets < context.min()) | (targets > context.max())).all()
        sides.add((bool((targets < context.min()).any()), bool((targets > context.max()).any())))
    assert sides == {(True, True), (True, False), (False, True)}


@pytest.mark.parametrize("policy", ["forecast", "gap", "extrapolation"])
def test_points_at_one_place_are_not_divided(policy):
    order = np.repeat(np.arange(12.0), [3, 1, 2, 5, 1, 1, 4, 2, 3, 1, 2, 4])
    for context, targets in draws(policy, order, nc=8, nt=6):
        assert not set(order[context]) & set(order[targets])
        assert 0 < len(context) <= 8 and 0 < len(targets) <= 6


def test_two_places_are_enough_for_all_but_a_gap():
    order = np.repeat([0.0, 1.0], 4)
    for policy in ("forecast", "extrapolation"):
        assert len(list(draws(policy, order, nc=3, nt=5, num=5))) == 5
    with pytest.raises(DataError, match="more places than the 2 at which these 8 lie"):
        next(draws("gap", order, nc=3, nt=5))


@pytest.mark.parametrize("policy", ["forecast", "gap", "extrapolation"])
def test_one_place_is_too_few(policy):
    with pytest.raises(DataError, match="use policy random"):
        next(draws(policy, np.zeros(9), nc=3, nt=3))


@pytest.mark.parametrize("policy", ["random", "forecast", "gap", "extrapolation"])
def test_a_task_may_be_used_up(policy):
    for context, targets in draws(policy, ORDER[:12], num=5):
        assert sorted([*context, *targets]) == list(range(12))
