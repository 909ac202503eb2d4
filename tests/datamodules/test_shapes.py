"""Pictures of shapes: greys, edges, noise, and which pixels are seen."""

import numpy as np
import pytest
import torch

from datamodules import Shapes
from datamodules.shapes import GREY, SLOPE
from npexp.errors import ConfigError


def pictures(num=300, **settings):
    dm = Shapes(**settings)
    return dm.pictures(np.random.default_rng(0), num).reshape(num, dm.side, dm.side)


def test_sizes_and_positions():
    dm = Shapes()
    for index in range(30):
        batch = dm.make_batch("train", index).check()
        nc, nt = batch.xc.shape[1], batch.xt.shape[1]
        assert 6 <= nc <= 100 and 6 <= nt <= 100 and batch.yc.shape == (16, nc, 1)
        numbers = (torch.cat([batch.xc, batch.xt], 1) + 1) * 11.5  # rows and columns
        torch.testing.assert_close(numbers, numbers.round(), atol=1e-4, rtol=0)
        assert numbers.round().min() >= 0 and numbers.round().max() <= 23
        assert all(len(task.round().unique(dim=0)) == nc + nt for task in numbers)  # no pixel twice


def test_pixels_are_those_of_the_picture():
    dm = Shapes(noise=0.0, side=5, num_context=(10, 10), num_target=(15, 15))
    batch = dm.make_batch("train", 0)
    x, y = torch.cat([batch.xc, batch.xt], 1), torch.cat([batch.yc, batch.yt], 1)[..., 0]
    row, column = ((x + 1) * 2).round().long().unbind(-1)
    seen = torch.full((16, 5, 5), torch.nan)
    seen[torch.arange(16)[:, None], row, column] = y
    task = dm.plot_tasks(1)[0]
    shown = task.batch.yt.view(5, 5)
    grid = ((task.batch.xt[0] + 1) * 2).round().long()
    assert torch.equal(grid, torch.cartesian_prod(torch.arange(5), torch.arange(5)))  # rows one after the other
    assert torch.equal(shown, task.truth.view(5, 5))
    assert seen.isfinite().all() and seen.abs().max() < 1 + 1e-6


def test_background_is_linear():
    background = pictures(num_shapes=0)
    for axis in (1, 2):
        steps = np.diff(background, axis=axis)
        assert np.ptp(steps, axis=(1, 2)).max() < 1e-6
        assert 0.8 * SLOPE < abs(steps).max() * 11.5 <= SLOPE  # per unit of x
    centre = background.mean((1, 2))
    assert GREY[0] <= centre.min() < GREY[0] + 0.05 and GREY[1] - 0.05 < centre.max() <= GREY[1]


def test_shapes_are_flat_and_have_edges():
    """With one shape, what is not background is one grey, and has the form of a disc, a rectangle or a stripe."""
    with_shape, at = pictures(num_shapes=1), (np.arange(24) / 11.5) - 1
    kinds, corner = {"disc": 0, "rectangle": 0, "stripe": 0, "hidden": 0}, 0
    for image in with_shape:
        values, counts = np.unique(image.round(12), return_counts=True)
        inside = np.isclose(image, values[counts.argmax()], rtol=0, atol=1e-9)
        corner = max(corner, abs(image).max())
        if inside.sum() < 12:
            kinds["hidden"] += 1  # too little of it in the picture to tell
            continue
        rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
        box = inside[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        touches = sum(int(edge.any()) for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]))
        if box.all():
            kinds["rectangle"] += 1
        elif touches >= 2 and max(len(rows), len(columns)) > 15:
            kinds["stripe"] += 1
        else:
            kinds["disc"] += 1
            if not touches:  # all of it can be seen: as many pixels as its width says
                radius = (at[rows[-1]] - at[rows[0]] + 2 / 23) / 2
                assert inside.sum() * (2 / 23) ** 2 == pytest.approx(np.pi * radius**2, rel=0.3)
        assert box.any(1).all() and box.any(0).all()  # one piece
    assert min(kinds[k] for k in ("disc", "rectangle", "stripe")) > 50 > kinds["hidden"]
    assert corner <= GREY[1] + 2 * SLOPE


def test_pictures_differ_and_have_jumps():
    images = pictures()
    assert len(np.unique(images.reshape(300, -1), axis=0)) == 300
    jumps = abs(np.diff(images, axis=2)).max((1, 2))
    assert (jumps > 0.1).mean() > 0.9
    assert 0.2 < images.std() < 0.4 and abs(images.mean()) < 0.05


def test_noise():
    fixed = {"num_context": (100, 100), "num_target": (100, 100)}
    noisy, clean = (Shapes(noise=noise, **fixed).make_batch("train", 0) for noise in (0.01, 0.0))
    assert torch.equal(noisy.xc, clean.xc)
    assert (noisy.yc - clean.yc).std() == pytest.approx(0.01, rel=0.1)
    assert (noisy.yt - clean.yt).std() == pytest.approx(0.01, rel=0.1)


def test_plot_tasks():
    tasks = Shapes().plot_tasks(3)
    assert [task.batch.xc.shape[1] for task in tasks] == [30, 53, 76]
    for task, again in zip(tasks, Shapes().plot_tasks(3), strict=True):
        assert task.kind == "image" and task.image_shape == (24, 24) and task.truth.shape == (1, 576, 1)
        batch = task.batch.check()
        assert torch.equal(batch.yt, again.batch.yt)
        nearest = torch.cdist(batch.xc[0], batch.xt[0]).argmin(1)
        assert torch.equal(batch.yc[0], batch.yt[0, nearest]) and len(set(nearest.tolist())) == len(nearest)
        assert (batch.yt - task.truth).std() == pytest.approx(0.01, rel=0.1)


@pytest.mark.parametrize(
    "settings",
    [{"side": 1}, {"num_shapes": -1}, {"noise": -0.1}, {"side": 14}, {"side": 14, "max_points": 197}],
)
def test_bad_settings_are_typed_errors(settings):
    with pytest.raises(ConfigError, match=r"expected .* got"):
        Shapes(**settings)


def test_a_cap_makes_small_pictures_possible():
    dm = Shapes(side=14, max_points=196, ragged=True)
    assert dm.make_batch("train", 0).check().num_tasks == 16
