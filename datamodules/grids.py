"""Fields on the axes time, latitude and longitude: which part to keep, and reading any part of it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from npexp.errors import ConfigError, DataError, suggest

NAMES = {"time": ("time", "valid_time"), "latitude": ("latitude", "lat"), "longitude": ("longitude", "lon")}
AXES = tuple(NAMES)  # the order of axes everywhere
CIRCLE = 360.0
TINY = 1e-6  # degrees: coordinates are often stored in float32

Ends = Mapping[str, Sequence]  # axis to its first and last coordinate


class Grid:
    """Variables on the axes (time, latitude, longitude), all ascending, of which any part can be read.

    Args:
        axes: coordinates of each axis in any monotonic order: dates or numbers, a single time where there is none.
        arrays: variables, `[time, latitude, longitude]` each.
        crop: first and last coordinate to keep of some axes.
        every: take each so manyth coordinate of some axes.
        circular: longitudes are degrees, of which 360 is a full turn.
    """

    def __init__(
        self,
        axes: Mapping[str, np.ndarray],
        arrays: Mapping[str, Any],
        crop: Ends | None = None,
        every: Mapping[str, int] | None = None,
        circular: bool = False,
    ):
        self.arrays, self.circular, self.axes, self.positions = arrays, circular, {}, {}
        for axis, values in axes.items():
            ends = (crop or {}).get(axis)
            if circular and axis == "longitude" and ends is not None:  # they start where the crop does
                values = turned(values, first_last(axis, ends, False)[0])
            order = np.argsort(values, kind="stable")
            kept = slice(*span(axis, values[order], ends), (every or {}).get(axis, 1))
            self.axes[axis], self.positions[axis] = values[order][kept], order[kept]

    @property
    def shape(self) -> tuple[int, ...]:
        """Cells along each axis."""
        return tuple(len(self.axes[axis]) for axis in AXES)

    def moves(self, name: str) -> bool:
        """Whether a variable changes over time."""
        return self.shape[0] > 1

    def read(self, name: str, ranges: Sequence[slice]) -> np.ndarray:
        """A part of a variable, `[time, latitude, longitude]`, float32, with NaN where it is missing."""
        at = [self.positions[axis][part] for axis, part in zip(AXES, ranges, strict=True)]
        return self.arrays[name][np.ix_(*at)].astype(np.float32)


def turned(longitudes: np.ndarray, west: float) -> np.ndarray:
    """Longitudes written as `west` or up to a full turn more."""
    return longitudes - CIRCLE * np.floor((longitudes - west + TINY) / CIRCLE)


def first_last(axis: str, ends: Sequence, dates: bool) -> tuple[Any, Any]:
    """Two ends as numbers, a little apart, or as the beginning of one date and the end of the other."""
    try:
        low, high = ends
        if dates:
            import pandas as pd

            return pd.Period(str(low)).start_time.to_datetime64(), pd.Period(str(high)).end_time.to_datetime64()
        return float(low) - TINY, float(high) + TINY
    except (TypeError, ValueError) as error:
        raise ConfigError(f"expected [first, last] for {axis}, got {ends!r} ({one_line(error)}): correct it") from error


def span(axis: str, values: np.ndarray, ends: Sequence | None, circular: bool = False) -> tuple[int, int]:
    """Where the coordinates between two ends, both included, begin and end among ascending ones.

    Raises:
        ConfigError: the ends are no such pair, or nothing lies between them.
    """
    if ends is None:
        return 0, len(values)
    low, high = first_last(axis, ends, values.dtype.kind == "M")
    turns = (
        np.array([0.0, -CIRCLE, CIRCLE]) if circular else np.zeros(1, "m8[ns]" if values.dtype.kind == "M" else "f8")
    )
    begins, ends_at = np.searchsorted(values, low + turns), np.searchsorted(values, high + turns, side="right")
    turn = int(np.argmax(ends_at - begins))  # the way to write these longitudes that the field has
    begin, end = int(begins[turn]), int(ends_at[turn])
    if begin >= end:
        raise ConfigError(
            f"expected coordinates of {axis} between {ends[0]} and {ends[1]}, got none: the field has {values[0]} to "
            f"{values[-1]}"
        )
    return begin, end


def one_line(error: Exception) -> str:
    """What an error says, short and on one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:200] + " ..."


def hours(times: np.ndarray) -> np.ndarray:
    """Dates as hours since 1970; numbers stay what they are."""
    if times.dtype.kind != "M":
        return times.astype(np.float64)
    return (times - np.datetime64("1970-01-01")) / np.timedelta64(1, "h")


def jacksboro(names: Sequence[str], crop: Ends | None, every: Mapping[str, int] | None) -> Grid:
    """Elevations in metres around the Jacksboro fault, Tennessee, 344 x 403 cells of 3 arc seconds, from matplotlib."""
    from matplotlib.cbook import get_sample_data

    with get_sample_data("jacksboro_fault_dem.npz") as content:
        elevation = content["elevation"]
        north, west, step = (float(content[name]) for name in ("ymin", "xmin", "dy"))  # rows go south from "ymin"
    for name in names:
        if name != "elevation":
            raise DataError(f"jacksboro has no variable '{name}'; {suggest(name, ['elevation'])}")
    rows, columns = (np.arange(size) + 0.5 for size in elevation.shape)
    axes = {"time": np.zeros(1), "latitude": north - step * rows, "longitude": west + step * columns}
    return Grid(axes, {"elevation": elevation[None]}, crop, every, circular=True)
