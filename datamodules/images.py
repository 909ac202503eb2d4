"""What every set of images shares: pixels as points, each evaluation image once, any resolution as a question."""

from abc import abstractmethod
from functools import cache, cached_property
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from datamodules.base import NPDataModule, PlotTask
from datamodules.loader import generator
from datamodules.pixels import Chosen, PixelChoice
from npexp.batch import TaskBatch
from npexp.errors import ConfigError, DataError, at_least


class Part(NamedTuple):
    """The images of one split.

    Args:
        values: 8-bit intensities, `[n, rows, columns, dy]`; may lie on the disk and may hold other splits too.
        numbers: which of them belong to the split, `[m]`.
    """

    values: np.ndarray
    numbers: np.ndarray


class ImageTasks(NPDataModule):
    """Images as functions from the position of a pixel to its grey or colour.

    A subclass gives `load`, and `image_shape` where it does not follow from what was loaded. Positions are
    (row, column), 2 i / (rows - 1) - 1 and alike, so the centres of the corner pixels are at -1 and 1; values are in
    [-0.5, 0.5]. Predictors of finished runs take rows and columns counted from 0 and give intensities as the files have
    them. Positions need not be whole: `resolution` gives those of the pixels of a coarser or finer image of the same
    scene, and a predictor that has seen some pixels predicts it as any other set of targets:

        state = predictor.condition(some_rows_and_columns, their_intensities)
        fine = predictor.predict(state, dm.resolution(256, 256)).mean.reshape(256, 256, -1)

    Training draws images at random, different ones within a batch; evaluation shows each image of its split once.

    Args:
        dy: 1 for grey, 3 for colours.
        context: which pixels are seen and which are asked for.
        batch_size: images per training batch.
        eval_batch_size: images per evaluation batch; the last one may be smaller.
        steps_per_epoch: training steps per epoch.
        seed: of the division and of all tasks.
        num_workers: processes that prepare training batches.
        cache_dir: where evaluation sets and decoded images are kept; None for `$XDG_CACHE_HOME/npexp` or
            `~/.cache/npexp`.
        test_names: the test sets, see `NPDataModule`.
    """

    oracle = False
    white = 255  # the highest intensity

    def __init__(
        self,
        dy: int,
        context: PixelChoice,
        batch_size: int,
        eval_batch_size: int,
        steps_per_epoch: int,
        seed: int,
        num_workers: int,
        cache_dir: str | None,
        test_names: tuple[str, ...] = ("test",),
    ):
        super().__init__(2, dy, batch_size, steps_per_epoch, seed, num_workers, cache_dir, test_names)
        self.context = context
        self.eval_batch_size = at_least("eval_batch_size", eval_batch_size, 1)

    @abstractmethod
    def load(self) -> dict[str, Part]:
        """The images of "train", "val" and each of `test_names`, which are all of one size."""

    @property
    @abstractmethod
    def image_shape(self) -> tuple[int, int]:
        """Rows and columns of every image."""

    @cached_property
    def parts(self) -> dict[str, Part]:
        """The images of each split, loaded when they are first needed."""
        parts = self.load()
        for split, part in parts.items():
            if not len(part.numbers):
                raise DataError(f"expected images for each split, got none for '{split}': bring more")
        if min(self.image_shape) < 2:
            raise DataError(f"expected images of 2 x 2 pixels or more, got {self.image_shape}: bring larger ones")
        self.context.check(*self.image_shape)
        return parts

    @cached_property
    def scaling(self) -> dict[str, list[float]]:
        """From rows and columns counted from 0, and intensities from 0 to `white`."""
        middle = [(n - 1) / 2 for n in self.image_shape]
        return {
            "x_shift": middle,
            "x_scale": middle,
            "y_shift": [self.white / 2] * self.dy,
            "y_scale": [float(self.white)] * self.dy,
        }

    def pictures(self, split: str) -> np.ndarray:
        """A copy of all images of a split as the files have them, `[n, rows, columns, dy]`, 8 bits per value."""
        self.check_index(split, 0)
        return self.parts[split].values[self.parts[split].numbers]

    def resolution(self, rows: int, columns: int) -> np.ndarray:
        """Where the pixels of an image of another size are that shows the same scene: raw inputs for a predictor.

        An image covers the area of its pixels, not only their centres, so the outermost centres of a finer image lie up
        to half a pixel beyond those of this one, and each pixel of a coarser one at the middle of those it replaces.

        Args:
            rows: rows of the other image.
            columns: its columns.

        Returns:
            (row, column) in pixels of this image, from 0, `[rows * columns, 2]`, float64, rows one after the other.
        """
        return centres((at_least("rows", rows, 1), at_least("columns", columns, 1)), self.image_shape)

    def num_batches(self, split: str) -> int:
        return -(-len(self.parts[split].numbers) // self.eval_batch_size)

    def make_batch(self, split: str, index: int) -> TaskBatch:
        self.check_index(split, index)
        rng, numbers = generator(self.seed, split, index=index), self.parts[split].numbers
        if split == "train":
            chosen = rng.choice(len(numbers), self.batch_size, replace=self.batch_size > len(numbers))
        else:
            chosen = np.arange(len(numbers))[index * self.eval_batch_size : (index + 1) * self.eval_batch_size]
        return self.tasks(split, chosen, self.context.draw(rng, len(chosen), *self.image_shape))

    def plot_tasks(self, num: int) -> list[PlotTask]:
        """The first validation images, with contexts from the poorest to the richest; the targets are all pixels."""
        shares = np.linspace(0, 1, num + 2)[1:-1][: len(self.parts["val"].numbers)].tolist()
        streams = [generator(self.seed, "plot", index=i) for i in range(len(shares))]
        shown = [self.context.show(*which, *self.image_shape) for which in zip(streams, shares, strict=True)]
        return [self.plot_task(number, chosen) for number, chosen in enumerate(shown)]

    def plot_task(self, number: int, chosen: Chosen) -> PlotTask:
        """One validation image for a figure."""
        batch = self.tasks("val", np.array([number]), chosen)
        return PlotTask(batch, "image", self.image_shape, truth=batch.yt)

    def tasks(self, split: str, images: np.ndarray, chosen: Chosen) -> TaskBatch:
        """Some images of a split, `[b]`, as tasks."""
        numbers = self.parts[split].numbers[images]
        context = self._look_up(split, numbers, chosen.context, chosen.factor)
        return TaskBatch(*context, *self._look_up(split, numbers, chosen.target, 1))

    def _look_up(
        self, split: str, images: np.ndarray, numbers: np.ndarray, factor: int
    ) -> tuple[Float[Tensor, "b n 2"], Float[Tensor, "b n dy"]]:
        """Positions and values of pixels of images that are coarser by `factor`."""
        values, (height, width) = self.parts[split].values, self.image_shape
        if factor == 1:  # only the pixels that are asked for are read from the disk
            found = values.reshape(len(values), -1, self.dy)[images[:, None], numbers].astype(np.float32)
        else:
            blocks = values[images].reshape(-1, height // factor, factor, width // factor, factor, self.dy)
            means = blocks.mean((2, 4), dtype=np.float32).reshape(len(images), -1, self.dy)
            found = np.take_along_axis(means, numbers[..., None], 1)
        return torch.from_numpy(positions(height, width, factor)[numbers]), torch.from_numpy(found / self.white - 0.5)


@cache
def positions(height: int, width: int, factor: int) -> np.ndarray:
    """(row, column) in [-1, 1] of each pixel of an image that is coarser by `factor`, `[p, 2]`, float32."""
    raw = centres((height // factor, width // factor), (height, width)).astype(np.float32)
    return raw * 2 / (np.array([height, width], np.float32) - 1) - 1


def centres(shape: tuple[int, int], own: tuple[int, int]) -> np.ndarray:
    """Where the pixels of an image of one shape lie in an image of another, `[p, 2]`, see `ImageTasks.resolution`."""
    axes = [(np.arange(n) + 0.5) * size / n - 0.5 for n, size in zip(shape, own, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)


def divide(rng: np.random.Generator, num: int, val_fraction: float, test_fraction: float) -> dict[str, np.ndarray]:
    """The numbers below `num` at random in three parts, which have one each at least: "train", "val" and "test"."""
    num_val, num_test = (max(1, round(num * f)) for f in (val_fraction, test_fraction))
    val, test, train = np.split(rng.permutation(num), [num_val, num_val + num_test])
    return {"train": train, "val": val, "test": test}


def hold_out(rng: np.random.Generator, numbers: np.ndarray, num_val: int) -> dict[str, np.ndarray]:
    """Some of the training images at random for validation, the rest for "train"; published protocols have no such set.

    Raises:
        ConfigError: nothing is left to train on.
    """
    if num_val >= len(numbers):
        raise ConfigError(f"expected num_val below {len(numbers)}, the training images, got {num_val}: lower it")
    mixed = rng.permutation(numbers)
    return {"train": np.sort(mixed[num_val:]), "val": mixed[:num_val]}
