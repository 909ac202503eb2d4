"""Reports: a JSON file that any reader understands, and a table."""

import json

import pytest

from npexp.callbacks.results import print_table
from npexp.run_files import write_json

RESULTS = {"test/loglik_joint": 1.25, "test/loglik_joint_sem": 0.5, "test_unseen/loglik_joint": -3.0}


def test_json_is_plain_and_whole(tmp_path):
    path = tmp_path / "new" / "test_metrics.json"
    write_json(path, {**RESULTS, "bad": float("nan"), "revision": None, "versions": {"torch": "2"}})
    assert json.loads(path.read_text()) == {**RESULTS, "bad": None, "revision": None, "versions": {"torch": "2"}}
    assert [p.name for p in path.parent.iterdir()] == ["test_metrics.json"]


@pytest.mark.parametrize("width", ["40", "200"])
def test_the_table_has_a_column_per_test_set_and_never_cuts_a_number(capsys, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", width)
    print_table(RESULTS | {f"test_{'long' * 3}/loglik_joint": 2.0})
    out = capsys.readouterr().out
    assert "1.2500 ± 0.5000" in out and "-3.0000" in out and "2.0000" in out
    assert "test_unseen" in out and "_sem" not in out
    assert "± one standard error, batches being independent" in " ".join(out.split())
