"""Digits as tasks: a clean division, the right pixels, every image once."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from datamodules import DigitsData
from npexp.errors import ConfigError, UnknownNameError

SPLITS = ("train", "val", "test", "test_unseen")


@pytest.fixture
def dm(tmp_path):
    return DigitsData(cache_dir=str(tmp_path))


def rows(images):
    """Images as sorted tuples, so that sets of them compare."""
    return sorted(tuple(image.ravel().tolist()) for image in images)


def test_splits_are_disjoint_and_exhaustive(dm):
    digits = load_digits()
    values = digits.images.astype(np.float32) / 16 - 0.5
    parts = {split: rows(dm.images(split)) for split in SPLITS}
    every = [image for part in parts.values() for image in part]
    assert sorted(every) == rows(values)
    assert len(set(every)) == len(values) == 1797  # no two scans are equal, so none is in two parts
    assert parts["test_unseen"] == rows(values[digits.target >= 7])
    assert len(parts["val"]) == 126 and len(parts["test"]) == 253  # a tenth and a fifth of 1,264


def test_division_is_a_pure_function_of_the_seed(dm):
    assert np.array_equal(dm.images("val"), DigitsData().images("val"))
    assert not np.array_equal(dm.images("val"), DigitsData(seed=1).images("val"))


def reconstruct(batch):
    """The images of a batch, from positions and intensities of all their pixels."""
    x, y = torch.cat([batch.xc, batch.xt], 1), torch.cat([batch.yc, batch.yt], 1)
    row, column = ((x + 1) * 3.5).round().long().unbind(-1)
    images = torch.full((batch.num_tasks, 8, 8), torch.nan)
    for image, r, c, values in zip(images, row, column, y[..., 0], strict=True):
        image[r, c] = values
    return images.numpy()


@pytest.mark.parametrize("split", ["val", "test", "test_unseen"])
def test_evaluation_shows_each_image_once(dm, split):
    batches = dm.eval_batches(split)
    shown = np.concatenate([reconstruct(batch.check()) for batch in batches])
    assert np.array_equal(shown, dm.images(split))
    assert all(3 <= batch.xc.shape[1] <= 32 and batch.xc.shape[1] + batch.xt.shape[1] == 64 for batch in batches)
    assert len({batch.xc.shape[1] for batch in batches}) > 1


def test_training_shows_training_images(dm):
    train = set(rows(dm.images("train")))
    for index in range(5):
        batch = dm.make_batch("train", index).check()
        assert batch.num_tasks == 16 and batch.oracle_joint is None
        assert batch.xc.abs().max() <= 1 and batch.yt.abs().max() <= 0.5
        assert set(rows(reconstruct(batch))) <= train


def test_number_of_targets_can_be_fixed():
    batch = DigitsData(num_target=10, num_context=(5, 5)).make_batch("train", 0)
    assert batch.xc.shape == (16, 5, 2) and batch.xt.shape == (16, 10, 2)
    pixels = torch.cat([batch.xc, batch.xt], 1)
    assert all(len(p.unique(dim=0)) == 15 for p in pixels)


def test_batches_may_exceed_the_images():
    assert DigitsData(batch_size=2000).make_batch("train", 0).num_tasks == 2000


def test_plot_tasks(dm):
    tasks = dm.plot_tasks(3)
    assert len(tasks) == 3 and len(dm.plot_tasks(10_000)) == len(dm.images("val"))
    for task, image in zip(tasks, dm.images("val"), strict=False):
        assert task.kind == "image" and task.image_shape == (8, 8) and task.mean is None
        assert np.array_equal(task.batch.check().yt.numpy().reshape(8, 8), image)
        assert np.array_equal(task.truth.numpy().reshape(8, 8), image)
        assert task.batch.xc.shape == (1, 16, 2)


def test_traits(dm):
    assert dm.traits["oracle"] is False and dm.traits["dx"] == 2
    assert dm.traits["test_sets"] == ["test", "test_unseen"]


@pytest.mark.parametrize(
    "settings",
    [
        {"num_context": (3, 64)},
        {"num_context": (3, 60), "num_target": 5},
        {"num_target": 0},
        {"val_fraction": 0.0},
        {"val_fraction": 0.6, "test_fraction": 0.399},
        {"batch_size": 0},
    ],
)
def test_bad_settings_are_typed_errors(settings):
    with pytest.raises(ConfigError, match=r"expected .* got"):
        DigitsData(**settings)


def test_unknown_split_is_a_typed_error(dm):
    with pytest.raises(UnknownNameError, match="test_unseen"):
        dm.images("test_seen")
