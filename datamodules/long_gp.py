"""Long functions drawn from Gaussian processes, contexts of up to 100,000 points and more: `conf/data/gp_long.yaml`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from datamodules import markov
from datamodules.base import PlotTask
from datamodules.gp import check_names
from datamodules.loader import generator
from datamodules.sampled import SampledTasks, assemble, column
from datamodules.samplers import Drawn, Markov, Sampler
from datamodules.settings import interval
from npexp.batch import TaskBatch
from npexp.errors import ConfigError, at_least, positive

GRID = 400  # targets of a figure


class LongGP(SampledTasks):
    """Long functions from a Gaussian process, drawn by a fast sampler, with longer contexts in further test sets.

    Use it to see what a model makes of far more context than it was trained on. With `Markov` the evaluation sets
    carry exact log-likelihoods, from a Kalman filter on both sides of each target; training batches have none, for the
    filter takes longer than most models. `traits` say `approximate` where the samples do not have the exact law.

    Args:
        sampler: draws the functions and holds their family: `Markov`, `Circulant` or `RandomFeatures`.
        dx: input size; more than 1 with `RandomFeatures` only.
        noise: standard deviation of the noise on context and target outputs alike.
        input_range: where all inputs lie, in every dimension.
        num_context: smallest and largest context, drawn once per batch.
        num_target: smallest and largest number of targets, drawn once per batch.
        ragged: draw both numbers for each task alone; the batch is padded with zeros and has masks.
        batch_size: tasks per batch.
        steps_per_epoch: training steps per epoch.
        num_val_batches: validation batches.
        num_test_batches: batches in each test set.
        test_contexts: further test sets, name to size of every context: `10k` becomes the test set `test_10k`.
        seed: names the stream of tasks.
        num_workers: processes that prepare training batches.
        cache_dir: where evaluation sets are kept; None for `$XDG_CACHE_HOME/npexp` or `~/.cache/npexp`.

    Raises:
        ConfigError: a setting is out of range or contradicts another.
    """

    def __init__(
        self,
        sampler: Sampler,
        dx: int = 1,
        noise: float = 0.1,
        input_range: Sequence[float] = (-4.0, 4.0),
        num_context: Sequence[int] = (64, 512),
        num_target: Sequence[int] = (128, 128),
        ragged: bool = False,
        batch_size: int = 16,
        steps_per_epoch: int = 1000,
        num_val_batches: int = 16,
        num_test_batches: int = 16,
        test_contexts: dict[str, int] | None = None,
        seed: int = 0,
        num_workers: int = 0,
        cache_dir: str | None = None,
    ):
        names = list(test_contexts or {})
        check_names(names)
        super().__init__(
            dx=dx,
            dy=1,
            num_context=num_context,
            num_target=num_target,
            max_points=None,
            ragged=ragged,
            batch_size=batch_size,
            steps_per_epoch=steps_per_epoch,
            num_val_batches=num_val_batches,
            num_test_batches=num_test_batches,
            seed=seed,
            num_workers=num_workers,
            cache_dir=cache_dir,
            test_names=("test", *(f"test_{name}" for name in names)),
        )
        self.sampler, self.test_contexts = sampler, test_contexts
        self.oracle = isinstance(sampler, Markov)
        # With no noise at all the filter would divide by the variance of a function that it knows exactly.
        self.noise = positive("noise", noise) if self.oracle else at_least("noise", noise, 0.0)
        self.input_range = interval("input_range", input_range)
        self._contexts = {f"test_{k}": at_least(f"test_contexts.{k}", v, 1) for k, v in (test_contexts or {}).items()}
        kind = type(sampler).__name__
        if dx > sampler.max_dx:
            raise ConfigError(f"expected dx of 1 with {kind}, got {dx}: use RandomFeatures for more inputs")
        most = max([self.num_context[1], *self._contexts.values()]) + self.num_target[1]
        if most > sampler.max_points:
            raise ConfigError(
                f"expected at most {sampler.max_points} points, the num_points of {kind}, got {most}: raise num_points"
            )

    @property
    def traits(self) -> dict[str, Any]:
        return {**super().traits, "approximate": self.sampler.approximate}

    def make_batch(self, split: str, index: int) -> TaskBatch:
        self.check_index(split, index)
        rng = generator(self.seed, split, index=index)
        nc, nt, mask = self.draw_sizes(rng)
        if split in self._contexts:
            longer = self._contexts[split]
            mask = None if mask is None else torch.cat([mask.new_ones(len(mask), longer), mask[:, nc:]], 1)
            nc = longer
        drawn = self.sampler.draw(rng, self.input_range, self.batch_size, nc + nt, self.dx)
        y = (drawn.y + self.noise * rng.standard_normal(drawn.y.shape)).astype(np.float32)
        joint = marginal = None
        if self.oracle and split != "train":
            real = np.ones(y.shape, bool) if mask is None else mask.numpy()
            joint, marginal = (
                torch.from_numpy(v).float() for v in scores(self.sampler, drawn, y, nc, self.noise, real)
            )
        return assemble(torch.from_numpy(drawn.x), column(y), nc, mask, joint, marginal)

    def plot_tasks(self, num: int) -> list[PlotTask]:
        """`num` functions of one input, with context sizes spread over their range; validation tasks with more."""
        if self.dx > 1:
            return super().plot_tasks(num)
        return [self._plot_task(number, nc) for number, nc in enumerate(self.plot_contexts(num))]

    def _plot_task(self, number: int, nc: int) -> PlotTask:
        rng = generator(self.seed, "plot", index=number)
        nt = int(min(GRID, self.sampler.max_points - nc))
        drawn = self.sampler.draw(rng, self.input_range, 1, nc + nt, 1)
        order = np.concatenate([np.arange(nc), nc + drawn.x[0, nc:, 0].argsort()])
        drawn = Drawn(drawn.x[:, order], drawn.y[:, order], drawn.u)
        y = (drawn.y + self.noise * rng.standard_normal(drawn.y.shape)).astype(np.float32)
        mean = stddev = None
        if self.oracle:
            mean, variance = predictive(self.sampler, drawn, y, nc, self.noise, np.ones(y.shape, bool))[:2]
            mean, stddev = column(mean), column(np.sqrt(variance))
        batch = assemble(torch.from_numpy(drawn.x), column(y), nc)
        return PlotTask(batch, "curve", truth=column(drawn.y[:, nc:]), mean=mean, stddev=stddev)


def predictive(
    sampler: Markov, drawn: Drawn, y: np.ndarray, nc: int, noise: float, real: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Exact mean and variance of each target given all the context, noise included, and log p(yt | yc).

    Args:
        sampler: of the tasks.
        drawn: points, and hyperparameters.
        y: observations, `[b, n]`, the first `nc` the context.
        nc: context points.
        noise: standard deviation of the observation noise.
        real: which points there are, `[b, n]`.

    Returns:
        `[b, nt]`, `[b, nt]` and `[b]`, in the units of y.
    """
    rate, scale = sampler.units(drawn.u)
    (b, n), x, scale = y.shape, drawn.x[..., 0].astype(float), scale[:, None]
    order = x.argsort(1)
    target = np.arange(n) >= nc
    variance = np.where(real, (noise / scale) ** 2, np.inf)
    slots = np.broadcast_to(np.where(target, np.arange(n) - nc, n - nc), (b, n))
    tau = markov.distances(np.take_along_axis(x, order, 1), rate)
    back = np.concatenate([tau[:, :1], tau[:, :0:-1]], 1)
    both, seen, only, keep = (
        np.take_along_axis(v, order, 1) for v in (y / scale, variance, np.where(target, np.inf, variance), slots)
    )
    # Three filters in one: over all points, over the context, and over the context from the right.
    run = markov.filtered(
        sampler.order,
        np.concatenate([tau, tau, back]),
        np.concatenate([both, both, both[:, ::-1]]),
        np.concatenate([seen, only, only[:, ::-1]]),
        np.concatenate([keep, keep, keep[:, ::-1]]),
        n - nc,
    )
    left, right = (markov.Predicted(*(v[i * b : (i + 1) * b] for v in run)) for i in (1, 2))
    mean, spread = markov.between(sampler.order, left, right)
    evidence = run.log_prob.sum(1)
    count = (real & target).sum(1)
    joint = evidence[:b] - evidence[b : 2 * b] - count * np.log(scale[:, 0])
    return mean * scale, spread * scale**2 + noise**2, joint


def scores(
    sampler: Markov, drawn: Drawn, y: np.ndarray, nc: int, noise: float, real: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Exact log-likelihoods of the targets, together `[b]` and each alone `[b, nt]`; arguments as of `predictive`."""
    mean, variance, joint = predictive(sampler, drawn, y, nc, noise, real)
    marginal = -0.5 * ((y[:, nc:] - mean) ** 2 / variance + np.log(2 * np.pi * variance))
    return joint, np.where(real[:, nc:], marginal, 0.0)
