"""Images as tasks: the right values at the right places, each evaluation image once, other resolutions."""

import numpy as np
import pytest
import torch

import npexp
from datamodules import GridPixels, HalfImage, ImageFolder, RandomPixels, SuperResolution
from datamodules.images import positions
from tests.datamodules.samples import encoded, random_images

SHAPE, EVERY = (12, 18), RandomPixels((4, 9), None, None)


@pytest.fixture
def make(tmp_path):
    """A folder of 40 noisy pictures, in colour."""
    images = random_images(40, *SHAPE, (3,))
    for number, image in enumerate(images):
        (tmp_path / f"{number:02d}.png").write_bytes(encoded(image, "PNG"))

    def build(context=EVERY, **settings):
        small = {"cache_dir": str(tmp_path / ".cache"), "pattern": "*.png", "eval_batch_size": 3}
        dm = ImageFolder(str(tmp_path), context=context, **{**small, **settings})
        return dm, images

    return build


def rows(images):
    """Images as sorted tuples, so that sets of them compare."""
    return sorted(tuple(image.ravel().tolist()) for image in images)


def reconstruct(batch):
    """Whole images, 8 bits per value, from positions and values of all their pixels."""
    x, y = torch.cat([batch.xc, batch.xt], 1), torch.cat([batch.yc, batch.yt], 1)
    place = ((x.double() + 1) * (torch.tensor(SHAPE) - 1) / 2).round().long()
    images = torch.full((batch.num_tasks, *SHAPE, 3), torch.nan)
    for image, at, values in zip(images, place, y, strict=True):
        image[at[:, 0], at[:, 1]] = (values + 0.5) * 255
    return images.round().numpy()


def test_splits_are_disjoint_and_evaluation_shows_each_image_once(make):
    dm, images = make()
    parts = {split: rows(dm.pictures(split)) for split in ("train", "val", "test")}
    assert sorted(parts["train"] + parts["val"] + parts["test"]) == rows(images)
    assert [len(part) for part in parts.values()] == [28, 4, 8]
    for split in ("val", "test"):
        batches = dm.eval_batches(split)
        assert [batch.num_tasks for batch in batches] == {"val": [3, 1], "test": [3, 3, 2]}[split]
        assert rows(np.concatenate([reconstruct(batch.check()) for batch in batches])) == parts[split]
    batch = dm.make_batch("train", 5)
    assert batch.num_tasks == 16 and len(set(rows(reconstruct(batch)))) == 16
    assert set(rows(reconstruct(batch))) <= set(parts["train"])
    assert make(batch_size=50)[0].make_batch("train", 0).num_tasks == 50  # more than there are


