"""Completing images of handwritten digits: a real data set of 1,797 scans that needs no download."""

from collections.abc import Sequence
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from datamodules.base import NPDataModule, PlotTask
from datamodules.loader import generator
from datamodules.settings import sizes
from npexp.batch import TaskBatch
from npexp.errors import ConfigError, at_least

SIDE = 8
PIXELS = SIDE * SIDE
WHITE = 16  # the highest intensity
UNSEEN = 7  # classes from here on are never trained on
PLOT_CONTEXT = 16


class DigitsData(NPDataModule):
    """Handwritten digits as functions from pixel position to intensity, with a test set of digits never trained on.

    Use it for a quick experiment on real data. The images are the 8 x 8 scans of Alpaydin and Kaynak (1998) that ship
    with scikit-learn. Positions are (row, column) in [-1, 1]^2, intensities in [-0.5, 0.5]; predictors of finished runs
    take rows and columns 0 to 7 and give intensities 0 to 16, as the scans have them. Classes 0 to 6 are divided
    at random into training, validation and "test"; all images of classes 7 to 9 form "test_unseen". Evaluation shows
    each image exactly once. Nobody knows the best score here: intensities take only 17 values, so a density whose
    standard deviation has no floor has no upper limit either.

    Args:
        num_context: smallest and largest number of context pixels, drawn once per batch.
        num_target: target pixels, drawn from the others; None for all others.
        val_fraction: share of the images of seen classes for validation.
        test_fraction: share of them for the test set.
        batch_size: images per batch; the last batch of an evaluation set may be smaller.
        steps_per_epoch: training batches per epoch and process.
        seed: of the division and of all tasks.
        num_workers: processes that prepare training batches.
        cache_dir: where evaluation sets are kept; None for `$XDG_CACHE_HOME/npexp` or `~/.cache/npexp`.

    Raises:
        ConfigError: a setting is out of range or contradicts another.
    """

    oracle = False
    scaling: ClassVar = {
        "x_shift": [(SIDE - 1) / 2] * 2,
        "x_scale": [(SIDE - 1) / 2] * 2,
        "y_shift": [WHITE / 2],
        "y_scale": [float(WHITE)],
    }

    def __init__(
        self,
        num_context: Sequence[int] = (3, 32),
        num_target: int | None = None,
        val_fraction: float = 0.1,
        test_fraction: float = 0.2,
        batch_size: int = 16,
        steps_per_epoch: int = 100,
        seed: int = 0,
        num_workers: int = 0,
        cache_dir: str | None = None,
    ):
        super().__init__(2, 1, batch_size, steps_per_epoch, seed, num_workers, cache_dir, ("test", "test_unseen"))
        self.num_context = sizes("num_context", num_context, 0)
        self.num_target = num_target
        targets = 1 if num_target is None else at_least("num_target", num_target, 1)
        if num_context[1] + targets > PIXELS:
            raise ConfigError(
                f"expected at most {PIXELS} pixels in all, got {num_context[1]} for the context and {targets} targets: "
                "lower one of them"
            )
        self.val_fraction, self.test_fraction = val_fraction, test_fraction
        if not (val_fraction > 0 and test_fraction > 0 and val_fraction + test_fraction <= 0.99):
            raise ConfigError(
                f"expected val_fraction and test_fraction above 0 with a sum of at most 0.99, got {val_fraction} and "
                f"{test_fraction}: leave some images for each of the three sets"
            )

    def images(self, split: str) -> np.ndarray:
        """The images of "train", "val", "test" or "test_unseen", `[n, 8, 8]`, float32, intensities in [-0.5, 0.5]."""
        self.check_index(split, 0)
        return self._images[split].reshape(-1, SIDE, SIDE)

    def num_batches(self, split: str) -> int:
        return -(-len(self._images[split]) // self.batch_size)

    def make_batch(self, split: str, index: int) -> TaskBatch:
        self.check_index(split, index)
        rng, images = generator(self.seed, split, index=index), self._images[split]
        if split == "train":
            chosen = rng.choice(len(images), self.batch_size, replace=self.batch_size > len(images))
        else:
            chosen = np.arange(len(images))[index * self.batch_size : (index + 1) * self.batch_size]
        nc = int(rng.integers(*self.num_context, endpoint=True))
        nt = PIXELS - nc if self.num_target is None else self.num_target
        order = rng.permuted(np.tile(np.arange(PIXELS), (len(chosen), 1)), axis=1)
        return pixels(images[chosen], order[:, :nc], order[:, nc : nc + nt])

    def plot_tasks(self, num: int) -> list[PlotTask]:
        """The first validation images, each from 16 of its pixels; the targets are all pixels."""
        return [self._plot_task(number) for number in range(min(num, len(self._images["val"])))]

    def _plot_task(self, number: int) -> PlotTask:
        rng = generator(self.seed, "plot", index=number)
        image, every = self._images["val"][number : number + 1], np.arange(PIXELS)[None]
        batch = pixels(image, rng.permuted(every, axis=1)[:, :PLOT_CONTEXT], every)
        return PlotTask(batch, "image", (SIDE, SIDE), truth=batch.yt)

    @cached_property
    def _images(self) -> dict[str, np.ndarray]:
        """Every split's images, `[n, 64]`: a pure function of the seed and the fractions."""
        from sklearn.datasets import load_digits  # a second of imports, which building the datamodule should not cost

        digits = load_digits()
        values = digits.data.astype(np.float32) / WHITE - 0.5
        seen, unseen = values[digits.target < UNSEEN], values[digits.target >= UNSEEN]
        seen = seen[generator(self.seed, "split", index=0).permutation(len(seen))]
        num_val, num_test = (max(1, round(len(seen) * f)) for f in (self.val_fraction, self.test_fraction))
        val, test, train = np.split(seen, [num_val, num_val + num_test])
        return {"train": train, "val": val, "test": test, "test_unseen": unseen}


def pixels(images: np.ndarray, context: np.ndarray, target: np.ndarray) -> TaskBatch:
    """Images `[b, 64]` as tasks, from the pixel numbers of their contexts `[b, nc]` and targets `[b, nt]`."""
    (xc, yc), (xt, yt) = (look_up(images, numbers) for numbers in (context, target))
    return TaskBatch(xc, yc, xt, yt)


def look_up(images: np.ndarray, numbers: np.ndarray) -> tuple[Float[Tensor, "b n 2"], Float[Tensor, "b n 1"]]:
    """Positions, 2 i / (side - 1) - 1 for row and column, and intensities of some pixels."""
    position = np.stack(np.divmod(numbers, SIDE), -1).astype(np.float32) * 2 / (SIDE - 1) - 1
    return torch.from_numpy(position), torch.from_numpy(np.take_along_axis(images, numbers, 1)[..., None])
