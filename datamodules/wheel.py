"""The wheel bandit: contexts of which few pay well, as tasks to learn from and as games to play."""

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from datamodules.base import PlotTask
from datamodules.loader import generator
from datamodules.sampled import SampledTasks
from datamodules.settings import interval
from npexp.batch import TaskBatch
from npexp.errors import ConfigError, at_least

MEANS = np.array([1.2, 1.0, 1.0, 1.0, 1.0])  # what arms pay within the radius delta
STDDEV = 0.05
LARGE, LARGE_STDDEV = 50.0, 0.01  # what the arm of the quadrant pays outside
PLOT_PIXELS = 33


class WheelGame(NamedTuple):
    """Games of the wheel, to be played by `npexp.bandits.play`; float64.

    Args:
        contexts: points of the unit disc, `[b, n, 2]`.
        rewards: what each arm would pay there, `[b, n, 5]`.
        optimal: what the arm with the largest mean pays, `[b, n]`; regret is counted from it.
    """

    contexts: Float[Tensor, "b n 2"]
    rewards: Float[Tensor, "b n 5"]
    optimal: Float[Tensor, "b n"]


def wheel_game(
    delta: float = 0.95, num_games: int = 50, num_steps: int = 2000, published: bool = True, seed: int = 0
) -> WheelGame:
    """Games of the wheel (Riquelme et al. 2018, arXiv 1802.09127).

    The published ones (Nguyen & Grover 2022, arXiv 2207.04179) are one draw of contexts and rewards in 50 orders, so
    that a spread over them says nothing about other draws; and the contexts of the published training set are the
    first 562 of it. Games drawn anew have neither fault.

    Args:
        delta: radius within which arm 0 is best, 0 < delta < 1; published are 0.7, 0.9, 0.95, 0.99 and 0.995.
        num_games: games, played side by side.
        num_steps: steps of each.
        published: the released random stream, of which games see one draw in their own orders; else each is a new draw.
        seed: the first order, or the name of the draws.

    Raises:
        ConfigError: a setting is out of range.
    """
    if not (isinstance(delta, int | float) and 0 < delta < 1):
        raise ConfigError(f"expected 0 < delta < 1, got {delta!r}: it is a radius within the unit disc")
    at_least("num_games", num_games, 1)
    at_least("num_steps", num_steps, 3)
    at_least("seed", seed, 0)
    if published:
        x, rewards = _released(num_steps, delta)
        orders = np.stack([_order(num_steps, seed + game) for game in range(num_games)])
        x, rewards = x[orders], rewards[orders]
    else:
        x, rewards = draw(generator(seed, "wheel", index=0), np.full(num_games, delta), num_steps)
    optimal = np.take_along_axis(rewards, best_arm(x, delta)[..., None], -1)[..., 0]
    return WheelGame(*(torch.from_numpy(np.ascontiguousarray(v)) for v in (x, rewards, optimal)))


