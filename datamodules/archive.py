"""Files of a user, read where they are: a folder or a ZIP archive, and images that are decoded once and then kept."""

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from datamodules.base import progress
from npexp.errors import ConfigError, DataError

BROKEN = (OSError, EOFError, ValueError, RuntimeError, SyntaxError, NotImplementedError, zipfile.BadZipFile, zlib.error)
KNOWN_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")  # 8 bits per channel or fewer


class Files:
    """The files in a folder and the folders below it, or in a ZIP archive, without hidden ones.

    Args:
        path: the folder or the archive.
        wanted: what should be there and where it comes from, for the error message.
    """

    def __init__(self, path: Path, wanted: str):
        self.path, self.wanted = path, wanted

    @cached_property
    def entries(self) -> dict[str, tuple[int, int]]:
        """Size, and time of change or checksum, of each file by its name below the path, sorted by name."""
        if self.path.is_dir():
            found = [(p.relative_to(self.path).as_posix(), p) for p in self.path.rglob("*") if p.is_file()]
            entries = {name: (p.stat().st_size, p.stat().st_mtime_ns) for name, p in found}
        elif self.path.is_file():
            with self._archive() as archive:
                entries = {i.filename: (i.file_size, i.CRC) for i in archive.infolist() if not i.is_dir()}
        else:
            raise DataError(f"expected {self.wanted}, got nothing at {self.path}: correct the path")
        hidden = (".", "__MACOSX")
        return {
            name: entries[name] for name in sorted(entries) if not any(p.startswith(hidden) for p in name.split("/"))
        }

    def contents(self, names: Iterable[str]) -> Iterator[bytes]:
        """The bytes of files by their names; opened anew for each call, as processes must not share an open archive."""
        if self.path.is_dir():
            for name in names:
                yield self._guarded(name, (self.path / name).read_bytes)
        else:
            with self._archive() as archive:
                for name in names:
                    yield self._guarded(name, archive.read, name)

    def fingerprint(self, names: Iterable[str]) -> str:
        """A hash that changes when one of these files does."""
        return hashlib.sha256(json.dumps([(name, *self.entries[name]) for name in names]).encode()).hexdigest()

    def _archive(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self.path)
        except BROKEN as error:
            raise DataError(
                f"expected a folder or a whole ZIP archive with {self.wanted}, got {self.path} ({error}): "
                "correct the path, or fetch the archive again"
            ) from error

    def _guarded(self, name: str, read: Any, *args: str) -> bytes:
        try:
            return read(*args)
        except BROKEN as error:
            raise DataError(
                f"expected to read {name} in {self.path}, got an error ({error}): fetch it again"
            ) from error


def decode(content: bytes, name: str, dy: int, shape: tuple[int, int] | None = None) -> np.ndarray:
    """An image as `[rows, columns, dy]`, 8 bits per value.

    Args:
        content: the bytes of the file.
        name: its name, for error messages.
        dy: 1 to turn colours into greys, 3 to give greys three equal channels.
        shape: rows and columns to resize to, bicubic and without cropping; None to leave them as they are.
    """
    from PIL import Image, ImageOps  # matplotlib brings it

    try:
        with Image.open(io.BytesIO(content)) as opened:
            frames, image = getattr(opened, "n_frames", 1), ImageOps.exif_transpose(opened)
    except BROKEN as error:
        raise DataError(
            f"expected an image, got {name}, which cannot be read ({error}): replace it, or leave it out"
        ) from error
    if frames > 1 or image.mode not in KNOWN_MODES or see_through(image):
        what = f"{frames} frames" if frames > 1 else "transparency" if see_through(image) else f"mode {image.mode}"
        raise DataError(f"expected one opaque image of 8 bits per channel, got {what} in {name}: convert it")
    image = image.convert("L" if dy == 1 else "RGB")
    if shape is not None:
        image = image.resize(shape[::-1], Image.Resampling.BICUBIC)
    return np.asarray(image).reshape(image.height, image.width, dy)


def see_through(image: Any) -> bool:
    """Whether some pixel of a PIL image is not opaque."""
    return image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema()[0] < 255


def kept(path: Path, shape: tuple[int, int, int, int], images: Iterable[np.ndarray]) -> np.ndarray:
    """Images `[n, rows, columns, dy]` as a file that is mapped into memory: the one at `path`, else made from `images`.

    A new file is written whole or not at all; several processes may do so at once.
    """
    try:
        return mapped(path, shape)
    except (OSError, ValueError):  # not there yet, or damaged
        part = path.with_name(f"{path.name}.{uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:  # writing to a mapped file would kill the process where the disk is full
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for _, image in zip(progress(shape[0], "decoding images, once"), images, strict=True):
                file.write(image.tobytes())
        part.replace(path)
        return mapped(path, shape)
    except OSError as error:
        size = np.prod(shape) / 2**20
        raise ConfigError(
            f"expected a writable folder with {size:.0f} MiB left for decoded images, got {path.parent} ({error}): "
            "set cache_dir"
        ) from error
    finally:
        if part.exists():
            part.unlink()


def mapped(path: Path, shape: tuple[int, int, int, int]) -> np.ndarray:
    """The array in a file, or ValueError where it has another shape."""
    found = np.load(path, mmap_mode="r")
    if found.shape != shape or found.dtype != np.uint8:
        raise ValueError(f"expected {shape}, got {found.shape} {found.dtype}")
    return np.asarray(found)
