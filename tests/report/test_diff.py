"""Two runs compared: what differs, and tests that see the same tasks."""

import numpy as np
import pytest

from npexp.errors import DataError
from npexp.report.diff import changes, compare, settings
from npexp.report.estimates import paired
from npexp.report.finished import Finished
from tests.report.folders import make, tasks


@pytest.fixture
def pair(tmp_path):
    """Seeds 0 and 1, the second one better, with another width and one more setting."""
    a, b = make(tmp_path / "a/0", dz=8), make(tmp_path / "b/0", seed=1, shift=0.3, dz=16, depth=2)
    return Finished(a), Finished(b)


def test_settings_that_differ(pair):
    assert sorted(settings(*pair)) == [
        ["model.net.init_args.depth", "-", "2"],
        ["model.net.init_args.dz", "8", "16"],
        ["seed_everything", "0", "1"],
    ]


def test_settings_that_are_not_known_do_not_differ(pair, capsys):
    (pair[0].folder / "config.yaml").unlink()
    pair = [Finished(run.folder) for run in pair]
    assert settings(*pair) == []
    compare(*pair)
    assert f"not known without config.yaml in {pair[0].folder}." in capsys.readouterr().out


def test_every_metric_with_its_test(pair):
    a, b = tasks(0), tasks(1, 0.3)
    found = {change.metric: change for change in changes(*pair)}
    assert not [name for name in found if "gap" in name or "sem" in name]
    for name in ("loglik_joint", "crps", "coverage_95"):
        assert found[name].test == paired(a[name], b[name], a["batch"])
        assert found[name].test.difference == pytest.approx(found[name].second - found[name].first)
    assert found["rmse"].test == paired(a["mse"], b["mse"], a["batch"])
    assert found["calibration_error"].test is None and found["loglik_pooled"].test is None


def test_tasks_that_only_one_has_do_not_count(pair, tmp_path):
    table = {name: values[:9] for name, values in pair[1].tasks["test"].items()}  # its first three batches
    pair[1].tasks["test"] = table
    (test,) = (change.test for change in changes(*pair) if change.metric == "crps")
    a, b = tasks(0)["crps"][:9], tasks(1, 0.3)["crps"][:9]
    assert test == paired(a, b, tasks(0)["batch"][:9]) and test.batches == 3


def test_other_tasks_are_refused(pair, tmp_path):
    other = Finished(make(tmp_path / "c/0", data_seed=1))
    with pytest.raises(DataError, match=r"not tested on the same test tasks .* with the same data settings"):
        changes(pair[0], other)
    (tmp_path / "b/0/test_tasks.npz").unlink()
    with pytest.raises(DataError, match="b/0 has no scores of test tasks: run npexp test again"):
        changes(pair[0], Finished(tmp_path / "b/0"))


def test_a_score_that_only_one_has_is_not_tested(pair):
    pair[0].tasks["test"]["energy_score"] = np.full(14, np.nan)
    assert [c.test for c in changes(*pair) if c.metric == "energy_score"] == [None]


def test_it_is_printed_and_kept(pair, tmp_path, capsys):
    compare(*pair, tmp_path / "out")
    shown, kept = capsys.readouterr().out, (tmp_path / "out/diff.md").read_text()
    test = next(change.test for change in changes(*pair) if change.metric == "loglik_joint")
    for text in (shown, kept):
        assert f"{test.difference:.4f} ± {test.error:.4f}" in text and f"{test.p_t:.2g}" in text
        assert "model.net.init_args.dz" in text and "cnp on gp_rbf, seed 1, 100 steps" in text
