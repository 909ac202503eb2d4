"""Loaders whose stream is a counter: workers, processes and restarts cannot change what is seen.

A training batch is a pure function of its number, so the only state of a loader is how far it has counted. Three
integers in a checkpoint resume it exactly, in mid-epoch, with any number of workers and of processes.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from npexp.batch import TaskBatch


@lru_cache  # a stream asks for the same one again and again
def mix(*words: int | str) -> int:
    """Hashes integers and strings to a 32-bit seed.

    Torch's CPU generators read only the low 32 bits of a seed, and sums of shifted seeds collide; a hash does neither.
    """
    # `npexp.callbacks.seeding` has its own `mix`: neither package may import the other.
    numbers = [int.from_bytes(w.encode(), "little") if isinstance(w, str) else w for w in words]
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


class Key(np.random.bit_generator.ISeedSequence):
    """The key of a counter-based generator; `Philox(key=...)` takes longer, as it asks the system for entropy first."""

    def __init__(self, *words: int):
        self.words = words

    def generate_state(self, n_words: int, dtype: type = np.uint32) -> np.ndarray:
        return np.array(self.words, dtype)


def generator(*words: int | str, index: int) -> np.random.Generator:
    """The random stream number `index` of the family named by `words`; a counter-based generator, so no two overlap."""
    return np.random.Generator(np.random.Philox(Key(mix(*words), index)))


@contextmanager
def one_thread() -> Iterator[None]:
    """Keeps torch on one thread; also a decorator.

    Linear algebra rounds differently with another number of threads. Workers have one, so the main process must make
    its batches with one as well for both to agree to the last bit. Large batches gain speed from workers instead.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Tasks(Dataset):
    """The batches of one split as a map-style data set: number to ready `TaskBatch`."""

    def __init__(self, make: Callable[[int], TaskBatch]):
        self.make = make

    def __getitem__(self, index: int) -> TaskBatch:
        return self.make(index)


class CounterSampler(Sampler[int]):
    """Yields the global numbers of the micro-batches that one process sees in one epoch.

    A training step takes the next `per_step * world` numbers, whichever process has which of them: the stream of the
    steps does not depend on how many processes share their work.

    Args:
        steps: training steps per epoch.
        per_step: micro-batches of this process whose gradients are accumulated into one step.
        rank: this process.
        world: number of processes; each takes every `world`-th number, so no task is seen twice.
    """

    def __init__(self, steps: int, per_step: int = 1, rank: int = 0, world: int = 1):
        self.steps, self.per_step, self.rank, self.world = steps, per_step, rank, world
        self.epoch = 0
        self.resume = (0, 0)  # (epoch, steps of it that were taken before a restart)
        self.shift = 0  # of all numbers, where steps had another number of micro-batches before a restart

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before every epoch; without a trainer call it yourself."""
        self.epoch = epoch

    def first(self) -> int:
        """Micro-batches of this process in the current epoch that were seen before a restart."""
        epoch, steps = self.resume
        return steps * self.per_step if epoch == self.epoch else 0

    def number(self, index: int, rank: int) -> int:
        """The global number of micro-batch `index` of the current epoch of a process."""
        return self.shift + (self.epoch * len(self) + index) * self.world + rank

    def __len__(self) -> int:
        return self.steps * self.per_step

    def __iter__(self) -> Iterator[int]:
        for index in range(self.first(), len(self)):
            yield self.number(index, self.rank)


class CounterLoader(DataLoader):
    """A `DataLoader` over a `CounterSampler` that resumes where it stopped; Lightning saves and loads its state.

    The state is the same on every process, so the copy that rank 0 writes serves all of them, and any number of them.

    Attributes:
        number: the global number of the micro-batch handed out last.
    """

    seen = 0
    number: int | None = None

    def __iter__(self) -> Iterator[TaskBatch]:
        self.seen = self.sampler.first()
        for batch in super().__iter__():
            # Of what was handed out, not of what the workers prefetched.
            self.number = self.sampler.number(self.seen, self.sampler.rank)
            self.seen += 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """`epoch`, how many of its steps are complete, `step`, and the `number` of the first micro-batch after them."""
        sampler = self.sampler
        step = self.seen // sampler.per_step  # the gradients of an unfinished step are in no checkpoint
        return {"epoch": sampler.epoch, "step": step, "number": sampler.number(step * sampler.per_step, rank=0)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Makes the next pass over `state["epoch"]` start after `state["step"]` steps, with `state["number"]`."""
        sampler = self.sampler
        sampler.resume = (state["epoch"], state["step"])
        steps = state["epoch"] * sampler.steps + state["step"]
        sampler.shift = state["number"] - steps * sampler.per_step * sampler.world


def as_is(batch: TaskBatch) -> TaskBatch:
    """Collation for batches that come ready made; a named function because workers must be able to pickle it."""
    return batch


def train_loader(tasks: Tasks, sampler: CounterSampler, num_workers: int) -> CounterLoader:
    """An endless, resumable stream of fresh batches."""
    return CounterLoader(
        tasks,
        batch_size=None,
        sampler=sampler,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        collate_fn=as_is,
    )


def eval_loader(batches: list[TaskBatch], rank: int, world: int) -> DataLoader:
    """The fixed batches `rank, rank + world, ...`: together the processes see each batch exactly once."""
    return DataLoader(
        Tasks(batches.__getitem__), batch_size=None, sampler=range(rank, len(batches), world), collate_fn=as_is
    )
