"""Windows of one long real series: the usual way to have a single series and to learn from many tasks."""

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from datamodules.base import PlotTask
from datamodules.csv_files import csv_file, read_columns
from datamodules.loader import generator
from datamodules.sampled import SampledTasks, assemble, column, distinct
from datamodules.settings import fractions
from npexp.batch import TaskBatch
from npexp.errors import ConfigError, DataError, at_least, positive

SPLITS = ("train", "val", "test")  # in the order of time
SHIPPED = ("co2", "sunspots")


class Windows(NamedTuple):
    """Where windows may begin: the number of each one's first point, and how many points it has, `[w]` each."""

    first: np.ndarray
    count: np.ndarray


class Series(SampledTasks):
    """Windows of a real series, regularly or irregularly sampled, to be completed from some of their points.

    Use it for the series you have; what ships is 44 years of atmospheric carbon dioxide and 309 of sunspots. A window
    begins at any point and is as long as `window` says. Inputs are times since its beginning, mapped to [-2, 2], so a
    model cannot know the date; outputs are standardised with the mean and standard deviation of the training part.
    Predictors of finished runs take times since the beginning of a window, in the units of the file, and give values
    as the file has them.

    The past trains, what follows validates, and the future tests; no window crosses a border. A series with a trend
    would be tested on levels it never had in training: with `num_blocks` above 1 it is cut into as many equal stretches
    of time, and each is divided so. Nobody knows the best score here, and overlapping windows are not independent.

    Args:
        path: a CSV file with the columns "time", numbers, and "value", a row per point, comments after #; or the name
            of a series that ships: "co2", weekly, in years and parts per million, or "sunspots", yearly, their number.
        window: length of a window, in the units of "time".
        num_blocks: stretches of time that are divided each.
        val_fraction: share of each stretch for validation.
        test_fraction: share of each stretch for the test set.
        num_context: smallest and largest context, drawn once per batch.
        num_target: smallest and largest number of targets, drawn once per batch.
        max_points: cap on context and targets together: the largest number of targets becomes this less the context.
        ragged: draw both numbers for each task alone; the batch is padded with zeros and has masks.
        batch_size: windows per batch.
        steps_per_epoch: training steps per epoch.
        num_val_batches: validation batches.
        num_test_batches: test batches.
        seed: names the stream of tasks.
        num_workers: processes that prepare training batches.
        cache_dir: where evaluation sets are kept; None for `$XDG_CACHE_HOME/npexp` or `~/.cache/npexp`.

    Raises:
        ConfigError: a setting is out of range or contradicts another, or a part has no window with enough points.
        DataError: the file cannot be read or has other columns, or values that are no numbers.
    """

    oracle = False

    def __init__(
        self,
        path: str = "co2",
        window: float = 2.0,
        num_blocks: int = 3,
        val_fraction: float = 0.2,
        test_fraction: float = 0.2,
        num_context: Sequence[int] = (3, 40),
        num_target: Sequence[int] = (40, 40),
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
        super().__init__(
            dx=1,
            dy=1,
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
        self.path, self.window = path, float(positive("window", window))
        self.num_blocks = at_least("num_blocks", num_blocks, 1)
        self.val_fraction, self.test_fraction = fractions(val_fraction, test_fraction)

    @cached_property
    def scaling(self) -> dict[str, list[float]]:
        """From times since the beginning of a window, and values as in the file."""
        own = self.points[1][self.part == 0]
        return {
            "x_shift": [self.window / 2],
            "x_scale": [self.window / 4],
            "y_shift": [float(own.mean())],
            "y_scale": [float(own.std()) or 1.0],
        }

    @cached_property
    def points(self) -> tuple[np.ndarray, np.ndarray]:
        """Times in ascending order, and values, `[n]` each, float64, as in the file."""
        times, values = read_columns(self._file, ("time", "value")).T
        order = times.argsort(kind="stable")
        return times[order], values[order]

    @cached_property
    def part(self) -> np.ndarray:
        """The part of each point, 0 for "train", 1 for "val", 2 for "test", `[n]`."""
        ends = np.cumsum([1 - self.val_fraction - self.test_fraction, self.val_fraction])
        return np.searchsorted(ends, self._block % 1, side="right")

    def num_windows(self, split: str) -> int:
        """Different windows of a split with enough points for the largest task."""
        self.check_index(split, 0)
        return len(self._windows[split].first)

    def make_batch(self, split: str, index: int) -> TaskBatch:
        self.check_index(split, index)
        rng, windows = generator(self.seed, split, index=index), self._windows[split]
        nc, nt, mask = self.draw_sizes(rng)
        chosen = rng.integers(len(windows.first), size=self.batch_size)
        first = windows.first[chosen]
        numbers = first[:, None] + distinct(rng, windows.count[chosen], nc + nt, mask)
        return assemble(*self._look_up(first, numbers), nc, mask)

    def plot_tasks(self, num: int) -> list[PlotTask]:
        """Validation windows, evenly spread over time, with context sizes spread too; the targets are all points.

        The truth is what was observed.
        """
        windows = self._windows["val"]
        chosen = np.linspace(0, len(windows.first) - 1, num).round().astype(int)
        sizes = zip(self.plot_contexts(num), windows.first[chosen], windows.count[chosen], strict=True)
        return [self._plot_task(number, nc, int(first), int(count)) for number, (nc, first, count) in enumerate(sizes)]

    def _plot_task(self, number: int, nc: int, first: int, count: int) -> PlotTask:
        rng = generator(self.seed, "plot", index=number)
        numbers = np.concatenate([rng.permutation(count)[:nc], np.arange(count)])[None]
        batch = assemble(*self._look_up(np.array([first]), first + numbers), nc)
        return PlotTask(batch, "curve", truth=batch.yt)

    def _look_up(self, first: np.ndarray, numbers: np.ndarray) -> tuple[Tensor, Tensor]:
        """Inputs and outputs of points, `[b, n, 1]` each, from their numbers and those of their windows' first ones."""
        times, values = self.points
        since, scaling = times[numbers] - times[first][:, None], self.scaling
        x = (since - scaling["x_shift"]) / scaling["x_scale"]
        return column(x), column((values[numbers] - scaling["y_shift"]) / scaling["y_scale"])

    @cached_property
    def _block(self) -> np.ndarray:
        """Time in units of blocks: the number of each point's, and how far into it the point lies, `[n]`."""
        times = self.points[0]
        span = times[-1] - times[0]
        if span == 0:
            raise DataError(f"expected a series over time, got one time only in {self.path}: use another file")
        return ((times - times[0]) / span * self.num_blocks).clip(max=np.nextafter(self.num_blocks, 0))

    @cached_property
    def _windows(self) -> dict[str, Windows]:
        """Every window of each part that lies in it whole and has enough points."""
        times, found = self.points[0], {}
        stretch = 3 * self._block.astype(int) + self.part  # ascending: the stretches of time, one after the other
        last = np.searchsorted(stretch, stretch, side="right") - 1  # of the point's stretch
        count = np.searchsorted(times, times + self.window, side="right") - np.arange(len(times))
        whole = times + self.window <= times[last]
        for part, split in enumerate(SPLITS):
            first = np.flatnonzero(whole & (self.part == part) & (count >= self.most_points))
            if not len(first):
                most = count[whole & (self.part == part)].max(initial=0)
                raise ConfigError(
                    f"expected windows of {self.window} with at least {self.most_points} points in the {split} part of "
                    f"{self.path}, got {most} at most: change window, use fewer blocks or fewer points"
                )
            found[split] = Windows(first, count[first])
        return found

    @property
    def _file(self) -> Path:
        return csv_file(self.path, SHIPPED)

    def _settings(self, split: str) -> str:
        """Evaluation sets depend on what the file holds, not only on its name."""
        self.points  # noqa: B018 - a readable error where there is no file
        return super()._settings(split) + hashlib.sha256(self._file.read_bytes()).hexdigest()
