"""Observed against predicted values: in raw units, by output, of any law, for what has no picture."""

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from scipy.stats import norm

import npexp
from datamodules import Frame
from npexp.batch import TaskBatch
from npexp.callbacks.board import Figures
from npexp.callbacks.figures import BLUE, VERMILION
from npexp.callbacks.panels import parities
from npexp.callbacks.parity import MOST_OUTPUTS, MOST_POINTS, Parity, parity_figure
from npexp.columns import Column, Columns
from npexp.likelihoods import DiagonalGaussian
from npexp.scaling import Scaling
from tests.contracts.test_likelihoods import SETTINGS, label, make, tiny
from tests.datamodules.frames import weather

NUMBERS = Columns("station", (Column("x", "number"),), ("t", "p"))


def task(nc=5, nt=7, dx=1, dy=2) -> TaskBatch:
    g = torch.Generator().manual_seed(0)
    points = [torch.randn(1, n, d, generator=g) for n, d in ((nc, dx), (nc, dy), (nt, dx), (nt, dy))]
    return TaskBatch(*points)


def gaussian(batch: TaskBatch) -> DiagonalGaussian:
    return DiagonalGaussian(batch.yt.cos(), 0.1 + batch.yt.square())


def test_raw_units_and_real_points():
    """By hand: shift and scale of the moments, and normal quantiles."""
    batch = task()
    batch = batch._replace(mask_c=torch.tensor([[True] * 3 + [False] * 2]), mask_t=torch.arange(7)[None] < 6)
    batch.yt[:, 6] = torch.nan
    found = parities(batch, gaussian(batch), Scaling([0.0], [1.0], [290.0, 1e5], [4.0, 300.0]), NUMBERS)
    assert [panel.title for panel in found] == ["t: 3 context points", "p: 3 context points"]
    for i, (shift, scale) in enumerate([(290, 4), (1e5, 300)]):
        y = batch.yt[0, :6, i].double().numpy()
        bounds = norm(np.cos(y), 0.1 + y**2).interval(0.95)
        expected = shift + scale * np.stack([y, np.cos(y), *bounds])
        np.testing.assert_allclose(np.stack(found[i][1:]), expected, rtol=1e-5)


def test_outputs_that_are_points_of_their_own():
    """The points that Columns makes of rows come back as the rows' values."""
    columns = NUMBERS._replace(separate=((290.0, 1e5), (4.0, 300.0)))
    raw = np.array([[291.0, 1.01e5], [np.nan, 0.99e5], [285.0, np.nan]])
    x, y, _ = columns.points(np.arange(3.0)[:, None], raw)
    x, y = (torch.tensor(v, dtype=torch.float32)[None] for v in (x, y))
    batch = TaskBatch(x[:, :0], y[:, :0], x, y)
    t, p = parities(batch, DiagonalGaussian(y, torch.full_like(y, 0.5)), None, columns)
    np.testing.assert_allclose(t.observed, [291, 285], rtol=1e-6)
    np.testing.assert_allclose(p.observed, [1.01e5, 0.99e5], rtol=1e-6)
    np.testing.assert_allclose(p.high - p.mean, norm.ppf(0.975) * 0.5 * 300, rtol=1e-3)
    assert (t.title, p.title) == ("t: 0 context points", "p: 0 context points")
    single = NUMBERS._replace(y=("t",), separate=((5.0,), (2.0,)))
    (alone,) = parities(batch, DiagonalGaussian(y, y.exp()), None, single)
    np.testing.assert_allclose(alone.observed, 5 + 2 * y[0, :, 0], rtol=1e-6)


def test_nameless_outputs_and_no_more_than_can_be_read():
    batch = task(dy=1, nt=3 * MOST_POINTS)
    (panel,) = parities(batch, gaussian(batch), None, None)
    assert panel.title == "5 context points" and len(panel.observed) == MOST_POINTS
    assert (panel.observed[[0, -1]] == batch.yt[0, [0, -1], 0].numpy()).all()
    batch = task(dy=MOST_OUTPUTS + 2)
    found = parities(batch, gaussian(batch), None, None)
    assert [panel.title.partition(":")[0] for panel in found] == [f"y{i}" for i in range(MOST_OUTPUTS)]


@pytest.mark.parametrize(("name", "case"), SETTINGS, ids=label)
def test_every_likelihood(name, case):
    net, batch = tiny("cnp", make(name, case)), task(dx=2)
    batch = TaskBatch(*(v.double() for v in batch[:4]))
    found = parities(batch, net(*batch[:3]), None, None)
    for i, panel in enumerate(found):
        assert np.isfinite(np.stack(panel[1:])).all() and (panel.low <= panel.high).all()
        np.testing.assert_array_equal(panel.observed, batch.yt[0, :, i])


def test_what_lies_outside_stands_out():
    values = np.arange(4.0)
    low, high = np.array([-1, 1.1, 1, 2]), np.array([1, 2, 1.9, 3])
    panel = Parity("t: 3 context points", values, values + 0.5, low, high)
    empty = Parity("p: 3 context points", *np.empty((4, 0)))
    figure = parity_figure([[panel, empty], [empty, panel]])
    assert [axis.get_title(loc="left")[0] for axis in figure.axes] == ["t", "p", "p", "t"]
    inside, outside, diagonal = figure.axes[0].lines
    assert (inside.get_color(), outside.get_color()) == (BLUE, VERMILION)
    assert inside.get_xdata().tolist() == [0, 3] and outside.get_xdata().tolist() == [1, 2]
    assert inside.get_ydata().tolist() == [0.5, 3.5] and diagonal.get_slope() == 1
    bars = [path.vertices.tolist() for path in figure.axes[0].collections[0].get_paths()]
    assert bars == [[[0, -1], [0, 1]], [[3, 2], [3, 3]]]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["model, mean and 95 %", "observed outside", "predicted = observed"]
    figure.canvas.draw()
    six = parity_figure([[panel]] * 4)
    assert six.axes[0].get_subplotspec().get_gridspec().get_geometry() == (2, 3) and not six.axes[5].axison


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*", "ignore:.*isinstance.treespec, LeafSpec.*")
@pytest.mark.filterwarnings("ignore:.*You have overridden `on_before_batch_transfer`.*")
def test_a_table_is_on_the_board(tmp_path, monkeypatch):
    """Its columns and units, one image for all tasks."""
    settings = {"x": ["day", "sky"], "y": ["t", "p"], "task": "station", "num_context": (3, 5), "num_target": (2, 4)}
    data = Frame(weather(), **settings, max_eval_tasks=2, num_draws=2, steps_per_epoch=2, cache_dir=str(tmp_path))
    torch.manual_seed(0)
    module = npexp.NPModule(npexp.build("cnp", dx=data.dx, dy=data.dy, dz=8))
    board, drawn = TensorBoardLogger(tmp_path), []
    monkeypatch.setattr(board.experiment, "add_figure", lambda *args: drawn.append(args))
    settings = {"enable_checkpointing": False, "enable_progress_bar": False, "default_root_dir": tmp_path}
    Trainer(max_steps=2, log_every_n_steps=1, accelerator="cpu", logger=board, callbacks=[Figures(2)], **settings).fit(
        module, data
    )
    ((name, figure, step),) = drawn
    assert (name, step, len(figure.axes)) == ("predictions/parity", 2, 4)
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["predictions-parity.png"]
    observed = np.concatenate([line.get_xdata() for line in figure.axes[0].lines[:2]])
    assert len(observed) and np.isin(observed.round(3), weather().t.round(3)).all()
