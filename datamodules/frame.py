"""A table of your own as tasks: the usual way to train on data that are at hand."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datamodules.base import NPDataModule, PlotTask
from datamodules.census import PARTS, Census, take_census
from datamodules.contexts import POLICIES, choose
from datamodules.loader import generator
from datamodules.sampled import assemble
from datamodules.settings import fractions, sizes
from datamodules.splits import Views, check_places, divide, task_views, time_ends, time_views
from datamodules.store import Store
from datamodules.tables import open_table
from datamodules.units import fit_units
from npexp.batch import TaskBatch
from npexp.columns import Column, Columns, kind_of
from npexp.errors import ConfigError, DataError, UnknownNameError, at_least

STRETCH = 64  # training batches in a row that come from the same pieces of a table, so that these are read once
MEASURED = 16  # training batches on which the scale of relative inputs is measured


class Frame(NPDataModule):
    """Tasks from a table in long form: CSV, Parquet, or a DataFrame.

    Use it for data you have: a row per point, with columns for the task, the inputs (numbers, dates, categories) and
    the outputs. What a column holds is found out: text that reads as dates becomes days, other text a 0 or 1 per
    category. Numbers are standardised by the training rows, and predictors of finished runs take and give raw columns
    by their names. Rows of one task may repeat an input: these are noisy observations of one value.

    A Parquet file with more than `max_rows` rows is never loaded: two passes over its row groups, then tasks are read
    when they are wanted. It must be sorted by task; 64 training batches in a row then come from the same few row
    groups, drawn anew so that all tasks are equally likely.

    Args:
        path: a CSV or Parquet file, or a DataFrame.
        task: the column with the name of the task; None where the table is one long series.
        x: the input columns. Policies but "random", splits by time and `relative` go by the first one.
        y: the output columns.
        categories: input columns that are names although they are written as numbers.
        date_format: how dates are written, e.g. "%d.%m.%Y"; None for 2024-12-31 and the like.
        outputs: "joint": a row is a point and has all outputs. "separate": each output that was observed is a point
            of its own, with inputs that say which output it is; for outputs observed at different places.
        repeats: whether two rows of a task may agree in all columns. Else they are refused: one of them in the context
            would give the other away.
        split: "task": a task trains or tests with all its rows. "group": so does a group of tasks. "time": early rows
            train, later ones validate, the last ones test; a task has the parts in which it has points enough. None:
            by group where one is given, else by task, else by time.
        group: the column with the group of a row's task.
        split_at: where validation and test begin, for a split by time; None divides the time between the first row
            and the last by the shares below.
        val_fraction: share of the tasks, groups or time for validation.
        test_fraction: share of them for the test set.
        policy: what is context and what is to be predicted: "random"; "forecast": what follows; "gap": what lies
            between; "extrapolation": what lies around. See `datamodules.contexts`. A forecast into validation or test
            time may use all earlier rows of its task as context; with other policies no task reaches back.
        relative: measure the first input from the latest one of the context: for models that shall not know the date.
            None: where time divides, since dates of the test set are outside all that a model has seen in training.
        num_context: smallest and largest context, drawn once per batch; a task with fewer points draws for itself.
        num_target: smallest and largest number of targets, alike.
        max_rows: rows to hold in memory; a Parquet file with more is read in pieces.
        batch_size: tasks per batch.
        steps_per_epoch: training steps per epoch.
        num_draws: how often each validation and test task is drawn, with contexts of its own each time.
        max_eval_tasks: validation and test tasks in use, spread over all of them.
        seed: of the division and of all tasks.
        num_workers: processes that prepare training batches.
        cache_dir: where evaluation sets are kept; None for `$XDG_CACHE_HOME/npexp` or `~/.cache/npexp`.

    Attributes:
        columns: what the columns mean, plain data; it travels in checkpoints.

    Raises:
        ConfigError: a setting is missing, out of range or contradicts another; there is no file; a part without tasks.
        DataError: the file cannot be read, misses a column, or holds a bad value; the message names row and column.
    """

    oracle = False

    def __init__(
        self,
        path: str | Any = None,
        task: str | None = None,
        x: list[str] | str | None = None,
        y: list[str] | str | None = None,
        categories: list[str] | str | None = None,
        date_format: str | None = None,
        outputs: str = "joint",
        repeats: bool = False,
        split: str | None = None,
        group: str | None = None,
        split_at: list[int | float | str] | None = None,
        val_fraction: float = 0.15,
        test_fraction: float = 0.15,
        policy: str = "random",
        relative: bool | None = None,
        num_context: Sequence[int] = (1, 64),
        num_target: Sequence[int] = (1, 64),
        max_rows: int = 2_000_000,
        batch_size: int = 16,
        steps_per_epoch: int = 500,
        num_draws: int = 4,
        max_eval_tasks: int = 512,
        seed: int = 0,
        num_workers: int = 0,
        cache_dir: str | None = None,
    ):
        if path is None:
            raise ConfigError(
                "expected a table, got none: give --data.path FILE.csv (or .parquet), --data.x and --data.y"
            )
        self.path = str(path) if isinstance(path, str | Path) else "a DataFrame"
        self.task, self.group, self.date_format = task, group, date_format
        self.x, self.y, self.categories = _listed(x), _listed(y), _listed(categories)
        self.outputs, self.repeats, self.policy = outputs, repeats, policy
        self.split = split or ("group" if group is not None else "task" if task is not None else "time")
        self.split_at = split_at
        self.val_fraction, self.test_fraction = fractions(val_fraction, test_fraction)
        self.relative = self.split == "time" if relative is None else relative
        self.num_context = sizes("num_context", num_context, int(self.relative))
        self.num_target = sizes("num_target", num_target, 1)
        self.max_rows = at_least("max_rows", max_rows, 1)
        self.num_draws = at_least("num_draws", num_draws, 1)
        self.max_eval_tasks = at_least("max_eval_tasks", max_eval_tasks, 1)
        self.seed = at_least("seed", seed, 0)
        self._check_settings()
        self._source = open_table(path if self.path == "a DataFrame" else self.path, task, self._used(), max_rows)
        columns, census = self._read()
        shares, part, tasks = (val_fraction, test_fraction), None, np.arange(len(census.names))
        if self.split != "time":
            owners = census.groups if self.split == "group" else census.names
            part = divide(owners, shares, seed, self.split, self.path)
            tasks = np.flatnonzero(part == 0)
        self._columns, self.scaling = fit_units(columns, census, tasks, self.path)
        self.columns = self._columns.plain()
        super().__init__(self._columns.dx, self._columns.dy, batch_size, steps_per_epoch, seed, num_workers, cache_dir)
        self._store = Store(self._source, self._columns, census, max_rows)
        self._views = {name: self._find_views(census, part, number) for number, name in enumerate(PARTS)}
        if policy != "random":
            most, views = self.num_context[1], self._views.values()
            places = 1 + int(most > 0) + int(policy == "gap" and most > 1)
            check_places(views, self._store, places, census.names, f"policy {policy} in {self.path}")
        pieces = self._store.piece_of(self._views["train"].task)
        self._in_pieces = np.unique(pieces, return_index=True, return_counts=True)
        self._digest: str | None = None
        if self.relative:
            self._measure()

    def num_batches(self, split: str) -> int:
        return -(-len(self._eval_numbers(split)) // self.batch_size)

    def num_tasks(self, split: str) -> int:
        """Tasks of a split, "train", "val" or "test"."""
        return len(self._views[split].task)

    def make_batch(self, split: str, index: int) -> TaskBatch:
        self.check_index(split, index)
        rng = generator(self.seed, split, index=index)
        if split == "train":
            return self._batch(rng, split, self._train_numbers(rng, index))
        return self._batch(rng, split, self._eval_numbers(split)[index * self.batch_size :][: self.batch_size])

    def plot_tasks(self, num: int) -> list[PlotTask]:
        """Validation tasks, spread over all of them.

        Curves where the input is a single number: the targets are the context and the targets of a draw, the truth is
        what was observed.
        """
        if self.dx > 1:
            return super().plot_tasks(num)
        tasks = []
        for i, number in enumerate(np.linspace(0, self.num_tasks("val") - 1, num).round().astype(int)):
            drawn = self._batch(generator(self.seed, "plot", index=i), "val", number[None])
            x, y = torch.cat([drawn.xc, drawn.xt], 1), torch.cat([drawn.yc, drawn.yt], 1)
            tasks.append(PlotTask(drawn._replace(xt=x, yt=y, mask_t=None), "curve", truth=y))
        return tasks

    def _train_numbers(self, rng: np.random.Generator, index: int) -> np.ndarray:
        """Views for a training batch, from the few pieces of its stretch: each is drawn equally often."""
        pieces, first, count = self._in_pieces
        few = max(1, min(8, self.max_rows // (2 * max(self._source.sizes))))  # with those that tasks reach into
        stretch = generator(self.seed, "stretch", index=index // STRETCH)
        drawn = stretch.choice(len(pieces), few, p=count / count.sum()) if len(pieces) > 1 else np.zeros(1, dtype=int)
        piece = drawn[rng.integers(len(drawn), size=self.batch_size)]
        return first[piece] + (rng.random(self.batch_size) * count[piece]).astype(int)

    def _eval_numbers(self, split: str) -> np.ndarray:
        """Views of all tasks in an evaluation set."""
        num = self.num_tasks(split)
        return np.repeat(np.linspace(0, num - 1, min(num, self.max_eval_tasks)).round().astype(int), self.num_draws)

    def _batch(self, rng: np.random.Generator, split: str, numbers: np.ndarray) -> TaskBatch:
        nc, nt = (int(rng.integers(*ends, endpoint=True)) for ends in (self.num_context, self.num_target))
        drawn = [self._draw(rng, split, number, nc, nt) for number in numbers.tolist()]
        c, t = max(len(context) for *_, context, _ in drawn), max(len(targets) for *_, targets in drawn)
        x, y = np.zeros((len(drawn), c + t, self.dx)), np.zeros((len(drawn), c + t, self.dy))
        real = np.zeros(x.shape[:2], dtype=bool)
        for row, (px, py, context, targets) in enumerate(drawn):
            for slots, chosen in ((slice(len(context)), context), (slice(c, c + len(targets)), targets)):
                x[row, slots], y[row, slots], real[row, slots] = px[chosen], py[chosen], True
            if self.relative:
                x[row, :, 0] -= px[context, 0].max()
        s = self.scaling
        x, y = (x - s["x_shift"]) / s["x_scale"], (y - s["y_shift"]) / s["y_scale"]
        x, y = (torch.from_numpy(values.astype(np.float32)) for values in (x, y))
        return assemble(x, y, c, None if real.all() else torch.from_numpy(real))

    def _draw(
        self, rng: np.random.Generator, split: str, number: int, nc: int, nt: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Points of a view, and the numbers of its context points and targets."""
        task, begin, first, end = (int(values[number]) for values in self._views[split])
        x, y = (points[begin:end] for points in self._store.task(task))
        if len(x) < nc + nt:
            low, high = self.num_context
            nc = int(rng.integers(low, min(high, len(x) - self.num_target[0]), endpoint=True))
            nt = min(nt, len(x) - nc)
        return x, y, *choose(self.policy, rng, x[:, 0], nc, nt, first - begin)

    def _check_settings(self) -> None:
        """Raises `ConfigError` for settings that no table could satisfy."""
        if not self.x or not self.y:
            raise ConfigError(
                f"expected input and output columns, got x {self.x} and y {self.y}: give data.x and data.y"
            )
        named = [*self.x, *self.y]
        if twice := [name for name in named if named.count(name) > 1]:
            raise ConfigError(f"expected each column once among x and y, got '{twice[0]}' twice: leave one out")
        if odd := [name for name in self.categories if name not in self.x]:
            raise UnknownNameError("input column in categories", odd[0], self.x)
        if self.policy not in POLICIES:
            raise UnknownNameError("policy", self.policy, POLICIES)
        if self.split not in ("task", "group", "time"):
            raise UnknownNameError("split", self.split, ("task", "group", "time"))
        if self.split != "time" and getattr(self, self.split) is None:
            raise ConfigError(f"a split by {self.split} needs {self.split}: name the column, or set split to time")
        if self.split != "group" and self.group is not None:
            raise ConfigError(f"expected group with a split by group alone, got a split by {self.split}: leave one out")
        if self.outputs not in ("joint", "separate"):
            raise UnknownNameError("setting of outputs", self.outputs, ("joint", "separate"))
        if self.split_at is not None and (self.split != "time" or len(self.split_at) != 2):
            raise ConfigError(
                f"expected split_at to be the two times at which validation and test begin, for a split by time, got "
                f"{self.split_at} for a split by {self.split}"
            )

    def _used(self) -> list[str]:
        """The columns in use, the task's first."""
        extra = [name for name in (self.task, self.group) if name is not None]
        return list(dict.fromkeys([*extra, *self.x, *self.y]))

    def _read(self) -> tuple[Columns, Census]:
        """What the columns mean, and what the table holds."""
        table = self._source.piece(0).table
        kinds = {
            name: "category" if name in self.categories else kind_of(table[name], self.date_format) for name in self.x
        }
        if self.date_format is not None and "date" not in kinds.values():
            raise ConfigError(f"date_format is for dates, and there are none among {', '.join(kinds)}: leave it out")
        ordered = self.policy != "random" or self.relative or self.split == "time"
        if ordered and kinds[self.x[0]] == "category":
            raise ConfigError(
                f"expected the first of x to be a number or a date, got the category '{self.x[0]}': policy "
                f"{self.policy}, relative and a split by time go by it, name another column first"
            )
        k = len(self.y)
        columns = Columns(
            task=self.task,
            x=tuple(Column(name, kind) for name, kind in kinds.items()),
            y=tuple(self.y),
            date_format=self.date_format,
            relative=self.relative,
            separate=(k * (0.0,), k * (1.0,)) if self.outputs == "separate" else None,
        )
        ends = None
        if self.split == "time":
            ends = time_ends(self._source, columns, self.split_at, (self.val_fraction, self.test_fraction))
        return columns, take_census(self._source, columns, self.group, ends, self.repeats)

    def _find_views(self, census: Census, part: np.ndarray | None, number: int) -> Views:
        """What a part may use of each of its tasks."""
        context, targets = self.num_context[0], self.num_target[0]
        if part is not None:
            return task_views(census, np.flatnonzero(part == number), context + targets, self.path)
        return time_views(census, number, context, targets, self.policy == "forecast", self.path)

    def _measure(self) -> None:
        """Takes the scale of the first input, measured from the context, from training batches."""
        inputs = []
        for index in range(MEASURED):
            batch = self.make_batch("train", index)
            for x, mask in ((batch.xc, batch.mask_c), (batch.xt, batch.mask_t)):
                inputs.append((x if mask is None else x[mask]).reshape(-1, self.dx)[:, 0])
        scale = float(torch.cat(inputs).double().std())
        if not scale > 0:
            raise DataError(f"column '{self.x[0]}' of {self.path} has one value only in each task: leave it out")
        self.scaling["x_scale"][0] = scale

    def _settings(self, split: str) -> str:
        """Evaluation sets depend on what the table holds, not only on its name."""
        if self._digest is None:
            self._digest = self._hash()
        return super()._settings(split) + self._digest

    def _hash(self) -> str:
        if self.path != "a DataFrame":
            with open(self.path, "rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        import pandas as pd

        table = self._source.piece(0).table
        return hashlib.sha256(pd.util.hash_pandas_object(table, index=False).to_numpy().tobytes()).hexdigest()


def _listed(names: Sequence[str] | str | None) -> list[str]:
    return [names] if isinstance(names, str) else list(names or [])
