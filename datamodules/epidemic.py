"""Epidemics on a lattice: who is still susceptible, infected or recovered, told from a few cells."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from datamodules.base import PlotTask
from datamodules.loader import generator
from datamodules.sampled import SampledTasks, assemble, column
from datamodules.settings import interval, sizes
from npexp.batch import TaskBatch
from npexp.errors import ConfigError, at_least

SUSCEPTIBLE, INFECTED, RECOVERED = 0, 1, 2  # the order in which a cell passes them
CELLS_PER_UNIT = 16.0  # of x, whatever the lattice: 64 cells span about [-2, 2]
SPARK_AREA = 64 * 64  # cells in which an epidemic starts at `num_seeds` places
LARGE_SHARE = 100_000 / 1024**2  # of the cells of a large lattice that are context
CERTAIN = 2**12  # probabilities are compared with numbers of 12 bits: 8 neighbours times one still fit into 16 bits


class SIR(SampledTasks):
    """Epidemics on a lattice seen at a few cells: each is susceptible (0), infected (1) or recovered (2).

    Use it for classes in space, with fronts that are sharp and random, and for the scale-up test: train on 64 x 64
    cells and predict 1024 x 1024. After Jenson et al. (arXiv 2411.12502, 2506.09163): the sizes, and 16 cells per unit
    of x. The rates here are our own, infection comes from the 8 neighbours, targets are never context cells (published
    scores include those), and large lattices have as many first cases per area as small ones. So compare with the
    baselines in results/sir, not with published scores.

    In every step an infected cell recovers with probability gamma, and a susceptible one with k infected neighbours is
    infected with probability min(1, beta k). Nothing enters from outside the lattice. A batch has few epidemics and
    shows each at several times. Inputs are (row, column) in units of 16 cells from the lattice's centre.
    Outputs are class indices as numbers: give models `npexp.likelihoods.Categorical(3)`. There is no oracle.

    Args:
        side: rows and columns of the lattice.
        beta: range of the infection probability per infected neighbour and step, uniform, rounded to 1/4096.
        gamma: range of the recovery probability per step, uniform, rounded to 1/4096.
        num_seeds: smallest and largest number of first cases per 64 x 64 cells; smaller lattices have as many.
        num_steps: smallest and largest number of steps after which a lattice is shown.
        num_epidemics: epidemics per batch, which share its tasks.
        num_context: smallest and largest number of context cells, drawn once per batch.
        num_target: smallest and largest number of target cells, drawn once per batch.
        test_sides: rows and columns of further lattices to test on, each as the test set "test_SIDE": one
            lattice per batch, with 100,000 in 1024 x 1024 cells as context and all others as targets.
        num_large: lattices in each of these sets.
        batch_size: tasks per batch.
        steps_per_epoch: training steps per epoch.
        num_val_batches: validation batches.
        num_test_batches: test batches.
        seed: names the stream of tasks.
        num_workers: processes that prepare training batches.
        cache_dir: where evaluation sets are kept; None for `$XDG_CACHE_HOME/npexp` or `~/.cache/npexp`.

    Raises:
        ConfigError: a setting is out of range or contradicts another.
    """

    oracle = False

    def __init__(
        self,
        side: int = 64,
        beta: Sequence[float] = (0.1, 0.5),
        gamma: Sequence[float] = (0.1, 0.4),
        num_seeds: Sequence[int] = (1, 5),
        num_steps: Sequence[int] = (4, 32),
        num_epidemics: int = 4,
        num_context: Sequence[int] = (128, 512),
        num_target: Sequence[int] = (256, 256),
        test_sides: Sequence[int] = (),
        num_large: int = 2,
        batch_size: int = 16,
        steps_per_epoch: int = 1000,
        num_val_batches: int = 64,
        num_test_batches: int = 188,
        seed: int = 0,
        num_workers: int = 0,
        cache_dir: str | None = None,
    ):
        for large in test_sides:
            at_least("each of test_sides", large, 4)
        if len(set(test_sides)) < len(test_sides):
            raise ConfigError(f"expected each of test_sides once, got {list(test_sides)}: drop the repetition")
        super().__init__(
            dx=2,
            dy=1,
            num_context=num_context,
            num_target=num_target,
            max_points=None,
            ragged=False,
            batch_size=batch_size,
            steps_per_epoch=steps_per_epoch,
            num_val_batches=num_val_batches,
            num_test_batches=num_test_batches,
            seed=seed,
            num_workers=num_workers,
            cache_dir=cache_dir,
            test_names=("test", *(f"test_{large}" for large in test_sides)),
        )
        self.side = at_least("side", side, 4)
        self.beta, self.gamma = probabilities("beta", beta), probabilities("gamma", gamma)
        self.num_seeds = sizes("num_seeds", num_seeds, 1)
        self.num_steps = sizes("num_steps", num_steps, 0)
        self.num_epidemics = at_least("num_epidemics", num_epidemics, 1)
        self.test_sides = tuple(test_sides)
        self.num_large = at_least("num_large", num_large, 1)
        if self.most_points > side**2:
            raise ConfigError(
                f"expected at most the {side**2} cells of a lattice, got {self.most_points} for context and targets: "
                "lower num_context or num_target, or raise side"
            )
        smallest = min((side, *test_sides)) ** 2
        if num_seeds[1] > smallest:
            raise ConfigError(
                f"expected at most the {smallest} cells of a lattice, got {num_seeds[1]} first cases: lower num_seeds"
            )
        if batch_size % num_epidemics:
            raise ConfigError(
                f"expected num_epidemics to divide batch_size, got {num_epidemics} for {batch_size} tasks: "
                "show every epidemic equally often"
            )

    def num_batches(self, split: str) -> int:
        return self.num_large if split in self.test_names[1:] else super().num_batches(split)

    def make_batch(self, split: str, index: int) -> TaskBatch:
        self.check_index(split, index)
        rng = generator(self.seed, split, index=index)
        if split in self.test_names[1:]:
            return self._large(rng, int(split.removeprefix("test_")))
        nc, nt, _ = self.draw_sizes(rng)
        states = self.states(rng, self.num_epidemics, self.batch_size // self.num_epidemics, self.side)
        chosen = np.stack([rng.choice(self.side**2, nc + nt, replace=False) for _ in states])
        return cells(states, chosen, nc, self.side)

    def plot_tasks(self, num: int) -> list[PlotTask]:
        """`num` lattices, with context sizes spread over their range; the targets are all cells."""
        return [self._plot_task(number, nc) for number, nc in enumerate(self.plot_contexts(num))]

    def states(self, rng: np.random.Generator, epidemics: int, times: int, side: int) -> np.ndarray:
        """Some epidemics, each at some times, rows one after the other, `[epidemics times, side^2]`, uint8.

        Args:
            rng: the stream.
            epidemics: how many.
            times: pictures of each.
            side: rows and columns.
        """
        beta, gamma = (rng.uniform(*ends, epidemics) for ends in (self.beta, self.gamma))
        num_seeds = rng.integers(*self.num_seeds, epidemics, endpoint=True)
        when = rng.integers(*self.num_steps, (epidemics, times), endpoint=True)
        per_lattice = np.maximum(num_seeds, num_seeds * side**2 // SPARK_AREA)
        start = np.zeros((epidemics, side**2), np.uint8)
        for lattice, count in zip(start, per_lattice, strict=True):
            lattice[rng.choice(side**2, count, replace=False)] = INFECTED
        return simulate(rng, start.reshape(epidemics, side, side), beta, gamma, when).reshape(-1, side**2)

    def _large(self, rng: np.random.Generator, side: int) -> TaskBatch:
        order = rng.permutation(side**2)[None]
        return cells(self.states(rng, 1, 1, side), order, round(LARGE_SHARE * side**2), side)

    def _plot_task(self, number: int, nc: int) -> PlotTask:
        rng = generator(self.seed, "plot", index=number)
        states, every = self.states(rng, 1, 1, self.side), np.arange(self.side**2)
        seen = rng.choice(self.side**2, nc, replace=False)
        batch = cells(states, np.concatenate([seen, every])[None], nc, self.side)
        return PlotTask(batch, "image", (self.side, self.side), truth=batch.yt)


def probabilities(name: str, ends: Sequence[float]) -> tuple[float, float]:
    """Returns `(low end, high end)`, or raises `ConfigError` where they are no probabilities."""
    low, high = interval(name, ends, low=0.0)
    if high > 1:
        raise ConfigError(f"expected {name} as probabilities, at most 1, got {ends!r}: correct the ends")
    return low, high


def simulate(
    rng: np.random.Generator, start: np.ndarray, beta: np.ndarray, gamma: np.ndarray, when: np.ndarray
) -> np.ndarray:
    """Epidemics side by side, and what they look like after some numbers of steps, `[b, k, side, side]`, uint8.

    All cells of all lattices lie in one row, with a border of recovered cells around each lattice, so that neighbours
    are a fixed number of cells away and a step is a dozen operations on contiguous memory.

    Args:
        rng: the stream; each step takes 64 bits for every four cells, border included.
        start: states before the first step, `[b, side, side]`.
        beta: probability of infection per infected neighbour, `[b]`.
        gamma: probability of recovery, `[b]`.
        when: numbers of steps, `[b, k]`.
    """
    num, side = len(start), start.shape[1]
    lattices = np.pad(start, ((0, 0), (1, 1), (1, 1)), constant_values=RECOVERED)
    width, size = side + 2, lattices.size
    inner = slice(width + 1, size - width - 1)  # without the first and the last border, whose cells lack neighbours
    state = lattices.reshape(-1)[inner]  # a view
    infect, recover = (
        np.repeat(np.round(p * CERTAIN).astype(np.uint16), width**2)[inner] for p in (np.minimum(beta, 1), gamma)
    )
    shown = np.empty((num, when.shape[1], side, side), np.uint8)
    for step in range(int(when.max()) + 1):
        for lattice, time in np.argwhere(when == step):
            shown[lattice, time] = lattices[lattice, 1:-1, 1:-1]
        draw = rng.integers(0, 2**64, -(-size // 4), np.uint64).view(np.uint16)[:size][inner] >> 4
        infected = (lattices.reshape(-1) == INFECTED).view(np.uint8)
        across = infected[:-2] + infected[1:-1]
        across += infected[2:]
        around = across[: -2 * width] + across[width:-width]
        around += across[2 * width :]
        threshold = around * infect  # at most 2^15; a susceptible cell does not count itself
        np.copyto(threshold, recover, where=infected[inner].view(bool))
        state += ((draw < threshold) & (state < RECOVERED)).view(np.uint8)
    return shown


def cells(states: np.ndarray, chosen: np.ndarray, nc: int, side: int) -> TaskBatch:
    """Lattices `[b, side^2]` as tasks, from the numbers of their cells `[b, n]`, the first `nc` for the context."""
    return assemble(positions(chosen, side), column(np.take_along_axis(states, chosen, 1)), nc)


def positions(numbers: np.ndarray, side: int) -> Float[Tensor, "b n 2"]:
    """(row, column) of cells by their number, from the lattice's centre, in units of 16 cells, float32: exact."""
    offset = np.stack(np.divmod(numbers, side), -1) - (side - 1) / 2
    return torch.from_numpy((offset / CELLS_PER_UNIT).astype(np.float32))
