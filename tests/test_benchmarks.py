"""The instruments in benchmarks/: that they count, compare and run; not how fast anything is."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import predict
from benchmarks.predict import CASES, tnpa_sample
from benchmarks.timing import Spread, ratio, report, take_turns
from benchmarks.train_step import linear_flops, measure
from npexp import fresh

ROOT = Path(__file__).parents[1]


def test_everyone_has_as_many_turns():
    calls = []
    taken = take_turns({name: lambda name=name: calls.append(name) for name in "ab"}, rounds=3, repeats=2, warm_up=1)
    assert "".join(calls) == "bbaaaabbbbaaaabb"
    assert [len(taken[name]) for name in "ab"] == [3, 3]


def test_ratios_are_of_rounds():
    assert ratio([1.0, 2.0, 9.0], [2.0, 4.0, 3.0]) == Spread(0.5, 0.5, 1.75)


def test_rows_are_kept_as_they_come(tmp_path, capsys):
    """An interrupted run has those that were measured."""

    def rows():
        yield {"model": "a", "ms": Spread(1.0, 0.5, 2.0)}
        yield {"model": "b", "ms": Spread(3.0, 3.0, 3.0)}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        report(rows(), tmp_path / "a.json")
    expected = ["| model | ms |", "| --- | --- |", "| a | 1 (0.5 to 2) |", "| b | 3 (3 to 3) |"]
    assert capsys.readouterr().out.splitlines() == expected
    kept = json.loads((tmp_path / "a.json").read_text())["rows"]
    assert kept == [{"model": "a", "ms": [1, 0.5, 2]}, {"model": "b", "ms": [3, 3, 3]}]


def test_a_prediction_is_measured(monkeypatch):
    """A row for each who answers, with what its process says of memory, figures or words."""
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.setitem(CASES, "small", CASES["cmanp-update-32768"]._replace(nc=20, rounds=2))
    said = {"ours": fresh.Outcome(fresh.OK, 3 * 2**20, ""), "twin": fresh.Outcome(fresh.NO_TIME, None, "late")}
    monkeypatch.setattr(fresh, "call", lambda target, case, who, **options: said[who])
    rows = list(predict.measure("small", None))
    assert [(row["who"], row["MiB"]) for row in rows] == [("ours", 3.0), ("twin", "late")]
    assert rows[0]["ours / it"] == Spread(1.0, 1.0, 1.0) and all(row["ms"].median > 0 for row in rows)


def test_operations_of_linear_maps():
    """Each map takes 2 n d e forward, as many for its weights' gradient, and for its input's where one is asked."""
    net, x = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)), torch.randn(4, 7, 3)
    first, second = 2 * 28 * 15, 2 * 28 * 10
    assert linear_flops(lambda: net(x).sum()) == 2 * first + 3 * second
    batches = torch.randn(4, 3, 3, requires_grad=True)
    assert linear_flops(lambda: (x @ batches).sum()) == 0


def test_a_training_step_is_measured():
    row = measure("cnp", rounds=2, steps=1)
    assert row["parameters"] == 215_682
    assert row["ours, ms"].median > 0 and row["floor, ms"] > 0


@pytest.mark.parametrize("name", [name for name in CASES if "sample" not in name])
def test_both_are_asked_the_same(name):
    with torch.inference_mode():
        calls = CASES[name].calls(40)
        mean, stddev = calls["ours"]()
        for who in calls.keys() - {"ours"}:
            law = calls[who]()
            torch.testing.assert_close(law.mean, mean, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(law.stddev, stddev, rtol=1e-4, atol=1e-5)


def test_both_draw_as_much():
    with torch.inference_mode():
        assert {draw().shape for draw in tnpa_sample(5, 2).values()} == {(50, 1, 2, 1)}


@pytest.mark.slow
def test_hot_paths_run(tmp_path):
    store = f"--benchmark-storage=file://{tmp_path}"
    words = ["benchmarks", store, "--benchmark-disable", "-p", "no:cacheprovider", "-k", "rmnp"]
    done = subprocess.run([sys.executable, "-m", "pytest", *words], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout
    assert "4 passed, 13 deselected" in done.stdout
