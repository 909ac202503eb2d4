"""Pictures of a few simple shapes: functions of two inputs with edges, made as fast as they are used."""

from collections.abc import Sequence

import numpy as np
import torch

from datamodules.base import PlotTask
from datamodules.loader import generator
from datamodules.sampled import SampledTasks, assemble, column, distinct
from npexp.batch import TaskBatch
from npexp.errors import ConfigError, at_least

GREY = (-0.5, 0.5)  # of shapes, and of the background at the centre
SLOPE = 0.25  # largest change of the background from the centre to an edge, along each axis
SIZE = (0.15, 0.6)  # radii, half sides of rectangles and half widths of stripes are uniform here
STRIPE = 0.4  # ... those of stripes times this, as they cross the whole picture


class Shapes(SampledTasks):
    """Grey pictures of discs, rectangles and stripes on a background that changes linearly, seen at a few pixels.

    Use it for functions with edges in two dimensions, where pictures never run out. Each shape is a disc, a rectangle
    or a stripe in any direction, all equally likely, with a grey of its own; later ones hide earlier ones. Positions
    are (row, column) in [-1, 1]^2, intensities about [-1, 1], and context and target pixels never coincide.
    Nobody knows the best score here.

    Args:
        side: rows and columns of a picture.
        num_shapes: shapes in each.
        noise: standard deviation of the noise on every pixel.
        num_context: smallest and largest number of context pixels, drawn once per batch.
        num_target: smallest and largest number of target pixels, drawn once per batch.
        max_points: cap on context and targets together: the largest number of targets becomes this less the context.
        ragged: draw both numbers for each task alone; the batch is padded with zeros and has masks.
        batch_size: pictures per batch.
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
        side: int = 24,
        num_shapes: int = 3,
        noise: float = 0.01,
        num_context: Sequence[int] = (6, 100),
        num_target: Sequence[int] = (6, 100),
        max_points: int | None = None,
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
            dx=2,
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
        self.side = at_least("side", side, 2)
        self.num_shapes = at_least("num_shapes", num_shapes, 0)
        self.noise = at_least("noise", noise, 0.0)
        if self.most_points > side**2:
            raise ConfigError(
                f"expected at most the {side**2} pixels of a picture, got {self.most_points} in all: lower num_context "
                "or num_target, set max_points, or raise side"
            )

    def make_batch(self, split: str, index: int) -> TaskBatch:
        self.check_index(split, index)
        rng = generator(self.seed, split, index=index)
        nc, nt, mask = self.draw_sizes(rng)
        pictures = self.pictures(rng, self.batch_size)
        chosen = distinct(rng, np.full(self.batch_size, self.side**2), nc + nt, mask)
        y = np.take_along_axis(pictures, chosen, 1) + self.noise * rng.standard_normal(chosen.shape)
        return assemble(self._positions(chosen), column(y), nc, mask)

    def plot_tasks(self, num: int) -> list[PlotTask]:
        """`num` pictures, with context sizes spread over their range; the targets are all pixels."""
        return [self._plot_task(number, nc) for number, nc in enumerate(self.plot_contexts(num))]

    def pictures(self, rng: np.random.Generator, num: int) -> np.ndarray:
        """New pictures without noise, rows one after the other, `[num, side^2]`, float64."""
        at = self._positions(np.arange(self.side**2)[None]).numpy().astype(np.float64)  # [1, p, 2]
        slope = rng.uniform(-SLOPE, SLOPE, (num, 1, 2))
        result = rng.uniform(*GREY, (num, 1)) + (slope * at).sum(-1)
        for _ in range(self.num_shapes):
            kind, grey = rng.integers(3, size=(num, 1)), rng.uniform(*GREY, (num, 1))
            half = rng.uniform(*SIZE, (num, 1, 2))  # a disc and a stripe use the first
            offset = at - rng.uniform(-1, 1, (num, 1, 2))
            angle = rng.uniform(0, np.pi, (num, 1))
            across = np.cos(angle) * offset[..., 0] + np.sin(angle) * offset[..., 1]  # distance from the stripe's axis
            inside = (
                np.hypot(offset[..., 0], offset[..., 1]) < half[..., 0],
                (abs(offset) < half).all(-1),
                abs(across) < STRIPE * half[..., 0],
            )
            result = np.where(np.choose(kind, inside), grey, result)
        return result

    def _plot_task(self, number: int, nc: int) -> PlotTask:
        rng = generator(self.seed, "plot", index=number)
        truth, every = self.pictures(rng, 1), np.arange(self.side**2)[None]
        seen = truth + self.noise * rng.standard_normal(truth.shape)
        chosen = np.concatenate([rng.permuted(every, axis=1)[:, :nc], every], 1)
        batch = assemble(self._positions(chosen), column(np.take_along_axis(seen, chosen, 1)), nc)
        return PlotTask(batch, "image", (self.side, self.side), truth=column(truth))

    def _positions(self, numbers: np.ndarray) -> torch.Tensor:
        """(row, column) of pixels by their number, `[b, n]` to `[b, n, 2]`, float32: the corners are the corners."""
        position = np.stack(np.divmod(numbers, self.side), -1) * (2 / (self.side - 1)) - 1
        return torch.from_numpy(position.astype(np.float32))
