"""A predator and its prey: stochastic simulations of the equations of Lotka and Volterra."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch

from datamodules.base import PlotTask
from datamodules.loader import generator
from datamodules.sampled import SampledTasks, assemble, column, distinct
from datamodules.settings import interval
from npexp.batch import TaskBatch
from npexp.errors import ConfigError, at_least, positive

YEARS = 20.0  # length of a window
SCALING = {  # fixed, so that simulations and records share it: 20 years become [-2, 2], counts about [-1, 2]
    "x_shift": [YEARS / 2],
    "x_scale": [YEARS / 4],
    "y_shift": [30.0, 30.0],
    "y_scale": [25.0, 25.0],
}
TOGETHER = 512  # trajectories simulated at once: a step costs hardly more than for the few of one batch
ROUNDS = 20  # attempts to find that many in which both species live


class LotkaVolterra(SampledTasks):
    """Numbers of prey and predators over 20 years, simulated with chance, as tasks for sparse records of both.

    Use it as the simulator of `SimToReal` for counts of two species, `HareLynx` for one. Four events change the
    numbers X of prey and Y of predators: a prey is born at the rate a X, eaten at b X Y, a predator is born at d X Y
    and dies at c Y (Wilkinson 2011, Stochastic modelling for systems biology; as in the predator-prey experiment of
    ConvCNP, Gordon et al. 2020, arXiv 1910.13556, with other laws of the rates). Tau-leaping draws how often each
    happens in a step from a Poisson law, at rates expected for the middle of the step (Gillespie 2001).

    Each task draws its rates, given by the levels about which the numbers swing, c / d and a / b, so that the defaults
    cover the fit to the hares and lynxes of 1900 to 1920 in Carpenter's case study for Stan (a = 0.55, c = 0.80 a
    year, levels of 33,000 and 20,000). Simulations in which a species dies out, or exceeds `ceiling`, are drawn anew:
    no record looks like that, and the laws of the rates are meant given that. Both species are seen at the same times,
    any multiples of `step`, with log-normal errors.

    Inputs are years since the beginning, 0 to 20, mapped to [-2, 2], and outputs thousands less 30, over 25.
    Trajectories are made for several batches at once, by each worker for itself: workers do not make this source
    faster. Nobody knows the best score here.

    Args:
        growth: range of a, births per prey and year, uniform.
        death: range of c, deaths per predator and year, uniform.
        prey_level: range of c / d, thousands, uniform.
        predator_level: range of a / b, thousands, uniform.
        start: range of both numbers at the beginning, as multiples of their levels, uniform in the logarithm.
        animals: simulated animals per thousand; fewer make chance larger.
        noise: range of the standard deviation of the logarithm of what is seen, uniform.
        ceiling: largest number of either species, thousands.
        step: years per step of tau-leaping, which divides 20; smaller is slower and more exact.
        num_context: smallest and largest context, drawn once per batch.
        num_target: smallest and largest number of targets, drawn once per batch.
        max_points: cap on context and targets together: the largest number of targets becomes this less the context.
        ragged: draw both numbers for each task alone; the batch is padded with zeros and has masks.
        batch_size: tasks per batch.
        steps_per_epoch: training steps per epoch.
        num_val_batches: validation batches.
        num_test_batches: test batches.
        seed: names the stream of tasks.
        num_workers: processes that prepare training batches.
        cache_dir: where evaluation sets are kept; None for `$XDG_CACHE_HOME/npexp` or `~/.cache/npexp`.

    Raises:
        ConfigError: a setting is out of range or contradicts another, or hardly any simulation is kept.
    """

    oracle = False
    scaling: ClassVar = SCALING

    def __init__(
        self,
        growth: Sequence[float] = (0.3, 1.0),
        death: Sequence[float] = (0.4, 1.2),
        prey_level: Sequence[float] = (15.0, 50.0),
        predator_level: Sequence[float] = (10.0, 35.0),
        start: Sequence[float] = (0.2, 2.5),
        animals: float = 10.0,
        noise: Sequence[float] = (0.0, 0.3),
        ceiling: float = 150.0,
        step: float = 0.1,
        num_context: Sequence[int] = (3, 15),
        num_target: Sequence[int] = (6, 18),
        max_points: int | None = 21,
        ragged: bool = False,
        batch_size: int = 16,
        steps_per_epoch: int = 500,
        num_val_batches: int = 64,
        num_test_batches: int = 64,
        seed: int = 0,
        num_workers: int = 0,
        cache_dir: str | None = None,
    ):
        super().__init__(
            dx=1,
            dy=2,
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
        self.growth = interval("growth", growth, positive=True)
        self.death = interval("death", death, positive=True)
        self.prey_level = interval("prey_level", prey_level, positive=True)
        self.predator_level = interval("predator_level", predator_level, positive=True)
        self.start = interval("start", start, positive=True)
        self.animals, self.ceiling = positive("animals", animals), positive("ceiling", ceiling)
        self.noise = interval("noise", noise, low=0.0)
        self.step = positive("step", step)
        if abs(YEARS / step - round(YEARS / step)) > 1e-6:
            raise ConfigError(f"expected a step that divides {YEARS:g} years, got {step}: such as 0.1 or 0.25")
        self._times = np.linspace(0, YEARS, round(YEARS / step) + 1)
        at_least("number of steps + 1 (20 years over step)", len(self._times), self.most_points)
        self._recent: tuple[tuple[str, int], np.ndarray] | None = None  # trajectories of the last block that was used

    def make_batch(self, split: str, index: int) -> TaskBatch:
        self.check_index(split, index)
        rng, b = generator(self.seed, split, index=index), self.batch_size
        nc, nt, mask = self.draw_sizes(rng)
        numbers = distinct(rng, np.full(b, len(self._times)), nc + nt, mask)
        together = max(1, TOGETHER // b)  # batches of one block
        block, place = divmod(index, together)
        if self._recent is None or self._recent[0] != (split, block):
            trajectories = self.trajectories(generator(self.seed, split, "simulate", index=block), together * b)
            self._recent = (split, block), trajectories
        truth = np.take_along_axis(self._recent[1][place * b : (place + 1) * b], numbers[..., None], 1)
        return self._observe(rng, numbers, truth, nc, mask)[0]

    def plot_tasks(self, num: int) -> list[PlotTask]:
        """`num` simulations at every step, with context sizes spread over their range."""
        rng, every = generator(self.seed, "plot", index=0), np.arange(len(self._times))
        tasks = []
        for nc, trajectory in zip(self.plot_contexts(num), self.trajectories(rng, num), strict=True):
            numbers = np.concatenate([rng.permutation(every)[:nc], every])[None]
            batch, truth = self._observe(rng, numbers, trajectory[numbers], nc, None)
            tasks.append(PlotTask(batch, "curve", truth=truth[:, nc:]))
        return tasks

    def trajectories(self, rng: np.random.Generator, num: int) -> np.ndarray:
        """Simulated thousands of prey and predators at every step, `[num, steps + 1, 2]`, float32."""
        kept, count, tried = [], 0, num + num // 6  # with the default laws one in ten is not kept
        for _ in range(ROUNDS):
            counts = self._simulate(rng, tried)
            thousands = (counts / self.animals).astype(np.float32)
            good = thousands[(counts > 0).all((1, 2)) & (thousands <= self.ceiling).all((1, 2))]
            kept.append(good)
            count += len(good)
            if count >= num:
                return np.concatenate(kept)[:num]
        raise ConfigError(
            f"expected simulations in which both species live and stay below {self.ceiling} thousand, got {count} "
            f"among {ROUNDS * tried}: raise animals or ceiling, or narrow the ranges of start and of the rates"
        )

    def _simulate(self, rng: np.random.Generator, num: int) -> np.ndarray:
        ranges = (self.growth, self.death, self.prey_level, self.predator_level)
        growth, death, *level = (rng.uniform(*ends, num) for ends in ranges)
        level = np.stack(level) * self.animals
        begin = np.rint(level * np.exp(rng.uniform(*np.log(self.start), (2, num)))).astype(np.int64)
        rates = np.stack([growth, growth / level[1], death / level[0], death])
        return tau_leap(rng, begin, rates, len(self._times) - 1, YEARS / (len(self._times) - 1)).transpose(2, 0, 1)

    def _observe(
        self, rng: np.random.Generator, numbers: np.ndarray, truth: np.ndarray, nc: int, mask: torch.Tensor | None
    ) -> tuple[TaskBatch, torch.Tensor]:
        """Tasks from numbers of steps `[b, n]` and the thousands there `[b, n, 2]`; also the scaled truth."""
        error = rng.uniform(*self.noise, (len(truth), 1, 1)) * rng.standard_normal(truth.shape)
        x, y, function = scaled(self._times[numbers], truth * np.exp(error), truth)
        return assemble(x, y, nc, mask), function


def scaled(years: np.ndarray, *thousands: np.ndarray) -> list[torch.Tensor]:
    """Inputs `[b, n, 1]` and outputs `[b, n, 2]`, from years since the beginning and thousands, by `SCALING`."""
    x = (years - SCALING["x_shift"]) / SCALING["x_scale"]
    ys = [(values - SCALING["y_shift"]) / SCALING["y_scale"] for values in thousands]
    return [column(x), *(torch.from_numpy(y.astype(np.float32)) for y in ys)]


def tau_leap(rng: np.random.Generator, begin: np.ndarray, rates: np.ndarray, steps: int, step: float) -> np.ndarray:
    """Numbers of prey and predators at the beginning and after each step, `[steps + 1, 2, num]`; 0 is kept for ever.

    Rates are taken where the numbers are expected to be half a step later, which removes the error of first order of
    the mean: at rates of the beginning the cycles would widen. Those born in a step have no young in it by chance, so
    the variance stays a little too low where there is growth: by 5 % for births at 0.6 a year and steps of 0.1 years.

    Args:
        rng: the stream.
        begin: numbers at the beginning, `[2, num]`, integers.
        rates: a, b, d and c: births and deaths of prey, births and deaths of predators, `[4, num]`.
        steps: how many.
        step: length of each.
    """
    path = np.empty((steps + 1, *begin.shape), dtype=np.int64)
    path[0] = begin
    means = np.empty_like(rates)
    for number in range(steps):
        now = path[number]
        drift = _events(now, rates, means)
        middle = np.maximum(now + step / 2 * (drift[::2] - drift[1::2]), 0)
        middle *= now > 0
        events = rng.poisson(_events(middle, rates, means) * step)
        np.maximum(now + events[::2] - events[1::2], 0, out=path[number + 1])
    return path


def _events(state: np.ndarray, rates: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Events per unit of time of each kind, `[4, num]`, written to `out`."""
    meetings = state[0] * state[1]
    out[0], out[1], out[2], out[3] = state[0], meetings, meetings, state[1]
    out *= rates
    return out
