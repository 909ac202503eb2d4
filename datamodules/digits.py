"""Completing images of handwritten digits: a real data set of 1,797 scans that needs no download."""

from collections.abc import Sequence

import numpy as np

from datamodules.base import PlotTask
from datamodules.images import ImageTasks, Part, divide
from datamodules.loader import generator
from datamodules.pixels import Chosen, RandomPixels, every, subset
from datamodules.settings import fractions
from npexp.errors import at_least

SIDE = 8
PIXELS = SIDE * SIDE
WHITE = 16  # the highest intensity
UNSEEN = 7  # classes from here on are never trained on
PLOT_CONTEXT = 16


class DigitsData(ImageTasks):
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
        steps_per_epoch: training steps per epoch.
        seed: of the division and of all tasks.
        num_workers: processes that prepare training batches.
        cache_dir: where evaluation sets are kept; None for `$XDG_CACHE_HOME/npexp` or `~/.cache/npexp`.

    Raises:
        ConfigError: a setting is out of range or contradicts another.
    """

    white = WHITE
    image_shape = (SIDE, SIDE)

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
        targets = None if num_target is None else (at_least("num_target", num_target, 1), num_target)
        super().__init__(
            dy=1,
            context=RandomPixels(num_context, targets, max_points=None),
            batch_size=batch_size,
            eval_batch_size=batch_size,
            steps_per_epoch=steps_per_epoch,
            seed=seed,
            num_workers=num_workers,
            cache_dir=cache_dir,
            test_names=("test", "test_unseen"),
        )
        self.context.check(*self.image_shape)
        self.num_context, self.num_target = self.context.num_context, num_target
        self.val_fraction, self.test_fraction = fractions(val_fraction, test_fraction)

    def load(self) -> dict[str, Part]:
        from sklearn.datasets import load_digits  # a second of imports, which building the datamodule should not cost

        digits = load_digits()
        seen, unseen = np.flatnonzero(digits.target < UNSEEN), np.flatnonzero(digits.target >= UNSEEN)
        rng = generator(self.seed, "split", index=0)
        parts = {k: seen[n] for k, n in divide(rng, len(seen), self.val_fraction, self.test_fraction).items()}
        values = digits.images[..., None].astype(np.uint8)
        return {split: Part(values, numbers) for split, numbers in {**parts, "test_unseen": unseen}.items()}

    def images(self, split: str) -> np.ndarray:
        """The images of "train", "val", "test" or "test_unseen", `[n, 8, 8]`, float32, intensities in [-0.5, 0.5]."""
        return self.pictures(split)[..., 0].astype(np.float32) / WHITE - 0.5

    def plot_tasks(self, num: int) -> list[PlotTask]:
        """The first validation images, each from 16 of its pixels; the targets are all pixels."""
        streams = [generator(self.seed, "plot", index=i) for i in range(min(num, len(self.parts["val"].numbers)))]
        contexts = [subset(rng, 1, PIXELS, PLOT_CONTEXT) for rng in streams]
        return [self.plot_task(number, Chosen(seen, every(SIDE, SIDE))) for number, seen in enumerate(contexts)]
