"""Small files in their true formats, for tests of data whose files the user brings."""

import gzip
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def settings(data_class: str, folder: Path) -> dict[str, Any]:
    """What a data class needs beside its YAML to be used in a test; its files are written into the folder.

    Args:
        data_class: name of the class, without its module, or of its YAML where other YAMLs of the class need no files.
        folder: an empty folder, or one that does not exist.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return WRITERS[data_class](folder) if data_class in WRITERS else {}


def random_images(num: int, height: int, width: int, channels: tuple[int, ...] = ()) -> np.ndarray:
    """Noise, 8 bits per value."""
    return np.random.default_rng(num).integers(256, size=(num, height, width, *channels), dtype=np.uint8)


def idx(values: np.ndarray) -> bytes:
    """An array of bytes in IDX format."""
    return b"\0\0\x08" + bytes([values.ndim]) + np.array(values.shape, ">u4").tobytes() + values.tobytes()


def write_emnist(folder: Path, train: int = 60, test: int = 60, compressed: bool = True) -> dict[str, np.ndarray]:
    """EMNIST's four files with half digits and half letters; returns the images as stored and the labels."""
    arrays = {}
    for split, num in (("train", train), ("test", test)):
        labels = np.random.default_rng(1).permutation(np.arange(num) % 20).astype(np.uint8)
        arrays |= {f"{split}-images-idx3": random_images(num, 28, 28), f"{split}-labels-idx1": labels}
    for name, values in arrays.items():
        path = folder / f"emnist-balanced-{name}-ubyte"
        if compressed:
            path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(idx(values), 1))
        else:
            path.write_bytes(idx(values))
    return arrays


def encoded(image: np.ndarray, kind: str = "JPEG") -> bytes:
    """An image as the bytes of a file."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind)
    return file.getvalue()


def write_celeba(folder: Path, num: int = 60, size: tuple[int, int] = (218, 178)) -> list[int]:
    """CelebA's archive and list, a third in each partition; returns the partition of each image."""
    coarse = random_images(num, 7, 6, (3,))
    shapes = [np.kron(image, np.ones((32, 30, 1), np.uint8))[: size[0], : size[1]] for image in coarse]
    with zipfile.ZipFile(folder / "img_align_celeba.zip", "w") as archive:
        archive.mkdir("img_align_celeba")
        for number, image in enumerate(shapes, 1):
            archive.writestr(f"img_align_celeba/{number:06d}.jpg", encoded(image))
    partition = [number * 3 // num for number in range(num)]
    lines = [f"{number:06d}.jpg {part}\n" for number, part in enumerate(partition, 1)]
    (folder / "list_eval_partition.txt").write_text("".join(lines))
    return partition


def _emnist(folder: Path) -> dict[str, Any]:
    write_emnist(folder)
    return {"path": str(folder), "num_val": 16}


def _celeba(folder: Path) -> dict[str, Any]:
    write_celeba(folder)
    return {"path": str(folder), "num_val": 16}


def _folder(folder: Path) -> dict[str, Any]:
    for number, image in enumerate(random_images(64, 16, 20, (3,))):
        (folder / f"{number}.png").write_bytes(encoded(image, "PNG"))
    return {"path": str(folder), "val_fraction": 0.25, "test_fraction": 0.25}


def _field(folder: Path) -> dict[str, Any]:
    import pandas as pd
    import xarray as xr

    coords = {"valid_time": pd.date_range("2019", periods=300, freq="h"), "latitude": 60 - 0.25 * np.arange(30)}
    coords["longitude"] = 0.25 * np.arange(31)
    values = 280 + np.random.default_rng(0).standard_normal((300, 30, 31), np.float32)
    xr.Dataset({"t2m": (tuple(coords), values)}, coords).to_netcdf(folder / "era5.nc", engine="h5netcdf")
    return {"path": str(folder / "era5.nc")}


def _frame(folder: Path) -> dict[str, Any]:
    rng, number = np.random.default_rng(0), np.arange(400)
    rows = zip(number // 10, number % 10, rng.normal(size=400), strict=True)
    (folder / "table.csv").write_text("name,day,y\n" + "".join(f"{n},2024-01-{d + 1:02d},{y}\n" for n, d, y in rows))
    return {"path": str(folder / "table.csv"), "task": "name", "x": "day", "y": "y"}


WRITERS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "CelebA": _celeba,
    "EMNIST": _emnist,
    "Frame": _frame,
    "ImageFolder": _folder,
    "field": _field,
}
