"""Sawtooth and square waves: smooth pieces with jumps between, which no stationary covariance describes."""

from collections.abc import Sequence

import numpy as np

from datamodules.base import PlotTask
from datamodules.loader import generator
from datamodules.sampled import SampledTasks, assemble, column
from datamodules.settings import interval
from npexp.batch import TaskBatch
from npexp.errors import ConfigError, UnknownNameError, at_least

WAVES = {  # the form of a wave of height 1, from its phase in [0, 1)
    "sawtooth": lambda phase: 2 * phase - 1,
    "square": lambda phase: np.where(phase < 0.5, -1.0, 1.0),
}
PLOT_POINTS = 400  # more than for smooth functions, so that jumps look like jumps


class Sawtooth(SampledTasks):
    """Lines that rise or fall and jump back, or square waves, or both, observed with noise at random points.

    Use it to see whether a model that learned from jumps can place them. y = a w(frac(d f x + p)), with amplitude a,
    frequency f, direction d = 1 or -1 and phase p drawn for each task: after the sawtooth experiment of ConvCNP
    (Gordon et al. 2020, arXiv 1910.13556), with other ranges and sharp instead of band-limited jumps. The wave w is
    2 t - 1 for a sawtooth; a square wave is -1 for t < 1/2, else 1. With several waves each task draws one, and a model
    has to tell from the context which. There is no oracle: a task's parameters give its function, so knowing them
    leaves nothing to predict.

    Args:
        waves: which forms there are, "sawtooth" or "square", all equally likely.
        frequency: range of periods per unit of x, uniform.
        amplitude: range of half a jump's height, uniform.
        noise: standard deviation of the noise on context and target outputs alike.
        input_range: where inputs lie, uniformly.
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
        ConfigError: a setting is out of range or contradicts another.
        UnknownNameError: there is no such wave.
    """

    oracle = False

    def __init__(
        self,
        waves: Sequence[str] = ("sawtooth",),
        frequency: Sequence[float] = (0.5, 2.5),
        amplitude: Sequence[float] = (0.2, 1.0),
        noise: float = 0.02,
        input_range: Sequence[float] = (-2.0, 2.0),
        num_context: Sequence[int] = (3, 46),
        num_target: Sequence[int] = (3, 46),
        max_points: int | None = 49,
        ragged: bool = False,
        batch_size: int = 16,
        steps_per_epoch: int = 1000,
        num_val_batches: int = 64,
        num_test_batches: int = 188,
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
        if not waves:
            raise ConfigError(f"expected at least one wave, got none: choose among {', '.join(WAVES)}")
        for wave in waves:
            if wave not in WAVES:
                raise UnknownNameError("wave", wave, WAVES)
        self.waves = tuple(waves)
        self.frequency = interval("frequency", frequency, positive=True)
        self.amplitude = interval("amplitude", amplitude, positive=True)
        self.noise = at_least("noise", noise, 0.0)
        self.input_range = interval("input_range", input_range)

    def make_batch(self, split: str, index: int) -> TaskBatch:
        self.check_index(split, index)
        rng = generator(self.seed, split, index=index)
        nc, nt, mask = self.draw_sizes(rng)
        x = self._round(rng.uniform(*self.input_range, (self.batch_size, nc + nt)))
        y = self._functions(rng, x) + self.noise * rng.standard_normal(x.shape)
        return assemble(column(x), column(y), nc, mask)

    def plot_tasks(self, num: int) -> list[PlotTask]:
        """`num` functions on a dense grid, with context sizes spread over their range."""
        return [self._plot_task(number, nc) for number, nc in enumerate(self.plot_contexts(num))]

    def _plot_task(self, number: int, nc: int) -> PlotTask:
        rng = generator(self.seed, "plot", index=number)
        grid = np.linspace(*self.input_range, PLOT_POINTS)
        x = self._round(np.concatenate([rng.uniform(*self.input_range, nc), grid])[None])
        function = self._functions(rng, x)
        y = function + self.noise * rng.standard_normal(x.shape)
        return PlotTask(assemble(column(x), column(y), nc), "curve", truth=column(function[:, nc:]))

    def _functions(self, rng: np.random.Generator, x: np.ndarray) -> np.ndarray:
        """Values of one new function per row of x, `[b, n]`."""
        frequency, amplitude = (rng.uniform(*ends, (len(x), 1)) for ends in (self.frequency, self.amplitude))
        phase, direction = rng.random((len(x), 1)), rng.choice([-1.0, 1.0], (len(x), 1))
        kind = rng.integers(len(self.waves), size=(len(x), 1))
        phase = (direction * frequency * x + phase) % 1
        return amplitude * np.choose(kind, [WAVES[wave](phase) for wave in self.waves])

    @staticmethod
    def _round(x: np.ndarray) -> np.ndarray:
        """The inputs as they are delivered: beside a jump, rounding them later would change the function."""
        return x.astype(np.float32).astype(np.float64)
