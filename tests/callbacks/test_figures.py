"""Figures say what they show, once, and do not depend on the order of points or on masks."""

import numpy as np
import pytest

from npexp.callbacks.figures import Panel, curve_figure, image_figure


def curve(nc: int = 5, exact: bool = True) -> Panel:
    rng = np.random.default_rng(0)
    xt, points = rng.permutation(np.linspace(-2, 2, 40))[:, None], rng.uniform(size=(2, nc, 1))
    known = {"truth": np.sin(xt), "exact_mean": np.sin(xt), "exact_stddev": np.full_like(xt, 0.1)} if exact else {}
    return Panel(*points, xt, np.sin(xt), np.cos(xt), np.full_like(xt, 0.2), **known)


def pixels(seen: slice, channels: int) -> Panel:
    """4 x 5 random pixels, the first one black and the second one white."""
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(np.linspace(0, 1, 4), np.linspace(0, 1, 5), indexing="ij"), axis=-1).reshape(20, 2)
    picture, spread = rng.uniform(size=(2, 20, channels))
    picture[0], picture[1] = 0, 1
    return Panel(grid[seen], picture[seen], grid, picture, picture, spread, image_shape=(4, 5))


def labels(figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_each_label_stands_once_however_many_panels():
    figure = curve_figure([curve(exact=False), curve(), curve(nc=0), curve(nc=4)])
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
    panel = pixels(slice(7, 8), channels=5)
    figure = image_figure([panel])
    context, _, mean, spread = (axis.images[0].get_array() for axis in figure.axes[:4])
    assert context.shape == (4, 25, 3) and mean.shape == spread.shape == (4, 25)
    for output in range(5):
        np.testing.assert_allclose(spread[:, 5 * output : 5 * output + 5], panel.stddev[:, output].reshape(4, 5))
    assert len({tuple(c) for c in context.reshape(-1, 3).round(4)}) == 6  # one point, five outputs, and the background


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_shows_its_context_where_it_is(channels):
    panel = pixels(slice(7, 9), channels)
    figure = image_figure([panel])
    context, truth = (axis.images[0].get_array() for axis in figure.axes[:2])
    assert context.shape == (4, 5, 3) and truth.shape[:2] == (4, 5)
    np.testing.assert_allclose(context[1, 2:4], np.broadcast_to(panel.yc, (2, 3)), atol=1e-6)
    assert len({tuple(c) for c in context.reshape(-1, 3).round(4)}) <= 3  # two pixels and the background
    figure.canvas.draw()
