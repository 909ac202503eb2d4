"""Figures say what they show, once, and do not depend on the order of points or on masks."""

import numpy as np
import pytest
import torch

from npexp.batch import TaskBatch
from npexp.callbacks.figures import Panel, curve_figure, image_figure


def curve(nc: int = 5, exact: bool = True, masked: bool = False) -> Panel:
    xt = torch.linspace(-2, 2, 40)[torch.randperm(40)].reshape(1, -1, 1)
    mask = torch.tensor([[True] * (nc - 1) + [False]]) if masked else None
    batch = TaskBatch(torch.rand(1, nc, 1), torch.rand(1, nc, 1), xt, xt.sin(), mask)
    known = {"truth": xt.sin(), "exact_mean": xt.sin(), "exact_stddev": torch.full_like(xt, 0.1)} if exact else {}
    return Panel(batch, xt.cos(), torch.full_like(xt, 0.2), **known)


def labels(figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_each_label_stands_once_however_many_panels():
    figure = curve_figure([curve(exact=False), curve(), curve(nc=0), curve(masked=True)])
    assert len(figure.legends) == 1 and len(set(labels(figure))) == len(labels(figure)) == 6
    assert [axis.get_title(loc="left") for axis in figure.axes[:4]] == [f"{n} context points" for n in (5, 5, 0, 4)]
    assert not figure.axes[4].axison  # the empty place of a grid


def test_a_task_without_exact_posterior_shows_none():
    assert labels(curve_figure([curve(exact=False)])) == ["model, 95 %", "model, mean", "context"]


def test_curves_are_drawn_from_left_to_right():
    figure = curve_figure([curve()])
    for line in figure.axes[0].lines[:-1]:
        assert (np.diff(line.get_xdata()) >= 0).all()


def test_five_outputs_lie_side_by_side():
    grid = torch.cartesian_prod(torch.linspace(0, 1, 4), torch.linspace(0, 1, 5))[None]
    picture = torch.rand(1, 20, 5)
    batch = TaskBatch(grid[:, 7:8], picture[:, 7:8], grid, picture)
    figure = image_figure([Panel(batch, picture, picture, image_shape=(4, 5))])
    context, _, mean, spread = (axis.images[0].get_array() for axis in figure.axes[:4])
    assert context.shape == (4, 25, 3) and mean.shape == spread.shape == (4, 25)
    for output in range(5):
        np.testing.assert_allclose(spread[:, 5 * output : 5 * output + 5], picture[0, :, output].reshape(4, 5))
    assert len({tuple(c) for c in context.reshape(-1, 3).round(4)}) == 6  # one point, five outputs, and the background


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_shows_its_context_where_it_is(channels):
    grid = torch.cartesian_prod(torch.linspace(0, 1, 4), torch.linspace(0, 1, 5))[None]
    picture = torch.rand(1, 20, channels)
    picture[0, 0], picture[0, 1] = 0, 1
    batch = TaskBatch(grid[:, 7:9], picture[:, 7:9], grid, picture)
    figure = image_figure([Panel(batch, picture, torch.rand(1, 20, channels), image_shape=(4, 5))])
    context, truth = (axis.images[0].get_array() for axis in figure.axes[:2])
    assert context.shape == (4, 5, 3) and truth.shape[:2] == (4, 5)
    np.testing.assert_allclose(context[1, 2:4], picture[0, 7:9].expand(2, 3), atol=1e-6)
    assert len({tuple(c) for c in context.reshape(-1, 3).round(4)}) <= 3  # two pixels and the background
    figure.canvas.draw()
