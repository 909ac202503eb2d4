"""CelebA: photographs of faces in colour, at 32 x 32, 64 x 64 or any other size."""

import hashlib
from functools import cached_property
from pathlib import Path

import numpy as np

from datamodules.archive import Files, decode, kept
from datamodules.images import ImageTasks, Part, hold_out
from datamodules.loader import generator
from datamodules.pixels import PixelChoice, RandomPixels
from npexp.errors import ConfigError, DataError, at_least

BUDGET = {32: 200, 64: 800, 128: 1600}  # points per task in the published protocols, by size
FOLDERS = ("", "Img/", "Eval/")  # of the official archive
IMAGES = ("img_align_celeba", "img_align_celeba.zip")
PARTITION = "list_eval_partition.txt"
TRAIN, VAL, TEST = "0", "1", "2"  # in that list
SOURCE = (
    "CelebA's aligned images, img_align_celeba.zip or the folder img_align_celeba, and list_eval_partition.txt, from "
    "the page 'Large-scale CelebFaces Attributes (CelebA) Dataset' of MMLab, CUHK (Liu et al. 2015, arXiv 1411.7766)"
)


class CelebA(ImageTasks):
    """202,599 aligned photographs of faces as functions from pixel position to colour.

    Use it for the published comparisons on colours (Lee et al. 2020, arXiv 2008.02956; Nguyen & Grover 2022, arXiv
    2207.04179; Feng et al. 2023, arXiv 2211.08458 and 2305.14567): the images of 218 x 178 are resized to a square,
    bicubic and without cropping, which changes their proportions. The official test partition (19,962 images) is
    "test". The papers merge the other two (182,637 images) for training and score the last checkpoint; here `num_val`
    of these are held out for validation. As `RandomPixels` has it, targets are a few of the other pixels, one draw of
    both numbers per batch. Positions are in [-1, 1]^2, values in [-0.5, 0.5]; predictors of finished runs take rows and
    columns of the resized images and give 0 to 255. Nobody knows the best score: values are whole numbers, so a density
    whose standard deviation has no floor has no upper limit either. The papers sum log densities over the three
    channels of a pixel: three times what is reported here per target and channel.

    The archive is read in place. The first use decodes it, a few minutes, into a file in `cache_dir` that later ones
    map into memory: 0.6, 2.3 or 9.3 GiB for size 32, 64 or 128.

    Args:
        path: the folder that holds img_align_celeba.zip, or the folder img_align_celeba, and list_eval_partition.txt;
            they may also be in its folders Img and Eval, as in the official archive.
        size: rows and columns to resize to.
        context: which pixels are seen and which are asked for; None for the published protocol of this size.
        num_val: training images held out for validation.
        batch_size: images per training batch.
        eval_batch_size: images per evaluation batch; the last one may be smaller.
        steps_per_epoch: training steps per epoch.
        seed: of the images held out and of all tasks.
        num_workers: processes that prepare training batches.
        cache_dir: where evaluation sets and decoded images are kept; None for `$XDG_CACHE_HOME/npexp` or
            `~/.cache/npexp`.

    Raises:
        ConfigError: no path, a setting out of range, or a size that nobody published without a context.
        DataError: a file is missing or damaged, or the list and the images do not fit.
    """

    def __init__(
        self,
        path: str | None = None,
        size: int = 32,
        context: PixelChoice | None = None,
        num_val: int = 512,
        batch_size: int = 100,
        eval_batch_size: int = 16,
        steps_per_epoch: int = 1827,
        seed: int = 0,
        num_workers: int = 0,
        cache_dir: str | None = None,
    ):
        if context is None:
            if size not in BUDGET:
                raise ConfigError(
                    f"expected size among {list(BUDGET)}, got {size}: for another one set context as well"
                )
            most = BUDGET[size] - 4
            context = RandomPixels((3, most), (3, most), BUDGET[size] - 1)
        super().__init__(
            dy=3,
            context=context,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            steps_per_epoch=steps_per_epoch,
            seed=seed,
            num_workers=num_workers,
            cache_dir=cache_dir,
        )
        self.path = path
        self.size = at_least("size", size, 2)
        self.num_val = at_least("num_val", num_val, 1)
        self.context.check(*self.image_shape)

    @property
    def image_shape(self) -> tuple[int, int]:
        return self.size, self.size

    def load(self) -> dict[str, Part]:
        files, names, partition = self._files
        shape = (len(names), *self.image_shape, 3)
        images = (
            decode(content, name, 3, self.image_shape)
            for name, content in zip(names, files.contents(names), strict=True)
        )
        name = hashlib.sha256(f"{files.fingerprint(names)} {shape}".encode()).hexdigest()[:20]
        values = kept(self.cache_file("test").with_name(f"celeba-{self.size}-{name}.npy"), shape, images)
        rng = generator(self.seed, "split", index=0)
        parts = hold_out(rng, np.flatnonzero(partition != TEST), self.num_val)
        return {k: Part(values, n) for k, n in {**parts, "test": np.flatnonzero(partition == TEST)}.items()}

    @cached_property
    def _files(self) -> tuple[Files, list[str], np.ndarray]:
        """Where the images are, the name of each below in the order of the list, and its partition `[n]`."""
        if self.path is None:
            raise ConfigError(f"expected a path to {SOURCE}, got none: set data.path to the folder that holds both")
        places = [Path(self.path) / folder for folder in FOLDERS]
        images = [place / name for name in IMAGES for place in places if (place / name).exists()]
        lists = [place / PARTITION for place in places if (place / PARTITION).is_file()]
        if not images or not lists:
            missing = f"no {PARTITION}" if images else "no images"
            raise DataError(
                f"expected {SOURCE}, got {missing} in {self.path}: add what is missing, or correct the path"
            )
        files = Files(images[0], SOURCE)
        found = {name.rpartition("/")[2]: name for name in files.entries if name.lower().endswith(".jpg")}
        listed = read_partition(lists[0])
        absent, extra = [n for n in listed if n not in found], [n for n in found if n not in listed]
        for kind, names in (("not there", absent), ("not in the list", extra)):
            if names:
                raise DataError(
                    f"expected the images that {lists[0]} lists in {files.path}, got {len(names)} {kind}, first "
                    f"{names[0]}: fetch both again"
                )
        return files, [found[name] for name in listed], np.array(list(listed.values()))

    def _settings(self, split: str) -> str:
        """Evaluation sets depend on what the files hold, not only on their names."""
        files, names, partition = self._files
        return (
            super()._settings(split)
            + files.fingerprint(names)
            + hashlib.sha256("".join(partition).encode()).hexdigest()
        )


def read_partition(path: Path) -> dict[str, str]:
    """The partition of each image, "0", "1" or "2", by its name, in the order of the list."""
    listed: dict[str, str] = {}
    for row, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        words = line.split()
        if not words:
            continue
        if len(words) != 2 or words[1] not in (TRAIN, VAL, TEST):
            raise DataError(f"expected an image name and 0, 1 or 2, got {line!r} in row {row} of {path}: correct it")
        if words[0] in listed:
            raise DataError(f"expected each image once, got {words[0]} again in row {row} of {path}: correct it")
        listed[words[0]] = words[1]
    return listed
