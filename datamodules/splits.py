"""Which points of which tasks train, validate and test: by task, by group, or by time."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from datamodules.census import PARTS, Census, first_input
from datamodules.loader import generator
from datamodules.store import Store
from datamodules.tables import Loaded, Streamed
from npexp.columns import Columns, Place, days, numbers
from npexp.errors import ConfigError, DataError


class Views(NamedTuple):
    """What a part may use of its tasks, `[v]` each; points are in the order of the first input.

    Args:
        task: the task.
        begin: its first point in use.
        first: the first point that may be a target.
        end: the point after its last one in use.
    """

    task: np.ndarray
    begin: np.ndarray
    first: np.ndarray
    end: np.ndarray


def divide(owners: Sequence[str], shares: tuple[float, float], seed: int, kind: str, file: str) -> np.ndarray:
    """The part of each task, 0 for training, 1 for validation, 2 for testing, `[t]`.

    Args:
        owners: what goes to one part as a whole, of each task: its name or its group.
        shares: of the owners, for validation and for testing; one of them at least.
        seed: of the division, which does not depend on the order of the table.
        kind: "task" or "group", for messages.
        file: what messages call the table.
    """
    names = sorted(set(owners))
    val, test = (max(1, round(share * len(names))) for share in shares)
    train = len(names) - val - test
    if train < 1:
        raise ConfigError(
            f"expected a {kind} each to train, validate and test, got {len(names)} in {file}, of which {val} would "
            f"validate and {test} test: split by time, or lower val_fraction and test_fraction"
        )
    order = generator(seed, "division", index=0).permutation(len(names))
    part = {names[i]: int(place >= train) + int(place >= train + val) for place, i in enumerate(order)}
    return np.array([part[owner] for owner in owners])


def time_ends(
    source: Loaded | Streamed, columns: Columns, split_at: Sequence[float | str] | None, shares: tuple[float, float]
) -> tuple[float, float]:
    """The values of the first input at which validation and test begin: as given, or by shares of the time."""
    import pandas as pd

    if split_at is None:
        low, high = first_input(source, columns)
        return low + (1 - sum(shares)) * (high - low), low + (1 - shares[1]) * (high - low)
    given, place = pd.Series(split_at, name="split_at"), Place("the settings")
    is_date = columns.x[0].kind == "date"
    low, high = days(given.astype(str), place, columns.date_format) if is_date else numbers(given, place)
    if not low < high:
        raise ConfigError(f"expected split_at in ascending order, got {list(split_at)}: validation comes before test")
    return float(low), float(high)


def task_views(census: Census, task: np.ndarray, needed: int, file: str) -> Views:
    """All points of the given tasks.

    Raises:
        DataError: a task has fewer points than needed.
    """
    count = census.counts[task].sum(1)
    if (small := count < needed).any():
        few = ", ".join(f"'{census.names[i]}' ({n})" for i, n in zip(task[small][:3], count[small][:3], strict=True))
        raise DataError(
            f"expected at least {needed} points in each task of {file} (by num_context and num_target), got fewer in "
            f"{small.sum()}, such as {few}: leave them out"
        )
    return Views(task, 0 * count, 0 * count, count)


def time_views(census: Census, part: int, context: int, targets: int, reach_back: bool, file: str) -> Views:
    """The points in a part of time, of all tasks that have enough of them there.

    Args:
        census: of the table.
        part: 0 for training, 1 for validation, 2 for testing.
        context: points needed as context.
        targets: points needed as targets.
        reach_back: whether earlier points may be context.
        file: what messages call the table.

    Raises:
        ConfigError: there is no such task.
    """
    end = census.counts[:, : part + 1].sum(1)
    first = end - census.counts[:, part]
    begin = np.zeros_like(first) if reach_back else first
    outside = np.minimum(first - begin, context)  # context that need not come out of the part
    good = end - first >= targets + context - outside
    if not good.any():
        raise ConfigError(
            f"expected tasks with at least {targets + context} points in the {PARTS[part]} part of {file}, got none: "
            "change split_at, the fractions, num_context or num_target"
        )
    return Views(*(values[good] for values in (np.arange(len(end)), begin, first, end)))


def check_places(views: Iterable[Views], store: Store, needed: int, names: Sequence[str], what: str) -> None:
    """Raises `DataError` for a task that cannot be divided, before training comes across it.

    Args:
        views: of each part.
        store: of the points.
        needed: values of the first input that context and targets take between them.
        names: of the tasks.
        what: asks for them, for the message.
    """
    for part in views:
        for task, begin, _, end in zip(*part, strict=True):
            found = 1 + np.count_nonzero(np.diff(store.task(int(task))[0][begin:end, 0]))
            if found < needed:
                raise DataError(
                    f"expected at least {needed} values of the first input in each task and part for {what}, got "
                    f"{found} in '{names[task]}': leave the task out, or use policy random"
                )
