"""Measurements at irregular places, as the context of tasks on a grid."""

from collections.abc import Mapping, Sequence

import numpy as np

from datamodules.field_files import check_variable, coordinates, files, opened, read_values
from datamodules.grids import CIRCLE, NAMES, turned
from npexp.errors import DataError


class Stations:
    """Series of measurements at fixed places, at the times of a grid.

    Args:
        path: a NetCDF file or Zarr folder with variables on (time, station), and a latitude and a longitude for each
            station; without time where the grid has none.
        names: the variables wanted, all of which a station must have at a time to be used then.
        dims: what time, latitude and longitude are called, where not by their usual names.
        axes: those of the grid.

    Attributes:
        latitude: of each station, `[s]`.
        longitude: of each, written as the grid writes them, `[s]`.
        values: `[v, time, s]`, float32, NaN where a station has no value at a time of the grid.
        measured: where it has all of them, `[time, s]`.

    Raises:
        DataError: whatever is wrong with the file.
    """

    def __init__(self, path: str, names: Sequence[str], dims: Mapping[str, str], axes: Mapping[str, np.ndarray]):
        file, *others = files(path)
        if others:
            raise DataError(f"expected one file of stations, got {1 + len(others)} for {path}: join them")
        content = opened(file, {})
        time, *place = (
            next((n for n in ((dims[axis],) if axis in dims else NAMES[axis]) if n in content.variables), None)
            for axis in NAMES
        )
        if None in place:
            raise DataError(
                f"expected a latitude and a longitude for each station, got {', '.join(map(str, content.variables))} "
                f"in {file}: add them, or name them with dims"
            )
        (station, *further) = content[place[0]].dims or (None,)
        if station is None or further or content[place[1]].dims != (station,) or station in place:
            raise DataError(
                f"expected latitude and longitude along one dimension of stations, got {content[place[0]].dims} and "
                f"{content[place[1]].dims} in {file}: a field on a grid is given as path"
            )
        timed = time is not None and time in content.dims
        for name in place:
            check_variable(name, file, content, [station])
        for name in names:
            check_variable(name, file, content, [*([time] if timed else []), station])
        self.latitude, self.longitude = (np.asarray(content[name].values, np.float64) for name in place)
        if not (np.isfinite(self.latitude).all() and np.isfinite(self.longitude).all()):
            bad = int(np.argmin(np.isfinite(self.latitude) & np.isfinite(self.longitude)))
            raise DataError(f"expected finite positions, got none for station {bad} of {file}: leave it out")
        west = (axes["longitude"][0] + axes["longitude"][-1] - CIRCLE) / 2  # the seam is opposite the grid's middle
        if place[1] in NAMES["longitude"]:
            self.longitude = turned(self.longitude, west)
        self.values = np.stack([read_values(name, file, content[name].transpose(..., station)) for name in names])
        if not timed:
            self.values = self.values[:, None]
        if timed or len(axes["time"]) > 1:
            self._match(coordinates("time", time if timed else None, file, content), axes["time"], str(file))
        self.measured = np.isfinite(self.values).all(0)
        self.axes = list(axes.values())
        self.row, self.column = (
            np.searchsorted((axis[1:] + axis[:-1]) / 2, own)
            for axis, own in zip(self.axes[1:], (self.latitude, self.longitude), strict=True)
        )

    def _match(self, have: np.ndarray, wanted: np.ndarray, file: str) -> None:
        """Puts values at the times of the grid; the others are missing."""
        alike = have.dtype.kind == wanted.dtype.kind
        common, here, there = np.intersect1d(have, wanted if alike else have[:0], return_indices=True)
        if not len(common):
            raise DataError(
                f"expected stations at times of the grid, {wanted[0]} to {wanted[-1]}, got {have[0]} to {have[-1]} in "
                f"{file}: correct the times"
            )
        values = np.full((len(self.values), len(wanted), len(self.latitude)), np.nan, np.float32)
        values[:, there] = self.values[:, here]
        self.values = values

    def known(self, start: np.ndarray, patch: Sequence[int]) -> np.ndarray:
        """Which measurements lie within patches, time by time and station by station, `[b, times * s]`.

        Args:
            start: number of each patch's first cell along the axes of the grid, `[b, 3]`.
            patch: times, rows and columns.
        """
        inside = np.ones((len(start), len(self.latitude)), bool)
        for n, own in ((1, self.latitude), (2, self.longitude)):
            first, last = self.axes[n][start[:, n]], self.axes[n][start[:, n] + patch[n] - 1]
            inside &= (own >= first[:, None]) & (own <= last[:, None])
        times = start[:, :1] + np.arange(patch[0])
        return (self.measured[times] & inside[:, None]).reshape(len(start), -1)

    def cells(self, start: np.ndarray, patch: Sequence[int]) -> np.ndarray:
        """Number of the cell of a patch that is nearest to each measurement within it, `[b, times * s]`."""
        row, column = (
            (near - start[:, n : n + 1]).clip(0, patch[n] - 1)[:, None] for n, near in ((1, self.row), (2, self.column))
        )
        return ((np.arange(patch[0])[:, None] * patch[1] + row) * patch[2] + column).reshape(len(start), -1)