class Wheel(SampledTasks):
    """Wheels to learn from: what five arms pay at contexts in the unit disc, half of it hidden by noise.

    Use it to train what `npexp.bandits` plays with. Within the radius delta of a wheel arm 0 pays N(1.2, 0.05^2) and
    the others N(1, 0.05^2); outside, one of these, told by the quadrant, pays N(50, 0.01^2) (Riquelme et al. 2018,
    arXiv 1802.09127). In play nobody knows what the arms not chosen would have paid, and noise stands in their place:
    so do N(0, 1) in the context here, for each reward with probability `hidden`.

    Protocol of Nguyen & Grover 2022 (arXiv 2207.04179) as released: the same eight wheels at every step, and a loss
    over all their points. Eight wheels are few: results move by tens of per cent between trainings. Validation and test
    wheels are always new. Rewards are raw.

    Args:
        delta: range of the radius of a wheel, uniform, within 0 and 1.
        hidden: probability that a reward in the context is noise.
        fixed: the published training set, the same `batch_size` wheels at every step with new noise; else new wheels.
        ask_context: training asks for the true rewards at the context points too, as published.
        num_context: smallest and largest context, drawn once per batch.
        num_target: smallest and largest number of targets, drawn once per batch.
        batch_size: wheels per batch.
        steps_per_epoch: training steps per epoch.
        num_val_batches: validation batches.
        num_test_batches: test batches.
        seed: names the stream of tasks; 0 gives the published training set.
        num_workers: processes that prepare training batches.
        cache_dir: where evaluation sets are kept; None for `$XDG_CACHE_HOME/npexp` or `~/.cache/npexp`.

    Raises:
        ConfigError: a setting is out of range.
    """

    oracle = False

    def __init__(
        self,
        delta: Sequence[float] = (0.0, 1.0),
        hidden: float = 0.5,
        fixed: bool = True,
        ask_context: bool = True,
        num_context: Sequence[int] = (512, 512),
        num_target: Sequence[int] = (50, 50),
        batch_size: int = 8,
        steps_per_epoch: int = 1000,
        num_val_batches: int = 16,
        num_test_batches: int = 64,
        seed: int = 0,
        num_workers: int = 0,
        cache_dir: str | None = None,
    ):
        super().__init__(
            dx=2,
            dy=len(MEANS),
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
        )
        self.delta = interval("delta", delta, 0.0)
        if self.delta[1] > 1:
            raise ConfigError(
                f"expected delta as [low, high] with high <= 1, got {delta!r}: contexts fill the unit disc"
            )
        self.hidden = at_least("hidden", hidden, 0.0)
        if hidden > 1:
            raise ConfigError(f"expected hidden <= 1, got {hidden!r}: it is a probability")
        if fixed:
            at_least("the largest num_context and num_target together", self.most_points, 3)
        self.fixed, self.ask_context = fixed, ask_context

    def make_batch(self, split: str, index: int) -> TaskBatch:
        self.check_index(split, index)
        rng, train = generator(self.seed, split, index=index), split == "train"
        nc, nt, _ = self.draw_sizes(rng)
        if train and self.fixed:
            x, rewards = (v[:, : nc + nt] for v in self._wheels)
        else:
            x, rewards = draw(rng, rng.uniform(*self.delta, self.batch_size), nc + nt)
        return self._task(rng, x, rewards, nc, 0 if train and self.ask_context else nc)

    def plot_tasks(self, num: int) -> list[PlotTask]:
        """`num` wheels with radii spread over their range; the targets are a grid over the square around the disc."""
        radii = np.linspace(*self.delta, num + 2)[1:-1]
        contexts = zip(radii, self.plot_contexts(num), strict=True)
        return [self._plot_task(number, delta, nc) for number, (delta, nc) in enumerate(contexts)]

    def _plot_task(self, number: int, delta: float, nc: int) -> PlotTask:
        rng = generator(self.seed, "plot", index=number)
        x, rewards = draw(rng, np.array([delta]), nc)
        side = np.linspace(-1.0, 1.0, PLOT_PIXELS)
        grid = np.stack(np.meshgrid(side, -side), -1).reshape(1, -1, 2)
        means = pays(grid, delta)[0]
        batch = self._task(rng, np.concatenate([x, grid], 1), np.concatenate([rewards, means], 1), nc, nc)
        return PlotTask(batch, "image", (PLOT_PIXELS, PLOT_PIXELS), truth=batch.yt)

    def _task(self, rng: np.random.Generator, x: np.ndarray, rewards: np.ndarray, nc: int, first: int) -> TaskBatch:
        """The first `nc` points as context, with rewards hidden, and those from `first` on as targets."""
        x, y = (torch.from_numpy(v.astype(np.float32)) for v in (x, rewards))
        shape = (len(y), nc, self.dy)
        noise, seen = rng.standard_normal(shape, np.float32), rng.random(shape, np.float32) >= self.hidden
        yc = torch.where(torch.from_numpy(seen), y[:, :nc], torch.from_numpy(noise))
        return TaskBatch(x[:, :nc].contiguous(), yc, x[:, first:].contiguous(), y[:, first:].contiguous())

    @cached_property
    def _wheels(self) -> tuple[np.ndarray, np.ndarray]:
        """Contexts and rewards of the fixed wheels, `[b, n, 2]` and `[b, n, 5]`."""
        low, high = self.delta
        uniform = torch.rand(self.batch_size, generator=torch.Generator().manual_seed(self.seed))
        wheels = []
        for number, share in enumerate(uniform.tolist()):
            order = _order(self.most_points, self.seed + number)
            wheels.append([v[order] for v in _released(self.most_points, low + (high - low) * share)])
        return tuple(np.stack(parts) for parts in zip(*wheels, strict=True))


def best_arm(x: np.ndarray, delta: float | np.ndarray) -> np.ndarray:
    """The arm with the largest mean at contexts `[b, n, 2]` of wheels with radii `[b, 1]`, or one: `[b, n]`."""
    quadrant = np.where(x[..., 1] > 0, np.where(x[..., 0] > 0, 1, 2), np.where(x[..., 0] > 0, 4, 3))
    return np.where(np.hypot(x[..., 0], x[..., 1]) >= delta, quadrant, 0)


def pays(x: np.ndarray, delta: float | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of what each arm pays at contexts `[b, n, 2]`, `[b, n, 5]` each."""
    large = (np.arange(len(MEANS)) == best_arm(x, delta)[..., None]) & (np.arange(len(MEANS)) > 0)
    return np.where(large, LARGE, MEANS), np.where(large, LARGE_STDDEV, STDDEV)


def draw(rng: np.random.Generator, delta: np.ndarray, num: int) -> tuple[np.ndarray, np.ndarray]:
    """New wheels with radii `[b]`: contexts `[b, num, 2]`, uniform in the disc, and rewards `[b, num, 5]`."""
    radius, angle = np.sqrt(rng.random((len(delta), num))), 2 * np.pi * rng.random((len(delta), num))
    x = radius[..., None] * np.stack([np.cos(angle), np.sin(angle)], -1)
    mean, stddev = pays(x, delta[:, None])
    return x, mean + stddev * rng.standard_normal(mean.shape)


def _released(num: int, delta: float) -> tuple[np.ndarray, np.ndarray]:
    """The one draw of the released code: contexts `[num, 2]` by rejection, then rewards `[num, 5]` point by point."""
    rng, found = np.random.RandomState(0), np.empty((0, 2))
    while len(found) < num:
        square = rng.uniform(-1, 1, (num // 3, 2))
        found = np.concatenate([found, square[np.linalg.norm(square, axis=1) <= 1]])
    x = found[:num]
    best, rewards = best_arm(x, delta), np.empty((num, len(MEANS)))
    for row, arm in zip(rewards, best, strict=True):
        row[:] = rng.normal(MEANS, STDDEV)
        if arm:
            row[arm] = rng.normal(LARGE, LARGE_STDDEV)
    return x, rewards


def _order(num: int, seed: int) -> np.ndarray:
    """The order number `seed` of the released code."""
    order = np.arange(num)
    np.random.RandomState(seed).shuffle(order)
    return order
