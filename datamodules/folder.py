"""Any folder of images as tasks."""

import hashlib
from collections.abc import Sequence
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path

import numpy as np

from datamodules.archive import Files, decode, kept
from datamodules.images import ImageTasks, Part, divide
from datamodules.loader import generator
from datamodules.pixels import PixelChoice, RandomPixels
from datamodules.settings import fractions
from npexp.errors import ConfigError, DataError

SOURCE = "a folder of images, or a ZIP archive of them"


class ImageFolder(ImageTasks):
    """The images in a folder as functions from pixel position to grey or colour.

    Use it for the images you have: photographs, maps, microscopy, slices. All files that Pillow reads will do (PNG,
    JPEG, TIFF, BMP, ...), with 8 bits per channel, one image each and nothing transparent; what does not is refused by
    name. Folders below count too, hidden files do not. The images are divided at random into training, validation and
    "test": where some are nearly equal, as the frames of a film are, put them into folders of their own and train and
    test on different ones. Positions are in [-1, 1]^2, values in [-0.5, 0.5]; predictors of finished runs take rows and
    columns and give 0 to 255. Nobody knows the best score here.

    The first use decodes the images into a file in `cache_dir` that later ones map into memory.

    Args:
        path: the folder, or a ZIP archive, which is read in place.
        pattern: which files below it are images, such as "*.png"; all others are ignored.
        size: rows and columns to resize to, bicubic and without cropping; None where all images have one size.
        colour: three channels, which grey images get three times; false for one, the luminance of coloured images.
        context: which pixels are seen and which are asked for; None for `RandomPixels` as it is.
        val_fraction: share of the images for validation.
        test_fraction: share of them for the test set.
        batch_size: images per training batch.
        eval_batch_size: images per evaluation batch; the last one may be smaller.
        steps_per_epoch: training steps per epoch.
        seed: of the division and of all tasks.
        num_workers: processes that prepare training batches.
        cache_dir: where evaluation sets and decoded images are kept; None for `$XDG_CACHE_HOME/npexp` or
            `~/.cache/npexp`.

    Raises:
        ConfigError: no path, or a setting out of range.
        DataError: no images, a file that is none, or images of different sizes.
    """

    def __init__(
        self,
        path: str | None = None,
        pattern: str = "*",
        size: Sequence[int] | None = None,
        colour: bool = True,
        context: PixelChoice | None = None,
        val_fraction: float = 0.1,
        test_fraction: float = 0.2,
        batch_size: int = 16,
        eval_batch_size: int = 16,
        steps_per_epoch: int = 500,
        seed: int = 0,
        num_workers: int = 0,
        cache_dir: str | None = None,
    ):
        super().__init__(
            dy=3 if colour else 1,
            context=RandomPixels() if context is None else context,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            steps_per_epoch=steps_per_epoch,
            seed=seed,
            num_workers=num_workers,
            cache_dir=cache_dir,
        )
        self.path, self.pattern, self.colour = path, pattern, colour
        self.val_fraction, self.test_fraction = fractions(val_fraction, test_fraction)
        self.size = size
        if size is not None:
            if len(size) != 2 or not all(isinstance(n, int) and n >= 2 for n in size):
                raise ConfigError(f"expected size as [rows, columns], 2 or more each, got {size!r}: correct it")
            self.context.check(*size)

    @cached_property
    def image_shape(self) -> tuple[int, int]:
        """Rows and columns: as set, else those of the first image."""
        if self.size is not None:
            return self.size[0], self.size[1]
        files, names = self._files
        (first,) = files.contents(names[:1])
        return decode(first, names[0], self.dy).shape[:2]

    def load(self) -> dict[str, Part]:
        files, names = self._files
        shape = (len(names), *self.image_shape, self.dy)
        images = (self._decode(name, content) for name, content in zip(names, files.contents(names), strict=True))
        key = hashlib.sha256(f"{files.fingerprint(names)} {shape}".encode()).hexdigest()[:20]
        values = kept(self.cache_file("test").with_name(f"images-{key}.npy"), shape, images)
        rng = generator(self.seed, "split", index=0)
        parts = divide(rng, len(names), self.val_fraction, self.test_fraction)
        return {split: Part(values, numbers) for split, numbers in parts.items()}

    def _decode(self, name: str, content: bytes) -> np.ndarray:
        image = decode(content, name, self.dy, None if self.size is None else self.image_shape)
        if image.shape[:2] != self.image_shape:
            raise DataError(
                f"expected images of one size, got {image.shape[:2]} in {name} and {self.image_shape} in "
                f"{self._files[1][0]}: set size, to which all are resized"
            )
        return image

    @cached_property
    def _files(self) -> tuple[Files, list[str]]:
        """Where the images are, and their names below, in alphabetical order."""
        if self.path is None:
            raise ConfigError(f"expected a path to {SOURCE}, got none: set data.path")
        files = Files(Path(self.path), SOURCE)
        names = [name for name in files.entries if fnmatch(name, self.pattern)]
        if not names:
            raise DataError(
                f"expected images named {self.pattern}, got none in {self.path}: correct the path or the pattern"
            )
        return files, names

    def _settings(self, split: str) -> str:
        """Evaluation sets depend on what the files hold, not only on their names."""
        files, names = self._files
        return super()._settings(split) + files.fingerprint(names)
