"""One pass over a table of tasks: who they are, which of them train, and the units of what trains."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from datamodules.tables import Loaded, Piece, Streamed
from npexp.columns import MOST_LEVELS, Columns, Place, words
from npexp.errors import DataError

PARTS = ("train", "val", "test")


class Census(NamedTuple):
    """What a pass found; tasks are in the order of their first rows.

    Args:
        names: of the tasks.
        groups: the group of each task, or its name where there are none.
        start: number of each task's first point in the table, and at last of all points, `[t + 1]`.
        counts: points of each task in each part of time, `[t, 3]`; all in the first where time does not divide.
        pieces: number of each piece's first point, and at last of all points, `[p + 1]`.
        stats: of each task and part that occur: the key 3 task + part `[k]`, and for each number column, inputs
            first, how many values there are, their mean and the sum of squares about it, `[k, m]` each.
        levels: of each category column, the keys in which each level occurs.
    """

    names: list[str]
    groups: list[str]
    start: np.ndarray
    counts: np.ndarray
    pieces: np.ndarray
    stats: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
    levels: dict[str, dict[str, np.ndarray]]


def take_census(
    source: Loaded | Streamed, columns: Columns, group: str | None, ends: Sequence[float] | None, repeats: bool
) -> Census:
    """Reads every piece once.

    Args:
        source: the table.
        columns: what its columns mean; categories without levels.
        group: the column with the group of the task.
        ends: the first input at which validation and test begin; None where time does not divide.
        repeats: whether rows may be repeated exactly.

    Raises:
        DataError: any value is bad, a row is repeated, a task's rows are scattered or of several groups, an output
            is missing everywhere.
    """
    import pandas as pd

    names: list[str] = []
    ids: dict[str, int] = {}
    groups: dict[int, str] = {}
    points, parts, levels = [], [], {c.name: [] for c in columns.x if c.kind == "category"}
    for number in range(source.num_pieces):
        piece = source.piece(number)
        for name in piece.names:
            if name in ids and name != names[-1]:
                source.refuse_order(name, piece.place.row(piece.codes == piece.names.index(name)))
            if name not in ids:
                ids[name] = len(names)
                names.append(name)
        task = np.array([ids[name] for name in piece.names])[piece.codes]
        if not repeats:
            _refuse_repeats(piece, columns)
        if group is not None:
            _add_groups(groups, piece, task, group)
        x = [c.read(piece.table, piece.place, columns.date_format)[:, 0] for c in columns.x if c.kind != "category"]
        y = columns.outputs(piece.table, piece.place)
        observed = columns.observed(y, piece.place)
        part = np.zeros_like(task) if ends is None else np.searchsorted(ends, x[0], side="right")
        key, inverse = np.unique(3 * task + part, return_inverse=True)
        points.append((key, np.bincount(inverse, observed, len(key)).astype(np.int64)))
        parts.append((key, *_moments(np.column_stack([*x, y]), inverse, len(key))))
        for name, found in levels.items():
            pairs = pd.DataFrame({"key": 3 * task + part, "level": words(piece.table[name], piece.place)})
            found.append(pairs.drop_duplicates())
    stats = tuple(np.concatenate(found) for found in zip(*parts, strict=True))
    _refuse_empty(columns, stats[1], source)
    counts = np.zeros(3 * len(names), dtype=np.int64)
    for key, found in points:
        np.add.at(counts, key, found)
    counts = counts.reshape(-1, 3)
    return Census(
        names=names,
        groups=[groups[i] for i in range(len(names))] if group is not None else names,
        start=np.cumsum([0, *counts.sum(1)]),
        counts=counts,
        pieces=np.cumsum([0, *(found.sum() for _, found in points)]),
        stats=stats,
        levels={name: _occurrences(name, pd.concat(found)) for name, found in levels.items()},
    )


def first_input(source: Loaded | Streamed, columns: Columns) -> tuple[float, float]:
    """The smallest and the largest value of the first input."""
    ends = []
    for number in range(source.num_pieces):
        piece = source.piece(number)
        values = columns.x[0].read(piece.table, piece.place, columns.date_format)
        ends.append((values.min(), values.max()))
    low, high = zip(*ends, strict=True)
    return float(min(low)), float(max(high))


def _moments(values: np.ndarray, inverse: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of columns `[n, m]` with gaps, by key: how many, mean, and sum of squares about it, `[k, m]` each."""
    found = []
    for column in values.T:
        here = ~np.isnan(column)
        keys, column = inverse[here], column[here]
        n = np.bincount(keys, minlength=k)
        mean = np.bincount(keys, column, k) / n.clip(1)
        found.append((n, mean, np.bincount(keys, (column - mean[keys]) ** 2, k)))
    return tuple(np.stack(part, 1) for part in zip(*found, strict=True))


def _occurrences(name: str, found: Any) -> dict[str, np.ndarray]:
    """The keys in which each level of a category occurs, from DataFrames of both."""
    levels = {str(level): rows.to_numpy() for level, rows in found.groupby("level").key}
    if len(levels) > MOST_LEVELS:
        raise DataError(
            f"expected {MOST_LEVELS} categories at most in column '{name}', got {len(levels)}, such as "
            f"'{next(iter(levels))}': if they are dates, give date_format; if they are names, leave the column out"
        )
    return levels


def _add_groups(groups: dict[int, str], piece: Piece, task: np.ndarray, group: str) -> None:
    found = words(piece.table[group], piece.place)
    _, first = np.unique(task, return_index=True)
    for row in first:
        groups.setdefault(int(task[row]), found[row])
    expected = np.array([groups[int(task[row])] for row in first], dtype=object)[
        np.unique(task, return_inverse=True)[1]
    ]
    if (other := found != expected).any():
        raise DataError(
            f"expected all rows of a task in one group, got '{found[other][0]}' and '{expected[other][0]}' in column "
            f"'{group}', {piece.place.row(other)}: give tasks of different groups different names"
        )


def _refuse_repeats(piece: Piece, columns: Columns) -> None:
    names = [*(c.name for c in columns.x), *columns.y]
    twice = piece.table[names].assign(**{"task of the row": piece.codes}).duplicated().to_numpy()
    if twice.any():
        raise DataError(
            f"{piece.place.row(twice)} repeats a row of its task in every column: remove it, or set repeats if such "
            "rows are observations of their own"
        )


def _refuse_empty(columns: Columns, n: np.ndarray, source: Loaded | Streamed) -> None:
    for name, total in zip(columns.y, n.sum(0)[-len(columns.y) :], strict=True):
        if not total:
            place: Place = source.piece(0).place
            raise DataError(f"column '{name}' of {place.file} holds no value: leave it out of y")
