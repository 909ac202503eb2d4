"""Fields in NetCDF and Zarr files as users have them, opened without being read, and what may be wrong with them."""

from collections.abc import Mapping, Sequence
from glob import glob, has_magic
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.grids import AXES, CIRCLE, NAMES, TINY, Ends, Grid, one_line
from npexp.errors import ConfigError, DataError, suggest


class FileGrid(Grid):
    """The same for a NetCDF file, a Zarr folder, or files that follow one another in time: nothing is read before use.

    Latitudes may descend, longitudes may start anywhere and cross their seam, values may be packed integers.

    Args:
        path: file or folder; or a pattern for several files, such as "era5_*.nc".
        names: the variables wanted.
        dims: what the axes are called in the file, where not by their usual names.
        select: one coordinate of each further dimension, such as {"pressure_level": 500}.
        crop: first and last coordinate to keep of some axes.
        every: take each so manyth coordinate of some axes.

    Raises:
        DataError: whatever is wrong with the files.
        ConfigError: xarray is not installed.
    """

    def __init__(
        self,
        path: str,
        names: Sequence[str],
        dims: Mapping[str, str] | None = None,
        select: Mapping[str, Any] | None = None,
        crop: Ends | None = None,
        every: Mapping[str, int] | None = None,
    ):
        keep = {*(dims or {}).values(), *(name for names in NAMES.values() for name in names)}
        found = [(file, without_ones(opened(file, select or {}), keep)) for file in files(path)]
        self.dims = {axis: axis_name(axis, *found[0], dims or {}) for axis in AXES}
        for file, content in found:
            for name in names:
                check_variable(name, file, content, [d for d in self.dims.values() if d])
        if self.dims["time"]:
            found.sort(key=lambda pair: coordinates("time", self.dims["time"], *pair)[0])
        elif len(found) > 1:
            raise DataError(
                f"expected files that follow one another in time, got {len(found)} without a dimension "
                f"time, the first {found[0][0]}: add one, or name it with dims"
            )
        self.files, self.datasets = zip(*found, strict=True)
        self.lengths = [c.sizes[self.dims["time"]] for c in self.datasets] if self.dims["time"] else [1]
        whole = {axis: joined(axis, self.dims[axis], found) for axis in AXES}
        super().__init__(whole, {}, crop, every, self.dims["longitude"] in NAMES["longitude"])

    def moves(self, name: str) -> bool:
        return self.dims["time"] in self.datasets[0][name].dims and self.shape[0] > 1

    def read(self, name: str, ranges: Sequence[slice]) -> np.ndarray:
        at = {axis: self.positions[axis][part] for axis, part in zip(AXES, ranges, strict=True)}
        if self.dims["time"] not in self.datasets[0][name].dims:
            return self._piece(0, name, at)
        first = np.cumsum([0, *self.lengths])
        number = np.searchsorted(first, at["time"], side="right") - 1  # of the file
        pieces = [
            self._piece(n, name, {**at, "time": at["time"][number == n] - first[n]}) for n in np.unique(number).tolist()
        ]
        return np.concatenate(pieces)

    def _piece(self, number: int, name: str, at: Mapping[str, np.ndarray]) -> np.ndarray:
        """A part of a variable that lies in one file."""
        variable = self.datasets[number][name].variable
        chosen = {self.dims[axis]: as_slice(where) for axis, where in at.items() if self.dims[axis] in variable.dims}
        part = variable.isel(chosen)
        values = read_values(name, self.files[number], part)
        order = [part.dims.index(self.dims[axis]) for axis in AXES if self.dims[axis] in part.dims]
        values = values.transpose(order)
        return values if len(order) == 3 else values[None]


def xarray() -> Any:
    """The library, which is an extra."""
    try:
        import xarray
    except ImportError as error:
        raise ConfigError(
            "expected xarray for reading fields, got an installation without it: pip install 'npexp[field]'"
        ) from error
    return xarray


def files(path: str) -> list[Path]:
    """The files of a path or pattern, in the order of their names."""
    found = [Path(name) for name in sorted(glob(path))] if has_magic(path) else [Path(path)]
    if not found or not found[0].exists():
        raise DataError(f"expected a NetCDF file, a Zarr folder or a pattern of files, got no {path}: correct the path")
    return found


def fingerprint(path: str) -> list[tuple[str, int, int]]:
    """Names, sizes and times of change of all files below: contents may be far too large to hash."""
    every = [part for file in files(path) for part in ([file] if file.is_file() else sorted(file.rglob("*")))]
    return [(part.name, part.stat().st_size, part.stat().st_mtime_ns) for part in every if part.is_file()]


