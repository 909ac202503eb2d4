"""What every source of tasks shares: pure batches, resumable loaders, cached evaluation sets, tasks for figures."""

import hashlib
import inspect
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple
from uuid import uuid4

import numpy as np
import torch
from jaxtyping import Float
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.loader import CounterLoader, CounterSampler, Tasks, eval_loader, train_loader
from datamodules.settings import describe
from npexp.batch import TaskBatch
from npexp.errors import ConfigError, UnknownNameError, at_least

FORMAT = 1  # raise it whenever the same settings give other tasks: old cache files are then left alone
# Settings that no evaluation task depends on.
IRRELEVANT = frozenset({"cache_dir", "num_workers", "steps_per_epoch", "mirrored", "gain"})


class PlotTask(NamedTuple):
    """One fixed task for a figure: condition on its context, predict its targets, a dense grid for curves and images.

    Args:
        batch: a single task, `b` = 1.
        kind: what to draw: a curve over one input, pixels, or observed against predicted values ("parity").
        image_shape: rows and columns of the grid, row-major, for an image.
        truth: the noise-free function on the grid, `[1, nt, dy]`, or None where nobody knows it.
        mean: mean of the exact predictive distribution of the targets, `[1, nt, dy]`, or None.
        stddev: its standard deviation, observation noise included, `[1, nt, dy]`, or None.
    """

    batch: TaskBatch
    kind: Literal["curve", "image", "parity"]
    image_shape: tuple[int, int] | None = None
    truth: Float[Tensor, "1 nt dy"] | None = None
    mean: Float[Tensor, "1 nt dy"] | None = None
    stddev: Float[Tensor, "1 nt dy"] | None = None


