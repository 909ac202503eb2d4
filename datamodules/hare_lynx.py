"""A real predator and its prey: the hares and lynxes of the Hudson's Bay Company, or a record of one's own."""

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import ClassVar

import numpy as np

from datamodules.base import PlotTask
from datamodules.csv_files import csv_file, read_columns
from datamodules.loader import generator
from datamodules.lotka_volterra import SCALING, YEARS, scaled
from datamodules.sampled import SampledTasks, assemble, distinct
from npexp.batch import TaskBatch
from npexp.errors import ConfigError, DataError

SHIPPED = "hare_lynx"
COLUMNS = ("time", "prey", "predator")


class HareLynx(SampledTasks):
    """The 21 yearly counts of pelts of hares and lynxes, 1900 to 1920: parts of the record tell the rest of it.

    Use it as a real source of `SimToReal`, beside `LotkaVolterra`. There is only a test set, as there is one record
    only: another random part of it is the context of each task, so tasks are far from independent. Inputs are years
    since the first one, mapped as those of the simulations, and outputs thousands less 30, over 25.

    Args:
        path: a CSV file with the columns "time", "prey" and "predator", in years and thousands, comments after #, of at
            most 20 years; or "hare_lynx" for what ships.
        num_context: smallest and largest context, drawn once per batch.
        num_target: smallest and largest number of targets, drawn once per batch.
        max_points: cap on context and targets together: the largest number of targets becomes this less the context.
        batch_size: tasks per batch.
        num_test_batches: test batches.
        seed: names the stream of tasks.
        cache_dir: where evaluation sets are kept; None for `$XDG_CACHE_HOME/npexp` or `~/.cache/npexp`.

    Raises:
        ConfigError: a setting is out of range or contradicts another, or another split than "test" is asked for.
        DataError: the file cannot be read or has other columns, values that are no numbers, repeated times, fewer rows
            than the largest task has points, or more than 20 years.
    """

    oracle = False
    scaling: ClassVar = SCALING

    def __init__(
        self,
        path: str = SHIPPED,
        num_context: Sequence[int] = (3, 15),
        num_target: Sequence[int] = (6, 18),
        max_points: int | None = 21,
        batch_size: int = 16,
        num_test_batches: int = 16,
        seed: int = 0,
        cache_dir: str | None = None,
    ):
        super().__init__(
            dx=1,
            dy=2,
            num_context=num_context,
            num_target=num_target,
            max_points=max_points,
            ragged=False,
            batch_size=batch_size,
            steps_per_epoch=1,
            num_val_batches=1,
            num_test_batches=num_test_batches,
            seed=seed,
            num_workers=0,
            cache_dir=cache_dir,
        )
        self.path = path

    @cached_property
    def record(self) -> np.ndarray:
        """Years since the first, and thousands of prey and predators, `[n, 3]`, float64, in the order of time."""
        numbers = read_columns(csv_file(self.path, [SHIPPED]), COLUMNS)
        numbers = numbers[numbers[:, 0].argsort(kind="stable")]
        if len(numbers) < self.most_points:
            raise DataError(
                f"expected at least {self.most_points} rows, as the largest task has points, got {len(numbers)} in "
                f"{self.path}: lower num_context, num_target or max_points"
            )
        numbers[:, 0] -= numbers[0, 0]
        if (np.diff(numbers[:, 0]) == 0).any() or numbers[-1, 0] > YEARS:
            raise DataError(
                f"expected different times within {YEARS:g} years, got {len(numbers)} rows over {numbers[-1, 0]:g} "
                f"years in {self.path}: average repeated times, and cut longer records"
            )
        return numbers

    def make_batch(self, split: str, index: int) -> TaskBatch:
        if split != "test":
            raise ConfigError(
                f"expected the split 'test', got '{split}': one record is too little to train on, so give it to "
                "SimToReal as a real source"
            )
        self.check_index(split, index)
        rng = generator(self.seed, split, index=index)
        nc, nt, _ = self.draw_sizes(rng)
        numbers = distinct(rng, np.full(self.batch_size, len(self.record)), nc + nt, None)
        return self._tasks(numbers, nc)

    def plot_tasks(self, num: int) -> list[PlotTask]:
        """The record `num` times, with context sizes spread over their range; the targets are all rows."""
        every, tasks = np.arange(len(self.record)), []
        for number, nc in enumerate(self.plot_contexts(num)):
            rng = generator(self.seed, "plot", index=number)
            batch = self._tasks(np.concatenate([rng.permutation(every)[:nc], every])[None], nc)
            tasks.append(PlotTask(batch, "curve", truth=batch.yt))
        return tasks

    def _tasks(self, numbers: np.ndarray, nc: int) -> TaskBatch:
        rows = self.record[numbers]
        return assemble(*scaled(rows[..., 0], rows[..., 1:]), nc)

    def _settings(self, split: str) -> str:
        """Evaluation sets depend on what the file holds, not only on its name."""
        return super()._settings(split) + hashlib.sha256(self.record.tobytes()).hexdigest()