def opened(file: Path, select: Mapping[str, Any]) -> Any:
    """The data set in a file, read lazily, at one coordinate of some of its dimensions."""
    xr = xarray()
    try:
        engine = "zarr" if file.is_dir() else None
        content = xr.open_dataset(file, engine=engine, cache=False, decode_timedelta=False)
    except Exception as error:  # whatever the backends make of it
        raise DataError(
            f"expected a NetCDF file or a Zarr folder, got {file} ({one_line(error)}): give one that is whole, "
            "converted where it is in another format such as GRIB"
        ) from error
    for name, value in select.items():
        if name not in content.dims:
            raise DataError(f"{file} has no dimension '{name}' to select from; {suggest(name, map(str, content.dims))}")
        if name not in content.coords or not (content[name].values == value).any():
            known = content[name].values.tolist()
            raise DataError(f"expected a {name} that {file} has, got {value}: select one of {known[:20]}")
        content = content.isel({name: int(np.argmax(content[name].values == value))})
    return content


def without_ones(content: Any, keep: set[str]) -> Any:
    """A data set without dimensions of length one other than the axes, such as a single ensemble member."""
    return content.squeeze([d for d, size in content.sizes.items() if size == 1 and d not in keep], drop=True)


def read_values(name: str, file: Path, variable: Any) -> np.ndarray:
    """The values of a variable, or a part of one, float32."""
    try:
        return np.asarray(variable.values, np.float32)
    except Exception as error:  # backends raise all sorts of things when a file ends too early
        raise DataError(
            f"expected readable values of '{name}', got a damaged file {file} ({one_line(error)}): fetch it anew"
        ) from error


def axis_name(axis: str, file: Path, content: Any, dims: Mapping[str, str]) -> str | None:
    """What a file calls an axis; None for a field without time."""
    names = (dims[axis],) if axis in dims else NAMES[axis]
    for name in names:
        if name in content.dims:
            return name
    if axis == "time" and axis not in dims:
        return None
    have = ", ".join(map(str, content.dims))
    raise DataError(f"expected a dimension {' or '.join(names)}, got {have} in {file}: name it, as dims.{axis}")


def check_variable(name: str, file: Path, content: Any, dims: Sequence[str]) -> None:
    """Raises unless the file has the variable, on the given dimensions, with numbers in it."""
    if name not in content.variables:
        raise DataError(f"{file} has no variable '{name}'; {suggest(name, map(str, content.variables))}")
    variable = content[name]
    if variable.dtype.kind not in "biuf":
        raise DataError(f"expected numbers in '{name}' of {file}, got {variable.dtype}: choose another variable")
    further = [d for d in variable.dims if d not in dims]
    if further:
        size = variable.sizes[further[0]]
        raise DataError(
            f"expected '{name}' on {', '.join(dims)}, got the further dimension {further[0]} of {size} in {file}: "
            "choose one of its coordinates with select"
        )
    lacking = [d for d in dims[-2:] if d not in variable.dims]
    if lacking:
        raise DataError(
            f"expected '{name}' on {', '.join(dims)}, got none along {lacking[0]} in {file}: choose another"
        )


def coordinates(axis: str, name: str | None, file: Path, content: Any) -> np.ndarray:
    """An axis of one file: strictly monotonic numbers or times, in the order of the file."""
    if name is None:
        return np.zeros(1)
    if name not in content.coords:
        raise DataError(f"expected coordinates along {name}, got none in {file}: write them into the file")
    values = content[name].values
    if not len(values):
        raise DataError(f"expected coordinates along {name}, got an empty dimension in {file}: give another file")
    if values.dtype.kind not in ("Mbiuf" if axis == "time" else "biuf"):
        raise DataError(f"expected numbers{' or dates' * (axis == 'time')} along {name}, got {values.dtype} in {file}")
    if values.dtype.kind != "M":
        values = values.astype(np.float64)
    if name in NAMES["longitude"]:
        values = np.unwrap(values, period=CIRCLE)
    step = np.diff(values).astype(np.float64) * (1 if values[-1] > values[0] else -1)
    if not (step > 0).all() or np.isnan(values).any():
        wrong = int(np.argmin(step > 0)) + 1 if len(step) else 0
        raise DataError(
            f"expected ascending or descending coordinates along {name}, got {values[wrong]} at position {wrong} of "
            f"{file}: sort them, and leave duplicates out"
        )
    return values


def joined(axis: str, name: str | None, found: Sequence[tuple[Path, Any]]) -> np.ndarray:
    """An axis of all files: times one after the other, the others equal."""
    each = [coordinates(axis, name, *pair) for pair in found]
    for (before, _), (file, _), old, new in zip(found, found[1:], each, each[1:], strict=False):
        if axis == "time" and not old[-1] < new[0]:
            raise DataError(f"expected files that do not overlap in time, got {before} and {file}: leave one out")
        if axis != "time" and not (len(old) == len(new) and np.allclose(old, new, atol=TINY)):
            raise DataError(f"expected one grid in all files, got another {axis} in {file} than in {before}")
    return np.concatenate(each) if axis == "time" else each[0]


def as_slice(positions: np.ndarray) -> slice | np.ndarray:
    """Neighbouring positions as a slice, which files read much faster than single ones."""
    steps = np.unique(np.diff(positions))
    if len(steps) > 1:
        return positions
    step = int(steps[0]) if len(steps) else 1
    stop = int(positions[-1]) + (1 if step > 0 else -1)
    return slice(int(positions[0]), None if stop < 0 else stop, step)
