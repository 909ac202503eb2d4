"""EMNIST: handwritten digits and letters, trained on digits and also tested on letters."""

import gzip
import math
from functools import cached_property
from pathlib import Path

import numpy as np

from datamodules.archive import BROKEN, Files
from datamodules.images import ImageTasks, Part, hold_out
from datamodules.loader import generator
from datamodules.pixels import PixelChoice, RandomPixels
from npexp.errors import ConfigError, DataError, at_least

SIDE = 28
NAMES = {
    (split, kind): f"emnist-balanced-{split}-{kind}-ubyte"
    for split in ("train", "test")
    for kind in ("images-idx3", "labels-idx1")
}
CLASSES = 47  # digits 0 to 9, then letters, those alike in both cases together
UNSEEN = 10  # classes from here on are never trained on
SOURCE = (
    "the EMNIST files in MNIST format, split 'balanced', from NIST's page 'The EMNIST Dataset' (gzip.zip; Cohen et al. "
    "2017, arXiv 1702.05373)"
)


class EMNIST(ImageTasks):
    """28 x 28 scans of digits, and a second test set of letters, which are never trained on.

    Use it for the published comparison on greys (Lee et al. 2020, arXiv 2008.02956; Nguyen & Grover 2022, arXiv
    2207.04179): the "balanced" split, images transposed so that they stand upright, classes 0 to 9 for training (24,000
    images) and for "test" (4,000 new ones), classes 10 to 46 for "test_unseen" (14,800). The papers train on all
    24,000 and score the last checkpoint; here `num_val` of them are held out for validation. As `RandomPixels` has it,
    targets are a few of the other pixels, one draw of both numbers per batch. Positions are in [-1, 1]^2, values in
    [-0.5, 0.5]; predictors of finished runs take rows and columns 0 to 27 and give 0 to 255. Nobody knows the best
    score: values are whole numbers, so a density whose standard deviation has no floor has no upper limit either.

    Args:
        path: the folder that holds the files emnist-balanced-{train,test}-images-idx3-ubyte and -labels-idx1-ubyte,
            compressed (.gz) or not, or gzip.zip itself, which is read in place.
        context: which pixels are seen and which are asked for; None for the published protocol.
        num_val: training images held out for validation.
        batch_size: images per training batch.
        eval_batch_size: images per evaluation batch; the last one may be smaller.
        steps_per_epoch: training steps per epoch.
        seed: of the images held out and of all tasks.
        num_workers: processes that prepare training batches.
        cache_dir: where evaluation sets are kept; None for `$XDG_CACHE_HOME/npexp` or `~/.cache/npexp`.

    Raises:
        ConfigError: no path, or a setting out of range.
        DataError: a file is missing, damaged or of another format.
    """

    image_shape = (SIDE, SIDE)

    def __init__(
        self,
        path: str | None = None,
        context: PixelChoice | None = None,
        num_val: int = 512,
        batch_size: int = 100,
        eval_batch_size: int = 16,
        steps_per_epoch: int = 240,
        seed: int = 0,
        num_workers: int = 0,
        cache_dir: str | None = None,
    ):
        super().__init__(
            dy=1,
            context=RandomPixels() if context is None else context,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            steps_per_epoch=steps_per_epoch,
            seed=seed,
            num_workers=num_workers,
            cache_dir=cache_dir,
            test_names=("test", "test_unseen"),
        )
        self.context.check(*self.image_shape)
        self.path = path
        self.num_val = at_least("num_val", num_val, 1)

    def load(self) -> dict[str, Part]:
        (train, train_labels), (test, test_labels) = (self._read(split) for split in ("train", "test"))
        seen = np.flatnonzero(train_labels < UNSEEN)
        parts = hold_out(generator(self.seed, "split", index=0), np.arange(len(seen)), self.num_val)
        own = {split: Part(train[seen], numbers) for split, numbers in parts.items()}
        old, new = np.flatnonzero(test_labels < UNSEEN), np.flatnonzero(test_labels >= UNSEEN)
        return {**own, "test": Part(test, old), "test_unseen": Part(test, new)}

    @cached_property
    def _files(self) -> tuple[Files, dict[tuple[str, str], str]]:
        """Where the files are, and the name of each below."""
        if self.path is None:
            raise ConfigError(f"expected a path to {SOURCE}, got none: set data.path to their folder or to gzip.zip")
        files = Files(Path(self.path), SOURCE)
        by_name = {name.rpartition("/")[2]: name for name in files.entries}
        found = {key: by_name.get(name, by_name.get(f"{name}.gz")) for key, name in NAMES.items()}
        missing = [NAMES[key] for key, name in found.items() if name is None]
        if missing:
            raise DataError(f"expected {SOURCE}, got no {missing[0]}[.gz] in {self.path}: add it, or correct the path")
        return files, found

    def _read(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Images `[n, 28, 28, 1]`, upright, and labels `[n]` of a file."""
        files, found = self._files
        names = [found[split, kind] for kind in ("images-idx3", "labels-idx1")]
        images, labels = (
            parse_idx(content, name, dims)
            for content, name, dims in zip(files.contents(names), names, (3, 1), strict=True)
        )
        if images.shape[1:] != self.image_shape:
            raise DataError(f"expected images of {SIDE} x {SIDE}, got {images.shape[1:]} in {names[0]}: take EMNIST's")
        if len(images) != len(labels):
            raise DataError(
                f"expected a label for each image, got {len(labels)} in {names[1]} and {len(images)} images in "
                f"{names[0]}: fetch both from the same archive"
            )
        if labels.max(initial=0) >= CLASSES:
            row = int((labels >= CLASSES).argmax())
            raise DataError(
                f"expected labels 0 to {CLASSES - 1}, got {labels[row]} for image {row} in {names[1]}: take the split "
                "'balanced'"
            )
        return np.ascontiguousarray(images.transpose(0, 2, 1))[..., None], labels

    def _settings(self, split: str) -> str:
        """Evaluation sets depend on what the files hold, not only on their names."""
        files, found = self._files
        return super()._settings(split) + files.fingerprint(found.values())


def parse_idx(content: bytes, name: str, dims: int) -> np.ndarray:
    """An array of bytes in the IDX format of MNIST: a magic number, the sizes, the values; compressed or not.

    Args:
        content: the bytes of the file.
        name: its name; compressed when it ends in .gz.
        dims: axes that the array should have.
    """
    if name.endswith(".gz"):
        try:
            content = gzip.decompress(content)
        except BROKEN as error:
            raise DataError(f"expected a whole gzip file, got {name} ({error}): fetch it again") from error
    start, magic = 4 * (1 + dims), 0x0800 + dims  # 08: bytes
    if len(content) < start or int.from_bytes(content[:4], "big") != magic:
        raise DataError(
            f"expected an IDX file of bytes with {dims} axes (magic number {magic}), got {name} beginning with "
            f"{int.from_bytes(content[:4], 'big')}: take the files in MNIST format"
        )
    shape = np.frombuffer(content[4:start], ">u4").astype(int).tolist()
    if len(content) - start != math.prod(shape):
        raise DataError(
            f"expected {math.prod(shape)} bytes for an array of {shape}, got {len(content) - start} in {name}: "
            "fetch it again"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
