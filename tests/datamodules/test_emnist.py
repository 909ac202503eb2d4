"""EMNIST: the published division, upright images, and what becomes of damaged files."""

import gzip
import zipfile

import numpy as np
import pytest
import torch

import npexp
from datamodules import EMNIST, RandomPixels
from datamodules.settings import describe
from npexp.errors import ConfigError, DataError
from tests.datamodules.samples import idx, random_images, write_emnist

IMAGES, LABELS = "emnist-balanced-train-images-idx3-ubyte.gz", "emnist-balanced-train-labels-idx1-ubyte.gz"


def rows(images):
    """Images as sorted tuples, so that sets of them compare."""
    return sorted(tuple(image.ravel().tolist()) for image in images)


@pytest.fixture
def files(tmp_path):
    return write_emnist(tmp_path)


@pytest.fixture
def dm(files, tmp_path):
    return EMNIST(str(tmp_path), num_val=5, cache_dir=str(tmp_path / "cache"))


def test_division_is_the_published_one(dm, files):
    upright = {split: files[f"{split}-images-idx3"].transpose(0, 2, 1) for split in ("train", "test")}
    digit = {split: files[f"{split}-labels-idx1"] < 10 for split in ("train", "test")}
    assert not digit["train"].all() and digit["train"].any()
    parts = {split: rows(dm.pictures(split)) for split in ("train", "val", "test", "test_unseen")}
    assert sorted(parts["train"] + parts["val"]) == rows(upright["train"][digit["train"]])
    assert len(parts["val"]) == 5 and len({*parts["train"], *parts["val"]}) == digit["train"].sum()
    assert parts["test"] == rows(upright["test"][digit["test"]])
    assert parts["test_unseen"] == rows(upright["test"][~digit["test"]])
    other = EMNIST(dm.path, num_val=5, seed=1, cache_dir=dm.cache_dir)
    assert rows(other.pictures("val")) != parts["val"] and rows(other.pictures("test")) == parts["test"]


def test_images_are_upright(tmp_path):
    files = write_emnist(tmp_path)
    files["test-images-idx3"][:] = 0
    files["test-images-idx3"][:, 3, 20] = 255  # as stored: column 3, row 20
    (tmp_path / "emnist-balanced-test-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(files["test-images-idx3"])))
    dm = EMNIST(str(tmp_path), RandomPixels((0, 0), None, None), num_val=5, cache_dir=str(tmp_path / "cache"))
    batch = dm.make_batch("test_unseen", 0).check()
    white = batch.xt[batch.yt[..., 0] == 0.5]
    assert len(white) == batch.num_tasks and torch.allclose(white, torch.tensor([20.0, 3.0]) * 2 / 27 - 1)
    assert (batch.yt == -0.5).sum() == batch.num_tasks * 783


@pytest.mark.parametrize("form", ["plain", "gzip folder", "archive"])
def test_files_may_come_in_any_form(dm, files, tmp_path, form):
    place = tmp_path / "other"
    (place / "gzip").mkdir(parents=True)
    write_emnist(place / "gzip", compressed=form != "plain")
    if form == "archive":
        place = tmp_path / "gzip.zip"
        with zipfile.ZipFile(place, "w") as archive:
            for file in (tmp_path / "other/gzip").iterdir():
                archive.write(file, f"gzip/{file.name}")
    other = EMNIST(str(place), num_val=5, cache_dir=str(tmp_path / "cache"))
    assert torch.equal(other.make_batch("train", 3).yt, dm.make_batch("train", 3).yt)


def test_other_content_is_another_cache_file(dm, tmp_path):
    before = dm.cache_file("test")
    assert EMNIST(dm.path, num_val=5, cache_dir=dm.cache_dir).cache_file("test") == before
    write_emnist(tmp_path, train=80)
    assert EMNIST(dm.path, num_val=5, cache_dir=dm.cache_dir).cache_file("test") != before


def test_the_preset_is_the_published_protocol():
    dm = npexp.build_data("emnist")
    assert dm.cache_dir is None and dm.traits["test_sets"] == ["test", "test_unseen"] and dm.dy == 1
    assert (dm.batch_size, dm.eval_batch_size, dm.steps_per_epoch) == (100, 16, 240)
    assert describe(dm) == describe(EMNIST())
    law = dm.context
    assert (law.num_context, law.num_target, law.max_points) == ((3, 196), (3, 196), 199)


def test_a_path_is_needed():
    for use in (lambda dm: dm.make_batch("train", 0), lambda dm: dm.cache_file("val")):
        with pytest.raises(ConfigError, match=r"NIST.*Cohen et al. 2017.*set data.path"):
            use(EMNIST())
    with pytest.raises(DataError, match="got nothing at nowhere"):
        EMNIST("nowhere").make_batch("train", 0)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (IMAGES, lambda b: None, f"got no {IMAGES[:-3]}"),
        (IMAGES, lambda b: b[:2000], f"whole gzip file, got {IMAGES}"),
        (IMAGES, lambda b: gzip.decompress(b), f"whole gzip file, got {IMAGES}"),
        (IMAGES, lambda b: gzip.compress(gzip.decompress(b)[:-100]), r"expected 47040 bytes .* got 46940"),
        (IMAGES, lambda b: gzip.compress(gzip.decompress(b) + b"1"), r"expected 47040 bytes .* got 47041"),
        (
            IMAGES,
            lambda b: gzip.compress(b"PK\3\4" + bytes(99)),
            f"magic number 2051.*{IMAGES} beginning with 1347093252",
        ),
        (IMAGES, lambda b: gzip.compress(idx(np.zeros(60, np.uint8))), "magic number 2051.*beginning with 2049"),
        (IMAGES, lambda b: gzip.compress(b"\0\0"), "magic number 2051"),
        (IMAGES, lambda b: gzip.compress(idx(random_images(60, 32, 32))), r"images of 28 x 28, got \(32, 32\)"),
        (LABELS, lambda b: gzip.compress(idx(np.zeros(61, np.uint8))), f"got 61 in {LABELS} and 60 images in {IMAGES}"),
        (LABELS, lambda b: gzip.compress(idx(np.arange(60, dtype=np.uint8))), r"labels 0 to 46, got 47 for image 47"),
        (LABELS, lambda b: gzip.compress(idx(np.full(60, 11, np.uint8))), "num_val below 0, the training images"),
    ],
)
def test_bad_files_are_typed_errors(dm, tmp_path, name, change, message):
    content = change((tmp_path / name).read_bytes())
    (tmp_path / name).unlink() if content is None else (tmp_path / name).write_bytes(content)
    with pytest.raises((DataError, ConfigError), match=message):
        dm.make_batch("train", 0)


def test_a_damaged_archive_is_a_typed_error(tmp_path):
    path = tmp_path / "gzip.zip"
    path.write_bytes(b"PK\3\4 and no more")
    with pytest.raises(DataError, match=r"whole ZIP archive .*gzip\.zip"):
        EMNIST(str(path)).make_batch("train", 0)


def test_bad_settings_are_typed_errors():
    for settings in ({"num_val": 0}, {"eval_batch_size": 0}, {"context": RandomPixels((3, 784), None, None)}):
        with pytest.raises(ConfigError, match=r"expected .* got"):
            EMNIST(**settings)
