"""The points of tasks, read when they are wanted."""

from collections import OrderedDict

import numpy as np

from datamodules.census import Census
from datamodules.tables import Loaded, Streamed
from npexp.columns import Columns


class Store:
    """Points by task, keeping the pieces of the table that were used last.

    Args:
        source: the table.
        columns: what its columns mean.
        census: where tasks begin and end.
        max_rows: points to keep, in pieces; the newest piece is kept in any case.
    """

    def __init__(self, source: Loaded | Streamed, columns: Columns, census: Census, max_rows: int):
        self.source, self.columns, self.max_rows = source, columns, max_rows
        self.start, self.pieces = census.start, census.pieces
        self._kept: OrderedDict[int, tuple[np.ndarray, np.ndarray]] = OrderedDict()

    def piece_of(self, task: np.ndarray | int) -> np.ndarray | np.integer:
        """The piece in which each task begins."""
        return np.searchsorted(self.pieces, self.start[task], side="right") - 1

    def task(self, task: int) -> tuple[np.ndarray, np.ndarray]:
        """Inputs `[n, dx]` and outputs `[n, dy]` of a task, in the order of the first input."""
        start, stop = self.start[task : task + 2]
        first, last = int(self.piece_of(task)), int(np.searchsorted(self.pieces, stop, side="left")) - 1
        if first == last:
            begin = self.pieces[first]
            x, y = self._piece(first)
            return x[start - begin : stop - begin], y[start - begin : stop - begin]
        parts = []
        for number in range(first, last + 1):
            begin = self.pieces[number]
            x, y = self._piece(number)
            parts.append((x[max(start - begin, 0) : stop - begin], y[max(start - begin, 0) : stop - begin]))
        x, y = (np.concatenate(part) for part in zip(*parts, strict=True))
        order = x[:, 0].argsort(kind="stable")
        return x[order], y[order]

    def _piece(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        if number in self._kept:
            self._kept.move_to_end(number)
            return self._kept[number]
        table, place = self.source.rows(number, [*(c.name for c in self.columns.x), *self.columns.y])
        x, y, _ = self.columns.points(self.columns.inputs(table, place), self.columns.outputs(table, place))
        task = np.searchsorted(self.start, self.pieces[number] + np.arange(len(x)), side="right")
        order = np.lexsort((x[:, 0], task))
        held = sum(len(kept) for kept, _ in self._kept.values())
        while self._kept and held + len(x) > self.max_rows:
            held -= len(self._kept.popitem(last=False)[1][0])
        self._kept[number] = x[order], y[order]
        return self._kept[number]
