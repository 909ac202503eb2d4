"""Patches of a field: what they hold, where they may begin, and the mean of the field over a part of it."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from datamodules.grids import AXES, Grid, span
from datamodules.loader import generator
from npexp.errors import ConfigError, DataError

CLOCKS = {"day_of_year": "Y", "hour_of_day": "D"}  # inputs that go round in a year or a day
SPLITS = ("train", "val", "test")  # in the order of the divided axis
SLAB = 64  # times read at once while the mean of a field is taken

Boxes = np.ndarray  # `[k, 3, 2]`: first cell and the one after the last, along each axis


class Patches:
    """The values of a field by patch, from memory or, where it is too large, from the files.

    Args:
        grid: the field.
        variables: the outputs.
        auxiliary: further inputs: variables of the field, of `still`, or names in `CLOCKS`.
        still: a grid of the same cells with the auxiliary variables, at one time; None where `grid` has them.
        patch: times, rows and columns.
        memory: gigabytes that the field may take.

    Attributes:
        moving: the variables read by patch: the outputs, then what else changes over time.

    Raises:
        DataError: the grids differ, or a clock is wanted where there are no dates.
    """

    def __init__(
        self,
        grid: Grid,
        variables: Sequence[str],
        auxiliary: Sequence[str],
        still: Grid | None,
        patch: Sequence[int],
        memory: float,
    ):
        self.grid, self.patch, self.auxiliary = grid, patch, auxiliary
        for name in variables:
            if grid.shape[0] > 1 and not grid.moves(name):
                raise DataError(f"expected outputs that change over time, got '{name}' without: make it auxiliary")
        plain = [name for name in auxiliary if name not in CLOCKS]
        changing = [name for name in plain if still is None and grid.moves(name)]
        self.moving = [*variables, *changing]
        if still is not None:
            check_still(still, grid, plain)
        everywhere = (slice(0, 1), slice(None), slice(None))
        self.still = {name: (still or grid).read(name, everywhere)[0] for name in plain if name not in changing}
        self.clocks = {name: clock(name, grid.axes["time"]) for name in auxiliary if name in CLOCKS}
        per_time = 4 * len(self.moving) * np.prod(grid.shape[1:])
        self.fitting = int(memory * 1e9 / per_time)  # times that fit the memory

    @cached_property
    def loaded(self) -> np.ndarray | None:
        """The field in memory, `[v, time, latitude, longitude]`; None where it does not fit."""
        if self.fitting < self.grid.shape[0]:
            return None
        return np.stack([self.grid.read(name, (slice(None),) * 3) for name in self.moving])

    def read(self, start: np.ndarray) -> np.ndarray:
        """What changes over time in some patches, `[b, v, cells]`, from the numbers of their first cells `[b, 3]`."""
        if self.loaded is not None:
            windows = sliding_window_view(self.loaded, self.patch, axis=(1, 2, 3))
            return windows[:, *start.T].swapaxes(0, 1).reshape(len(start), len(self.moving), -1)
        ranges = [tuple(slice(s, s + p) for s, p in zip(row, self.patch, strict=True)) for row in start.tolist()]
        return np.stack([[self.grid.read(name, r).ravel() for name in self.moving] for r in ranges])

    def informed(self, start: np.ndarray, values: np.ndarray, dy: int) -> np.ndarray:
        """Cells where no auxiliary input is missing, `[b, cells]`."""
        known = np.isfinite(values[:, dy:]).all(1)
        if self.still:
            windows = sliding_window_view(self._still_known, self.patch[1:])[
                start[:, 1], start[:, 2]
            ]  # [b, rows, columns]
            known &= np.broadcast_to(windows[:, None], (len(start), *self.patch)).reshape(known.shape)
        return known

    @cached_property
    def _still_known(self) -> np.ndarray:
        return np.isfinite(np.stack(list(self.still.values()))).all(0)

    def columns(self, start: np.ndarray, values: np.ndarray, cells: np.ndarray) -> np.ndarray:
        """Auxiliary inputs of some cells, `[b, n, a]`, from their numbers in the patches `[b, n]`."""
        time, row, column = place(start, cells, self.patch)
        found = []
        for name in self.auxiliary:
            if name in self.clocks:
                found.append(self.clocks[name][time])
            elif name in self.still:
                found.append(self.still[name][row, column][..., None])
            else:
                found.append(np.take_along_axis(values[:, self.moving.index(name)], cells, 1)[..., None])
        return np.concatenate(found, -1) if found else np.zeros((*cells.shape, 0))

    def moments(self, boxes: Boxes) -> dict[str, tuple[float, float]]:
        """Mean and standard deviation of each variable over some boxes, 1 where it is constant.

        Raises:
            DataError: a variable is missing everywhere.
        """
        found = {}
        for name in (*self.moving, *self.still):
            count, total, squares = 0, 0.0, 0.0
            for piece in self._pieces(name, boxes):
                good = piece[np.isfinite(piece)].astype(np.float64)
                count, total, squares = count + good.size, total + good.sum(), squares + np.square(good).sum()
            if not count:
                raise DataError(f"expected values of '{name}', got none in the training part: all are missing there")
            mean = total / count
            variance = max(squares / count - mean**2, 0.0)
            constant = variance <= 1e-10 * mean**2  # what rounding leaves of nothing
            found[name] = float(mean), 1.0 if constant or variance == 0 else float(np.sqrt(variance))
        return found

    def _pieces(self, name: str, boxes: Boxes) -> Iterator[np.ndarray]:
        """All of a variable within boxes, or, of a field too large, a random choice of times."""
        for number, ((first, last), *area) in enumerate(boxes.tolist()):
            rows, columns = (slice(*ends) for ends in area)
            if name in self.still:
                yield self.still[name][rows, columns]
            elif self.loaded is not None:
                yield from (
                    self.loaded[self.moving.index(name), t : min(t + SLAB, last), rows, columns]
                    for t in range(first, last, SLAB)
                )
            else:  # evenly spread times might all be midnights
                share = max(1, self.fitting // len(boxes))
                rng = generator(0, "moments", index=number)
                times = first + rng.permutation(last - first)[:share]
                yield from (self.grid.read(name, (slice(t, t + 1), rows, columns)) for t in np.sort(times).tolist())


def place(start: np.ndarray, cells: np.ndarray, patch: Sequence[int]) -> list[np.ndarray]:
    """Numbers along time, latitude and longitude of cells of patches, `[b, n]` each, from their numbers `[b, n]`."""
    return [
        first[:, None] + within for first, within in zip(start.T, np.unravel_index(cells, tuple(patch)), strict=True)
    ]


def pick(rng: np.random.Generator, known: np.ndarray, slots: int) -> np.ndarray:
    """Different places for each task, `[b, slots]`, in random order: known ones `[b, n]` first, then any.

    Where there are fewer than `slots` places, all of them.
    """
    keys = rng.random(known.shape)
    keys[~known] += 1.0
    few = min(slots, known.shape[1])
    first = np.argpartition(keys, max(few - 1, 0), axis=1)[:, :few]
    return np.take_along_axis(first, np.take_along_axis(keys, first, 1).argsort(1), 1)


def clock(name: str, times: np.ndarray) -> np.ndarray:
    """Sine and cosine of the way through a year or a day, `[time, 2]`."""
    if times.dtype.kind != "M":
        raise DataError(f"expected dates for the auxiliary input {name}, got times {times.dtype}: leave it out")
    begin = times.astype(f"M8[{CLOCKS[name]}]")
    angle = 2 * np.pi * ((times - begin.astype(times.dtype)) / ((begin + 1).astype(times.dtype) - begin))
    return np.stack([np.sin(angle), np.cos(angle)], -1)


def check_still(still: Grid, grid: Grid, names: Sequence[str]) -> None:
    """Raises unless a grid has the cells of the field, at one time."""
    for axis in AXES[1:]:
        have, wanted = still.axes[axis], grid.axes[axis]
        if len(have) != len(wanted) or not np.allclose(have, wanted, atol=1e-4):
            raise DataError(
                f"expected auxiliary variables on the grid of the field, got {len(have)} values of {axis}, {have[0]} "
                f"to {have[-1]}, for {len(wanted)}, {wanted[0]} to {wanted[-1]}: put them on that grid"
            )
    for name in names:
        if still.moves(name):
            raise DataError(f"expected '{name}' of auxiliary_path at one time, got several: put it into the field")


def divided(shape: Sequence[int], axis: int, num_blocks: int, fractions: Sequence[float]) -> dict[str, Boxes]:
    """Boxes of train, val and test: an axis cut into blocks, and each of these into the three."""
    edges = np.linspace(0, shape[axis], num_blocks + 1)
    inner = np.cumsum([0, 1 - sum(fractions), *fractions])
    cuts = (edges[:-1, None] + np.diff(edges)[:, None] * inner).round().astype(int)  # [k, 4]
    boxes = np.tile(np.stack([np.zeros(3, int), np.array(shape)], -1), (num_blocks, 1, 1))
    found = {}
    for number, split in enumerate(SPLITS):
        found[split] = boxes.copy()
        found[split][:, axis] = cuts[:, number : number + 2]
    return found


def given(parts: Mapping[str, Mapping[str, Sequence]], grid: Grid) -> dict[str, Boxes]:
    """Boxes from the first and last coordinates of parts.

    Raises:
        ConfigError: two parts share a cell, or one is empty.
    """
    found = {}
    for split, ends in parts.items():
        turns = [grid.circular and axis == "longitude" for axis in AXES]
        box = [span(axis, grid.axes[axis], ends.get(axis), turn) for axis, turn in zip(AXES, turns, strict=True)]
        found[split] = np.array([box])
    names = list(found)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            low = np.maximum(found[one][0, :, 0], found[other][0, :, 0])
            if (low < np.minimum(found[one][0, :, 1], found[other][0, :, 1])).all():
                raise ConfigError(
                    f"expected parts without common cells, got overlapping {one} and {other}: separate them"
                )
    return found


def check_room(boxes: Mapping[str, Boxes], patch: Sequence[int]) -> None:
    """Raises unless a patch fits every box."""
    for split, own in boxes.items():
        size = (own[..., 1] - own[..., 0]).min(0)
        if (size < patch).any():
            raise ConfigError(
                f"expected the {split} part to hold patches of {' x '.join(map(str, patch))} cells (time x latitude x "
                f"longitude), got {' x '.join(map(str, size))}: lower patch or num_blocks, or divide otherwise"
            )