class NPDataModule(LightningDataModule, ABC):
    """A source of tasks: training batches without end, and fixed validation and test sets.

    A subclass gives `make_batch` and `num_batches`, and `plot_tasks` where its tasks are lines or pictures, stores each
    constructor argument under its own name, and inherits the rest. It works without a trainer (as process 0 of 1), so a
    notebook can call `make_batch("train", 0)` or iterate over the loaders.

    Args:
        dx: input size.
        dy: output size.
        batch_size: tasks per batch.
        steps_per_epoch: training steps per epoch.
        seed: names the stream of tasks; another seed gives other training, validation and test tasks.
        num_workers: processes that prepare training batches; 0 prepares them in the main process. The tasks are
            the same for any number.
        cache_dir: where the evaluation sets are kept; None for `$XDG_CACHE_HOME/npexp` or `~/.cache/npexp`.
        test_names: the test sets, the in-distribution one first and called "test".

    Attributes:
        scaling: how batches come from raw values, for predictions in raw units: None where batches are raw, else
            x_shift, x_scale, y_shift and y_scale, lists with a number per column, for x = (raw - x_shift) / x_scale and
            y alike. It travels in checkpoints.

    Raises:
        ConfigError: a setting is out of range.
    """

    oracle: bool  # whether batches carry exact log-likelihoods
    scaling: dict[str, list[float]] | None = None

    def __init__(
        self,
        dx: int,
        dy: int,
        batch_size: int,
        steps_per_epoch: int,
        seed: int,
        num_workers: int,
        cache_dir: str | None,
        test_names: tuple[str, ...] = ("test",),
    ):
        super().__init__()
        self.dx = at_least("dx", dx, 1)
        self.dy = at_least("dy", dy, 1)
        self.batch_size = at_least("batch_size", batch_size, 1)
        self.steps_per_epoch = at_least("steps_per_epoch", steps_per_epoch, 1)
        self.seed = at_least("seed", seed, 0)
        self.num_workers = at_least("num_workers", num_workers, 0)
        self.cache_dir = cache_dir
        self.test_names = test_names
        self._batches: dict[str, list[TaskBatch]] = {}

    @abstractmethod
    def make_batch(self, split: str, index: int) -> TaskBatch:
        """Batch number `index` of a split, a pure function of the settings, `split` and `index`.

        Args:
            split: "train", "val" or one of `test_names`.
            index: any number from 0 for "train", below `num_batches(split)` for the others.

        Raises:
            UnknownNameError: there is no such split.
            ConfigError: there is no such batch.
        """

    @abstractmethod
    def num_batches(self, split: str) -> int:
        """Batches in an evaluation split."""

    def plot_tasks(self, num: int) -> list[PlotTask]:
        """`num` fixed tasks for figures; fewer where there are no more.

        Here those of observed against predicted values, which suit any inputs: validation tasks, spread over all.
        """
        tasks = {}
        for place in np.linspace(0, self.num_batches("val"), num, endpoint=False):
            batch = self.make_batch("val", int(place))
            row = int(place % 1 * batch.num_tasks)
            single = TaskBatch(*(v if v is None else v[row : row + 1] for v in batch))
            tasks[int(place), row] = PlotTask(single, "parity")
        return list(tasks.values())

    @property
    def eval_names(self) -> tuple[str, ...]:
        """The fixed splits: "val", then `test_names`."""
        return ("val", *self.test_names)

    @property
    def traits(self) -> dict[str, Any]:
        """What this source is, as plain data."""
        description = inspect.getdoc(type(self)).splitlines()[0]
        return {
            "dx": self.dx,
            "dy": self.dy,
            "oracle": self.oracle,
            "test_sets": list(self.test_names),
            "description": description,
        }

    def check_index(self, split: str, index: int) -> None:
        """Raises unless `make_batch(split, index)` exists."""
        if split != "train" and split not in self.eval_names:
            raise UnknownNameError("split", split, ("train", *self.eval_names))
        limit = float("inf") if split == "train" else self.num_batches(split)
        if not 0 <= index < limit:
            raise ConfigError(
                f"expected 0 <= index < {limit} for split '{split}', got {index}: ask for a batch in range"
            )

    def prepare_data(self) -> None:
        """Writes the evaluation sets that are not cached yet; Lightning calls it on one process per machine."""
        for split in self.eval_names:
            self.eval_batches(split)

    def train_dataloader(self) -> CounterLoader:
        """Fresh batches for `steps_per_epoch` training steps; resumes exactly in the middle of an epoch."""
        per_step = 1 if self.trainer is None else self.trainer.accumulate_grad_batches
        sampler = CounterSampler(self.steps_per_epoch, per_step, *self._place())
        return train_loader(Tasks(partial(self.make_batch, "train")), sampler, self.num_workers)

    def val_dataloader(self) -> DataLoader:
        """The fixed validation batches."""
        return self._eval_loader("val")

    def test_dataloader(self) -> DataLoader | list[DataLoader]:
        """The fixed test batches: one loader, or a list in the order of `test_names` when there are several."""
        loaders = [self._eval_loader(split) for split in self.test_names]
        return loaders[0] if len(loaders) == 1 else loaders

    def predict_dataloader(self) -> DataLoader | list[DataLoader]:
        """The test batches."""
        return self.test_dataloader()

    def eval_batches(self, split: str) -> list[TaskBatch]:
        """All batches of an evaluation split: from memory, else from the cache file, else made and cached."""
        if split not in self._batches:
            path, settings = self.cache_file(split), self._settings(split)
            batches = read(path, settings)
            if batches is None:
                numbers = progress(self.num_batches(split), f"making {split} tasks")
                batches = [self.make_batch(split, i) for i in numbers]
                write(path, settings, batches)
            self._batches[split] = batches
        return self._batches[split]

    def cache_file(self, split: str) -> Path:
        """Where a split is kept; the name carries a hash of every setting that the tasks depend on."""
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = Path(home) / "npexp" if self.cache_dir is None else Path(self.cache_dir)
        return folder / f"{split}-{hashlib.sha256(self._settings(split).encode()).hexdigest()[:20]}.pt"

    def _settings(self, split: str) -> str:
        described = {"format": FORMAT, "split": split, "data": describe(self, IRRELEVANT)}
        return json.dumps(described, sort_keys=True)

    def _eval_loader(self, split: str) -> DataLoader:
        batches = self.eval_batches(split)
        rank, world = self._place()
        if world > len(batches):  # a process without batches would skip the loop and leave the others waiting
            raise ConfigError(
                f"split '{split}' has {len(batches)} batches for {world} processes, expected at least one each: "
                "use fewer devices or more batches"
            )
        return eval_loader(batches, rank, world)

    def _place(self) -> tuple[int, int]:
        """This process and the number of processes."""
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)


def progress(num: int, description: str) -> Iterable[int]:
    """The numbers below `num`, with a bar on the terminal that is gone when they are."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(range(num), description, console=console, transient=True, disable=not console.is_terminal)


def read(path: Path, settings: str) -> list[TaskBatch] | None:
    """The batches in a cache file, or None when it is missing, damaged, or was made by other settings."""
    try:
        content = torch.load(path, weights_only=True)
        if content["settings"] != settings:
            return None
        return [TaskBatch(**batch).check() for batch in content["batches"]]
    except Exception:  # whatever goes wrong, the file is not one of ours any more, and making it again is cheap
        return None


def write(path: Path, settings: str, batches: list[TaskBatch]) -> None:
    """Writes batches as plain tensors, whole or not at all: several processes may do so at once."""
    plain = [{k: v for k, v in batch._asdict().items() if v is not None} for batch in batches]
    part = path.with_name(f"{path.name}.{uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"settings": settings, "batches": plain}, part)
        part.replace(path)
    except (OSError, RuntimeError) as error:  # torch reports a folder that does not exist as a RuntimeError
        if part.exists():
            part.unlink()
        raise ConfigError(
            f"expected a writable folder for evaluation tasks, got {path.parent} ({error}): set cache_dir"
        ) from error
