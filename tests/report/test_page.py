"""The whole report: which files there are, that figures show what they say, and that nothing heavy is imported."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest

from npexp.callbacks.examples import pack, unpack
from npexp.callbacks.figures import Panel
from npexp.callbacks.parity import Parity
from npexp.cli import main
from npexp.report.estimates import over_batches
from npexp.report.figures import bin_edges, calibration_figure, context_figure, cost_figure
from npexp.report.finished import Finished, Row
from npexp.report.predictions import prediction_figures
from npexp.run_files import write_arrays
from tests.report.folders import LEVELS, examples, make, tasks


@pytest.fixture
def rows(tmp_path):
    """Two factorised models and a joint one; the second one is slower and better."""
    cnp, tnp = make(tmp_path / "cnp/0"), make(tmp_path / "tnp/0", "tnp", shift=0.5, rate=10.0)
    joint = make(tmp_path / "tnpnd/0", "tnpnd", likelihood="joint", shift=-0.5)
    return [Row(folder.parent.name, [Finished(folder)]) for folder in (cnp, tnp, joint)]


def lines(axis):
    return {line.get_label(): line for line in axis.lines}


def test_bins_hold_about_as_many_tasks():
    sizes = np.random.default_rng(0).integers(0, 50, 400)
    counts = np.bincount(np.searchsorted(bin_edges(sizes), sizes, side="right") - 1)
    assert len(counts) == 8 and counts.min() > 30 and counts.max() < 70
    assert bin_edges(np.full(400, 7)).tolist() == [7] and len(bin_edges(sizes[:45])) == 2


def test_log_likelihood_by_context_size(rows, monkeypatch):
    monkeypatch.setattr("npexp.report.figures.LEAST_TASKS", 5)
    figure = context_figure(rows)
    assert [axis.get_title() for axis in figure.axes if axis.axison] == ["test, factorised", "test, joint"]
    shown, table = lines(figure.axes[0])["tnp"], tasks(0, 0.5)
    edges = bin_edges(table["num_context"])
    chosen = table["num_context"] >= edges[-1]
    mean = over_batches(table["loglik_marginal"][chosen], table["batch"][chosen]).mean
    assert shown.get_ydata()[-1] == pytest.approx(mean)
    assert shown.get_xdata()[-1] == pytest.approx(table["num_context"][chosen].mean())
    exact = table["loglik_marginal"] + table["oracle_gap_marginal"]
    assert lines(figure.axes[0])["exact posterior"].get_ydata()[-1] == pytest.approx(exact[chosen].mean())


def test_long_labels_fit(rows, tmp_path):
    """A legend wider than its figure leaves no room for the panels, of which matplotlib warns."""
    rows = [row._replace(label=f"{row.label} (" + "class_path npexp.likelihoods.Gaussian, " * 3) for row in rows]
    for figure in (
        context_figure(rows[:1]),
        calibration_figure(rows),
        cost_figure(rows),
        *prediction_figures(rows).values(),
    ):
        figure.savefig(tmp_path / "figure.png")


def test_calibration(rows):
    (axis,) = calibration_figure(rows).axes
    np.testing.assert_allclose(lines(axis)["cnp"].get_xdata(), LEVELS)
    np.testing.assert_allclose(lines(axis)["cnp"].get_ydata(), tasks(0)["coverage"].mean(0))


def test_what_some_runs_lack_is_drawn_from_the_others(rows, tmp_path):
    """A first replicate without scores of tasks, and a model whose score is not a number."""
    (tmp_path / "cnp/0/test_tasks.npz").unlink()
    both = Row("cnp", [rows[0].runs[0], Finished(make(tmp_path / "cnp/1", seed=1))])
    axis = calibration_figure([both, *rows[1:]]).axes[0]
    np.testing.assert_allclose(lines(axis)["cnp"].get_ydata(), tasks(1)["coverage"].mean(0))
    assert "cnp" in lines(context_figure([both, *rows[1:]]).axes[0])
    rows[0].runs[0].metrics["test/loglik_marginal"] = np.nan
    assert lines(cost_figure(rows[:2]).axes[0])["Pareto front"].get_xdata() == [160]
    assert cost_figure(rows[:1]) is None


def test_cost(rows):
    """Time of 100 steps of 16 tasks; the front of the factorised models is both of them."""
    figure = cost_figure(rows)
    assert [axis.get_xlabel() for axis in figure.axes] == ["training time, s", "peak memory of training, MiB"] * 2
    front = lines(figure.axes[0])["Pareto front"]
    np.testing.assert_allclose(front.get_xdata(), [16, 160])
    np.testing.assert_allclose(front.get_ydata(), [tasks(0, s)["loglik_marginal"].mean() for s in (0, 0.5)])
    assert figure.axes[0].get_xscale() == "log" and figure.axes[1].get_xscale() == "linear"


def test_predictions_have_models_in_columns_and_one_scale_per_task(rows):
    figure = prediction_figures(rows)["curve"]
    titles = [axis.get_title(loc="left") for axis in figure.axes]
    assert titles == [f"{label}\n5 context points" for label in ("cnp", "tnp", "tnpnd")] * 2
    low, high = np.sin(examples()[0].xt).min(), np.sin(examples()[0].xt).max()
    assert {axis.get_ylim() for axis in figure.axes} == {(low - (high - low) / 4, high + (high - low) / 4)}


def test_models_that_predicted_for_other_tasks_are_left_out(rows):
    moved = [panel._replace(yc=panel.yc + 1) for panel in examples()]
    write_arrays(rows[1].runs[0].folder / "test_examples.npz", pack(moved))
    assert len(prediction_figures(rows)["curve"].axes) == 4
    assert prediction_figures([]) == {}


def test_images_and_parities(tmp_path):
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(np.arange(3.0), np.arange(4.0), indexing="ij"), -1).reshape(12, 2)
    image = Panel(grid[:2], rng.uniform(size=(2, 1)), grid, *rng.uniform(size=(3, 12, 1)), image_shape=(3, 4))
    outputs = [
        Parity("t: 2 context points", *rng.uniform(size=(4, 5))),
        Parity("p: 2 points", *rng.uniform(size=(4, 5))),
    ]
    found = unpack(pack([image, outputs]))
    assert found[0].image_shape == (3, 4) and found[0].truth is None and found[1][1].title == "p: 2 points"
    np.testing.assert_array_equal(found[0].stddev, image.stddev)
    np.testing.assert_array_equal(found[1][0].high, outputs[0].high)
    folders = [make(tmp_path / name / "0", name) for name in ("cnp", "tnp")]
    for folder in folders:
        write_arrays(folder / "test_examples.npz", pack([image, outputs]))
    figures = prediction_figures([Row(folder.parent.name, [Finished(folder)]) for folder in folders])
    assert list(figures) == ["image", "parity"]
    titles = [axis.get_title() for axis in figures["image"].axes[:6]]
    assert titles == ["context", "truth", "cnp, mean", "cnp, std. dev.", "tnp, mean", "tnp, std. dev."]
    assert [axis.get_title(loc="left") for axis in figures["parity"].axes] == [
        "cnp\nt: 2 context points", "tnp\nt: 2 context points"
    ]  # fmt: skip


def test_a_report_without_pytorch(rows, tmp_path):
    """Every file that the page names is there, as it says, and only these; a run without scores of tasks is named."""
    (tmp_path / "tnpnd/0/test_tasks.npz").unlink()
    file = tmp_path / "cnp/0/test_metrics.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"device": "H200"}))
    code = "import sys, npexp.cli; s = npexp.cli.main(sys.argv[1:]); print({'torch', 'pandas'} & set(sys.modules), s)"
    words = [sys.executable, "-W", "error", "-c", code, "report", "cnp", "t*", "--out", "out"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines() == ["out/index.md: 3 runs", "set() 0"], done.stderr
    page = (tmp_path / "out/index.md").read_text()
    linked = set(re.findall(r"\]\(([^)\s]+)\)", page))
    names = ("context", "calibration", "cost", "curve")
    figures = {f"gp_rbf-{name}.{suffix}" for name in names for suffix in ("png", "pdf")}
    assert linked == figures | {"gp_rbf.tex", "gp_rbf.csv"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == linked | {"index.md"}
    for name in figures:
        start = (tmp_path / "out" / name).read_bytes()[:4]
        assert start == (b"\x89PNG" if name.endswith("png") else b"%PDF")
    assert "* Times and memory of gp_rbf are of different devices: H200, unknown" in page
    assert "* tnpnd/0 has no scores of tasks: run npexp test again" in page
    assert "| gp_rbf | tnpnd | 0 | 100 |" in page and "`npexp report cnp 't*' --out out`" in page


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "expected RUN ... --out DIR, or --diff A B"),
        (["cnp"], "expected RUN ... --out DIR"),
        (["x", "--diff", "cnp", "tnp"], "--diff takes two runs and no other one: leave out x"),
        (["--diff", "cnp", "."], "expected one run in ., got 3"),
        (["--diff", "cnp", "rnp"], "expected a tested run in rnp"),
        (["--dif", "cnp", "tnp"], "did you mean '--diff'?"),
    ],
)
def test_mistakes(rows, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    assert main(["report", *words]) == 2
    assert message in capsys.readouterr().err


def test_a_comparison_takes_the_newest_version(rows, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "cnp/1", seed=1)
    assert main(["report", "--diff", "cnp", "tnp"]) == 0
    assert "A: cnp/1 (cnp on gp_rbf, seed 1" in capsys.readouterr().out
