"""Patches of a field over space and time, from the files that its users have: weather, climate, oceans, terrain."""

import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from datamodules.base import PlotTask
from datamodules.field_files import FileGrid, fingerprint
from datamodules.grids import AXES, Grid, hours, jacksboro
from datamodules.loader import generator
from datamodules.patches import CLOCKS, SPLITS, Patches, check_room, divided, given, pick, place
from datamodules.sampled import SampledTasks, assemble
from datamodules.settings import fractions
from datamodules.stations import Stations
from npexp.batch import TaskBatch
from npexp.errors import ConfigError, DataError, UnknownNameError, at_least

SHIPPED = {"jacksboro": jacksboro}  # fields that need no file
TRIES = 1000  # draws of patches before too many cells are held to be missing everywhere


class Drawn(NamedTuple):
    """Some patches of a field.

    Args:
        start: number of the first cell along each axis, `[b, 3]`.
        values: what changes over time, `[b, v, cells]`.
        known: cells where nothing is missing, `[b, cells]`.
        heard: measurements that may be context, `[b, times * stations]`; None without stations.
    """

    start: np.ndarray
    values: np.ndarray
    known: np.ndarray
    heard: np.ndarray | None


class Field(SampledTasks):
    """Patches of a field on (time, latitude, longitude), to be completed from some of their cells, or from stations.

    Use it for gridded weather, climate, ocean and terrain data in NetCDF or Zarr, such as ERA5 files as they come:
    latitudes may descend, longitudes run to 360, values be packed, and months lie in files of their own. What ships is
    a model of terrain. A task is a patch of `patch` cells anywhere in the part of its split; cells where an output or
    an auxiliary input is missing are neither context nor target. Files that do not fit `memory` are read patch by
    patch. xarray and its backends are an extra: `pip install 'npexp[field]'`.

    Inputs are (time, latitude, longitude), without those along which a patch has one cell only: relative to the middle
    of the patch and mapped to [-2, 2], so that a model cannot know where on Earth it is; then the auxiliary ones,
    standardised. Outputs are standardised with the mean and standard deviation of the training part. Predictors of
    finished runs take hours and degrees from the middle of a patch, and give values as the file has them.

    Parts never share a cell and no patch crosses a border, but neighbours across one are alike, as are overlapping
    patches. Settings such as those of TNP-KR (Jenson et al. 2024, arXiv 2411.12502: training in central, validation in
    northern, test in western Europe) are given by `parts`. Nobody knows the best score here.

    Args:
        path: a NetCDF file or Zarr folder, or a pattern of files that follow one another in time; or what ships:
            "jacksboro", terrain of 344 x 403 cells of about 80 m, from matplotlib's sample data.
        variables: the outputs.
        patch: times, rows and columns of a patch.
        auxiliary: inputs known everywhere: variables such as orography, "day_of_year" or "hour_of_day".
        auxiliary_path: a file on the same grid for those that do not change and are not in `path`.
        stations: a file of measurements at places of their own; they are the context then, cells are targets.
        dims: what time, latitude and longitude are called in the files, where not by their usual names.
        select: one coordinate of each further dimension, such as {"pressure_level": 500}.
        crop: first and last coordinate to keep, by axis, such as {"latitude": [35, 70], "longitude": [-12, 40]}.
        every: take each so manyth cell, by axis, such as {"time": 6}.
        relative: positions relative to the patch, else as they are: hours since 1970 and degrees.
        mirrored: axes along which each training patch is turned over with probability 1/2, as if there were more of
            the field; for fields that look the same either way, as terrain does and weather does not. Needs `relative`.
        parts: first and last coordinate of "train", "val" and "test", by axis; None to divide by the next four.
        split_by: the axis to divide.
        num_blocks: stretches of it that are divided each into training, validation and test, in this order.
        val_fraction: share of each stretch for validation.
        test_fraction: share of each stretch for the test set.
        memory: gigabytes; a larger field is read patch by patch, and its mean taken over as many times as fit.
        num_context: smallest and largest context, drawn once per batch; stations give as many as there are.
        num_target: smallest and largest number of targets, drawn once per batch.
        max_points: cap on context and targets together: the largest number of targets becomes this less the context.
        ragged: draw both numbers for each task alone; the batch is padded with zeros and has masks.
        batch_size: patches per batch.
        steps_per_epoch: training steps per epoch.
        num_val_batches: validation batches.
        num_test_batches: test batches.
        seed: names the stream of tasks.
        num_workers: processes that prepare training batches.
        cache_dir: where evaluation sets are kept; None for `$XDG_CACHE_HOME/npexp` or `~/.cache/npexp`.

    Raises:
        ConfigError: a setting is out of range or contradicts another, or a patch does not fit its part.
        DataError: the files cannot be read or do not hold what was asked for.
    """

    oracle = False

    def __init__(
        self,
        path: str | None = "jacksboro",
        variables: Sequence[str] = ("elevation",),
        patch: Sequence[int] = (1, 24, 24),
        auxiliary: Sequence[str] = (),
        auxiliary_path: str | None = None,
        stations: str | None = None,
        dims: dict[str, str] | None = None,
        select: dict[str, Any] | None = None,
        crop: dict[str, list] | None = None,
        every: dict[str, int] | None = None,
        relative: bool = True,
        mirrored: Sequence[str] = (),
        parts: dict[str, dict[str, list]] | None = None,
        split_by: str = "longitude",
        num_blocks: int = 2,
        val_fraction: float = 0.2,
        test_fraction: float = 0.2,
        memory: float = 2.0,
        num_context: Sequence[int] = (6, 100),
        num_target: Sequence[int] = (100, 100),
        max_points: int | None = None,
        ragged: bool = False,
        batch_size: int = 16,
        steps_per_epoch: int = 500,
        num_val_batches: int = 32,
        num_test_batches: int = 64,
        seed: int = 0,
        num_workers: int = 0,
        cache_dir: str | None = None,
    ):
        if len(patch) != 3 or max(at_least("patch", cells, 1) for cells in patch) == 1:
            raise ConfigError(f"expected patch as times, rows and columns, not all 1, got {patch!r}: correct it")
        names = [*variables, *auxiliary]
        for number, name in enumerate(names):
            if name in names[:number]:
                raise ConfigError(
                    f"expected different names in variables and auxiliary, got '{name}' again: name it once, an output "
                    "as an input would tell itself"
                )
        inside = [n for n in range(3) if patch[n] > 1]
        super().__init__(
            dx=len(inside) + sum(2 if name in CLOCKS else 1 for name in auxiliary),
            dy=len(variables),
            num_context=num_context,
            num_target=num_target,
            max_points=max_points,
            ragged=ragged,
            batch_size=batch_size,
            steps_per_epoch=steps_per_epoch,
            num_val_batches=num_val_batches,
            num_test_batches=num_test_batches,
            seed=seed,
            num_workers=num_workers,
            cache_dir=cache_dir,
        )
        self.path, self.variables, self.patch, self._inside = path, variables, tuple(patch), inside
        self.auxiliary, self.auxiliary_path, self.stations = auxiliary, auxiliary_path, stations
        self.dims, self.select, self.crop, self.every = (value or {} for value in (dims, select, crop, every))
        for name in ("dims", "crop", "every"):
            check_keys(name, getattr(self, name), AXES)
        for axis, step in self.every.items():
            at_least(f"every.{axis}", step, 1)
        self.relative, self.parts, self.split_by = relative, parts, split_by
        check_keys("split_by", [split_by], AXES)
        self.mirrored = mirrored
        check_keys("mirrored", mirrored, [AXES[n] for n in inside])
        if mirrored and not relative:
            raise ConfigError("expected relative=true where patches are mirrored: degrees say which side is which")
        if parts is not None:
            check_keys("parts", parts, SPLITS, complete=True)
            for split, ends in parts.items():
                check_keys(f"parts.{split}", ends, AXES)
        self.num_blocks = at_least("num_blocks", num_blocks, 1)
        self.val_fraction, self.test_fraction = fractions(val_fraction, test_fraction)
        self.memory = at_least("memory", memory, 0.0)
        self.cells = int(np.prod(patch))
        needed = num_target[1] if stations else self.most_points
        if needed > self.cells:
            raise ConfigError(
                f"expected at most the {self.cells} cells of a patch, got {needed} in all: lower num_context or "
                "num_target, set max_points, or raise patch"
            )

    @cached_property
    def grid(self) -> Grid:
        """The field, opened: its axes, and how to read it."""
        if self.path is None:
            raise ConfigError(
                "expected the path of a NetCDF file or Zarr folder, got none: set data.path and data.variables; ERA5 "
                "comes from the Climate Data Store, cds.climate.copernicus.eu"
            )
        own = () if self.auxiliary_path else (name for name in self.auxiliary if name not in CLOCKS)
        names = [*self.variables, *own]
        if self.path in SHIPPED:
            return SHIPPED[self.path](names, self.crop, self.every)
        return FileGrid(self.path, names, self.dims, self.select, self.crop, self.every)

    @cached_property
    def scaling(self) -> dict[str, list[float]]:
        """From positions in hours and degrees, and all else as in the files."""
        x_shift, x_scale, moments = [], [], self._patches.moments(self.boxes["train"])
        for n in self._inside:
            axis = self._axes[n]
            length = (self.patch[n] - 1) * np.median(np.diff(axis)) if self.relative else np.ptp(axis)
            x_shift.append(0.0 if self.relative else float(axis[0] + axis[-1]) / 2)
            x_scale.append(float(length) / 4)
        for name in self.auxiliary:
            shift, scale = moments.get(name, (0.0, 1.0))  # sines and cosines stay what they are
            x_shift += [shift] * (2 if name in CLOCKS else 1)
            x_scale += [scale] * (2 if name in CLOCKS else 1)
        y_shift, y_scale = zip(*(moments[name] for name in self.variables), strict=True)
        return {"x_shift": x_shift, "x_scale": x_scale, "y_shift": list(y_shift), "y_scale": list(y_scale)}

    @cached_property
    def boxes(self) -> dict[str, np.ndarray]:
        """First cell and the one after the last, along each axis, of the boxes of each split, `[k, 3, 2]`."""
        if self.parts is None:
            fractions = self.val_fraction, self.test_fraction
            found = divided(self.grid.shape, AXES.index(self.split_by), self.num_blocks, fractions)
        else:
            found = given(self.parts, self.grid)
        check_room(found, self.patch)
        return found

    def make_batch(self, split: str, index: int) -> TaskBatch:
        self.check_index(split, index)
        rng = generator(self.seed, split, index=index)
        nc, nt, mask = self.draw_sizes(rng)
        if self.stations is None:
            drawn = self._draw(rng, split, self.batch_size, nc + nt)
            x, y = self._cells(drawn, pick(rng, drawn.known, nc + nt))
            return assemble(self._turned(rng, split, x), y, nc, mask)
        drawn = self._draw(rng, split, self.batch_size, nt)
        context, real = self._heard(drawn, pick(rng, drawn.heard, nc))
        targets = self._cells(drawn, pick(rng, drawn.known, nt))
        mask = torch.ones(self.batch_size, nc + nt, dtype=torch.bool) if mask is None else mask
        few = real.shape[1]  # there may be fewer measurements than slots
        x, y = (torch.cat(pair, 1) for pair in zip(context, targets, strict=True))
        return assemble(self._turned(rng, split, x), y, few, torch.cat([real & mask[:, :few], mask[:, nc:]], 1))

    def plot_tasks(self, num: int) -> list[PlotTask]:
        """Validation patches without missing cells, with context sizes spread over their range; all cells are targets.

        Validation tasks where a patch has several times or is a line, where the outputs are no picture, which has one
        or three, or where each patch misses cells.
        """
        if self.patch[0] > 1 or min(self.patch[1:]) == 1 or self.dy not in (1, 3):
            return super().plot_tasks(num)
        tasks = [self._plot_task(number, nc) for number, nc in enumerate(self.plot_contexts(num))]
        return [task for task in tasks if task is not None] or super().plot_tasks(num)

    def _plot_task(self, number: int, nc: int) -> PlotTask | None:
        rng = generator(self.seed, "plot", index=number)
        try:
            drawn = self._draw(rng, "val", 1, self.cells)
        except DataError:  # some cell is missing in every patch
            return None
        from_north = np.arange(self.cells).reshape(self.patch[1:])[::-1].reshape(1, -1).copy()
        targets = self._cells(drawn, from_north)
        if self.stations is None:
            batch = TaskBatch(*self._cells(drawn, pick(rng, drawn.known, nc)), *targets)
        else:
            context, real = self._heard(drawn, pick(rng, drawn.heard, nc))
            batch = TaskBatch(*context, *targets, mask_c=real)
        return PlotTask(batch, "image", self.patch[1:], truth=batch.yt)

    def _draw(self, rng: np.random.Generator, split: str, num: int, needed: int) -> Drawn:
        """Patches of a split, all equally likely that have at least so many known cells, and the fewest stations."""
        self.scaling  # noqa: B018 - refuses what is missing everywhere, before it is looked for in vain
        drawn = self._look(rng, split, num)
        for _ in range(TRIES):
            few = drawn.known.sum(1) < needed
            if drawn.heard is not None:
                few |= drawn.heard.sum(1) < self.num_context[0]
            if not few.any():
                return drawn
            for old, new in zip(drawn, self._look(rng, split, int(few.sum())), strict=True):
                if old is not None:
                    old[few] = new
        stations = f" and {self.num_context[0]} measurements of stations" if self.stations else ""
        raise DataError(
            f"expected patches with {needed} known cells{stations} in the {split} part of {self.path}, got none in "
            f"{TRIES} draws: lower num_context or num_target, or raise patch"
        )

    def _look(self, rng: np.random.Generator, split: str, num: int) -> Drawn:
        """Patches anywhere in a split."""
        boxes = self.boxes[split]
        free = boxes[..., 1] - boxes[..., 0] - self.patch + 1  # [k, 3]
        box = np.searchsorted(free.prod(1).cumsum(), rng.integers(free.prod(1).sum(), size=num), side="right")
        start = boxes[box, :, 0] + rng.integers(free[box])
        values = self._patches.read(start)
        informed = self._patches.informed(start, values, self.dy)
        heard = None
        if self.stations is not None:
            heard = self._network.known(start, self.patch)
            heard &= np.take_along_axis(informed, self._network.cells(start, self.patch), 1)
        return Drawn(start, values, informed & np.isfinite(values[:, : self.dy]).all(1), heard)

    def _cells(self, drawn: Drawn, cells: np.ndarray) -> tuple[Tensor, Tensor]:
        """Inputs and outputs of some cells, `[b, n, dx]` and `[b, n, dy]`."""
        at = place(drawn.start, cells, self.patch)
        positions = [axis[number] for axis, number in zip(self._axes, at, strict=True)]
        outputs = np.take_along_axis(drawn.values[:, : self.dy], cells[:, None], 2).swapaxes(1, 2)
        return self._scaled(drawn, positions, cells, outputs)

    def _heard(self, drawn: Drawn, chosen: np.ndarray) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """Inputs and outputs of measurements, and which are real; auxiliary inputs are those of the nearest cell."""
        time, station = np.divmod(chosen, len(self._network.latitude))
        time += drawn.start[:, :1]
        positions = [self._axes[0][time], self._network.latitude[station], self._network.longitude[station]]
        cells = np.take_along_axis(self._network.cells(drawn.start, self.patch), chosen, 1)
        outputs = np.moveaxis(self._network.values[:, time, station], 0, -1)
        real = torch.from_numpy(np.take_along_axis(drawn.heard, chosen, 1))
        return self._scaled(drawn, positions, cells, outputs), real

    def _scaled(
        self, drawn: Drawn, positions: list[np.ndarray], cells: np.ndarray, outputs: np.ndarray
    ) -> tuple[Tensor, Tensor]:
        """Inputs and outputs as models want them, from what they are in the files."""
        columns = []
        for n in self._inside:
            first, axis = drawn.start[:, n : n + 1], self._axes[n]
            middle = (axis[first] + axis[first + self.patch[n] - 1]) / 2 if self.relative else 0.0
            columns.append((positions[n] - middle)[..., None])
        x = np.concatenate([*columns, self._patches.columns(drawn.start, drawn.values, cells)], -1)
        s = self.scaling
        scaled = (x - s["x_shift"]) / s["x_scale"], (outputs - s["y_shift"]) / s["y_scale"]
        return tuple(torch.from_numpy(v.astype(np.float32)) for v in scaled)

    def _turned(self, rng: np.random.Generator, split: str, x: Tensor) -> Tensor:
        """Inputs of the patches, some of which are turned over; positions are relative to the middle."""
        if split == "train":
            for axis in self.mirrored:
                side = torch.from_numpy(rng.choice((-1, 1), (len(x), 1)))
                x[..., self._inside.index(AXES.index(axis))] *= side
        return x

    @cached_property
    def _axes(self) -> list[np.ndarray]:
        """Hours and degrees."""
        return [hours(self.grid.axes[axis]) for axis in AXES]

    @cached_property
    def _patches(self) -> Patches:
        still = None
        if self.auxiliary_path:
            names = [name for name in self.auxiliary if name not in CLOCKS]
            area = {axis: ends for axis, ends in self.crop.items() if axis != "time"}
            still = FileGrid(self.auxiliary_path, names, self.dims, None, area, {**self.every, "time": 1})
        return Patches(self.grid, self.variables, self.auxiliary, still, self.patch, self.memory)

    @cached_property
    def _network(self) -> Stations:
        return Stations(self.stations, self.variables, self.dims, self.grid.axes)

    def _settings(self, split: str) -> str:
        """Evaluation sets depend on what the files hold, not only on their names."""
        self.grid  # noqa: B018 - a readable error where there is none
        paths = [path for path in (self.path, self.auxiliary_path, self.stations) if path and path not in SHIPPED]
        return super()._settings(split) + json.dumps([fingerprint(path) for path in paths])


def check_keys(name: str, given: Iterable[str], known: Sequence[str], complete: bool = False) -> None:
    """Raises unless the keys of a setting are among those known, and, if wished, all of these."""
    for key in given:
        if key not in known:
            raise UnknownNameError(f"key of {name}", key, known)
    if complete and set(given) != set(known):
        raise ConfigError(f"expected {name} with {', '.join(known)}, got {', '.join(given)}: add the others")
