"""What is observed of a task and what is to be predicted: four policies for points in the order of an input."""

import numpy as np

from npexp.errors import DataError

POLICIES = ("random", "forecast", "gap", "extrapolation")


def choose(
    policy: str, rng: np.random.Generator, order: np.ndarray, nc: int, nt: int, first: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of context points and of targets, `[<= nc]` and `[<= nt]`, no number twice.

    The policies but "random" take neighbouring points and never divide those at one place, where the order does not
    say which comes first: then, and near the ends of a task, there are fewer of them than asked for.

    Args:
        policy: "random": both anywhere. "forecast": targets that follow the context. "gap": targets amid the context.
            "extrapolation": targets on either side of the context.
        rng: the stream.
        order: where the points lie, `[n]`, ascending.
        nc: context points, at most.
        nt: targets, at least 1, and with the context no more than `n`.
        first: number of the first point that may be a target; "forecast" only.

    Raises:
        DataError: the points lie at too few places.
    """
    if policy == "random":
        chosen = rng.choice(len(order), nc + nt, replace=False)
        return chosen[:nc], chosen[nc:]
    if policy == "forecast":
        cut = _forecast_cut(rng, order, nc, nt, first)
        return np.arange(max(0, cut - nc), cut), np.arange(cut, min(cut + nt, len(order)))
    inner, outer = (nt, nc) if policy == "gap" else (nc, nt)
    inside, outside = _block(rng, order, inner, outer, margin=int(policy == "gap" and nc > 1))
    return (outside, inside) if policy == "gap" else (inside, outside)


def _forecast_cut(rng: np.random.Generator, order: np.ndarray, nc: int, nt: int, first: int) -> int:
    """The first target: one with as many points before and after it as asked for, where there are any."""
    n = len(order)
    cuts = _cuts(order)
    for low, high in ((max(first, nc), n - nt), (max(first, min(nc, 1)), n - 1)):
        good = cuts[(cuts >= low) & (cuts <= high)]
        if len(good):
            return int(good[rng.integers(len(good))])
    raise _too_few(order)


def _block(
    rng: np.random.Generator, order: np.ndarray, inner: int, outer: int, margin: int
) -> tuple[np.ndarray, np.ndarray]:
    """About `inner` neighbouring points, and `outer` points next to them on both sides, `margin` of them at least."""
    n, cuts = len(order), _cuts(order)
    last = cuts[-1] - 1 if margin else n - 1
    for high in (n - inner - margin, last):
        good = cuts[(cuts >= margin) & (cuts <= high)]
        if len(good):
            break
    else:
        raise _too_few(order)
    begin = int(good[rng.integers(len(good))])
    end = min(begin + inner, n - margin)
    if inner and end < n and order[end] == order[end - 1]:
        end = int(np.searchsorted(order, order[end], side="left"))
        if end <= begin:  # more points at one place than asked for: the others are left alone
            end = int(np.searchsorted(order, order[begin], side="right"))
    left = min(outer // 2, begin)
    right = min(outer - left, n - end)
    left = min(outer - right, begin)
    if left + right == 0 and outer:
        raise _too_few(order)
    outside = np.concatenate([np.arange(begin - left, begin), np.arange(end, end + right)])
    return np.arange(begin, min(end, begin + inner)), outside


def _cuts(order: np.ndarray) -> np.ndarray:
    """Numbers of the points that lie further on than the one before."""
    return np.concatenate([[0], 1 + np.flatnonzero(order[1:] > order[:-1])])


def _too_few(order: np.ndarray) -> DataError:
    return DataError(
        f"expected points at more places than the {len(_cuts(order))} at which these {len(order)} lie: use policy "
        "random, or leave the task out"
    )