def test_batches_are_pure(make):
    one, two = make()[0], make()[0]
    one.make_batch("train", 0)
    pairs = zip(one.make_batch("train", 7)[:4], two.make_batch("train", 7)[:4], strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(one.make_batch("train", 7).xt, one.make_batch("train", 8).xt)


@pytest.mark.parametrize("context", [EVERY, GridPixels((3,)), HalfImage(), SuperResolution((2, 3)), RandomPixels()])
def test_points_are_pixels(make, context):
    """Positions 2 i / (rows - 1) - 1, values in [-0.5, 0.5], point by point; a coarse pixel is its block's mean."""
    dm, images = make(context)
    height, width = SHAPE
    batch = dm.make_batch("val", 0).check()
    own = {tuple(image.ravel().tolist()): image for image in images}
    for task, picture in enumerate(dm.pictures("val")[:3]):
        image = own[tuple(picture.ravel().tolist())] / 255 - 0.5
        pixels = [(r, c) for r in range(height) for c in range(width)]
        place = {(2 * r / (height - 1) - 1, 2 * c / (width - 1) - 1): image[r, c] for r, c in pixels}
        at = np.array(list(place))
        for x, y in zip(batch.xt[task].numpy()[:50], batch.yt[task].numpy(), strict=False):
            nearest = abs(at - x).sum(1).argmin()
            assert abs(at[nearest] - x).max() < 1e-6 and np.allclose(y, place[tuple(at[nearest])], atol=1e-6)
        if type(context) is SuperResolution:
            (k,) = [k for k in (2, 3) if batch.xc.shape[1] == 216 // k**2]
            corners = [(r, c) for r in range(0, 12, k) for c in range(0, 18, k)]
            grid = at.reshape(12, 18, 2)
            blocks, middles = ([v[r : r + k, c : c + k].mean((0, 1)) for r, c in corners] for v in (image, grid))
            np.testing.assert_allclose(batch.yc[task], blocks, atol=1e-6)
            np.testing.assert_allclose(batch.xc[task], middles, atol=1e-6)


def test_plot_tasks(make):
    dm, _ = make()
    tasks = dm.plot_tasks(3)
    assert [task.batch.xc.shape[1] for task in tasks] == [5, 6, 8] and len(dm.plot_tasks(100)) == 4
    for task, image in zip(tasks, dm.pictures("val"), strict=False):
        assert task.kind == "image" and task.image_shape == SHAPE
        assert np.array_equal((task.truth.reshape(*SHAPE, 3) + 0.5).mul(255).round().numpy(), image)
        assert torch.equal(task.truth, task.batch.check().yt)
    coarse = make(SuperResolution((2, 6)))[0].plot_tasks(2)
    assert [task.batch.xc.shape[1] for task in coarse] == [54, 6]


def test_scaling_is_in_rows_columns_and_intensities(make):
    dm, _ = make()
    assert dm.scaling == {"x_shift": [5.5, 8.5], "x_scale": [5.5, 8.5], "y_shift": [127.5] * 3, "y_scale": [255.0] * 3}


def test_resolutions_cover_the_same_area(make):
    dm, _ = make()
    whole = [[r, c] for r in range(12) for c in range(18)]
    assert dm.resolution(12, 18).tolist() == whole
    fine = dm.resolution(36, 36).reshape(36, 36, 2)
    assert fine[1::3, 0, 0] == pytest.approx(np.arange(12)) and fine[0, :2, 1] == pytest.approx([-0.25, 0.25])
    assert fine[0, 0, 0] == pytest.approx(-1 / 3) and fine[-1, -1] == pytest.approx([11 + 1 / 3, 17.25])
    coarse = dm.resolution(6, 6).reshape(6, 6, 2)
    np.testing.assert_allclose(coarse, dm.resolution(12, 18).reshape(6, 2, 6, 3, 2).mean((1, 3)))
    np.testing.assert_allclose(positions(12, 18, 3), dm.resolution(4, 6) / [5.5, 8.5] - 1, atol=1e-6)


def test_a_predictor_answers_at_any_resolution(make):
    """In raw units; where a pixel of the finer image has the place of an own one, both predictions are one."""
    dm, _ = make()
    torch.manual_seed(0)
    model = npexp.build("cnp", dx=2, dy=3)
    predictor = npexp.Predictor(model, scaling=dm.scaling)
    image = dm.pictures("val")[0]
    seen = dm.resolution(*SHAPE)[::7]
    state = predictor.condition(seen, image.reshape(-1, 3)[::7])
    own, fine = (
        predictor.predict(state, dm.resolution(12 * k, 18 * k)).mean.reshape(12 * k, 18 * k, 3) for k in (1, 3)
    )
    torch.testing.assert_close(fine[1::3, 1::3], own, rtol=1e-4, atol=1e-3)
    assert (fine[0, 0] - fine[1, 1]).abs().max() > 0  # between the pixels there are other values
    task = dm.plot_tasks(1)[0].batch
    with torch.no_grad():
        direct = model(task.xt[:, ::7], task.yt[:, ::7], task.xt).mean.reshape(*SHAPE, 3)
    torch.testing.assert_close(own.float(), (direct + 0.5) * 255, rtol=1e-4, atol=1e-2)
