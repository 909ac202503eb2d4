"""Records: kept cell by cell, read again, and refused where they were made otherwise."""

import json
import os
from pathlib import Path

import pytest

from npexp.bench.record import Key, Record
from npexp.errors import ConfigError
from tests.bench.records import facts, ok, record


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "a.json"
    made = record({("predict", 128, "tnp"): ok(0.1), ("train", 128, "tnp"): {"status": "failed", "why": "so"}}, path)
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    again = Record.read(path)
    assert (again.facts, again.cells) == (made.facts, made.cells)
    again.add(Key("predict", 512, "tnp"), ok(0.2))
    assert len(json.loads(path.read_text())["cells"]) == 3


def test_every_cell_is_in_the_file_at_once(tmp_path):
    made = Record(facts(), tmp_path / "a.json")
    for n in (1, 2, 3):
        made.add(Key("encode", n, "cnp"), ok(1.0))
        assert len(Record.read(tmp_path / "a.json").cells) == n


def test_only_the_same_settings_go_on(tmp_path):
    path = tmp_path / "a.json"
    record({("encode", 1, "cnp"): ok(1.0)}, path)
    assert len(Record.open(path, facts()).cells) == 1
    with pytest.raises(ConfigError, match=r"otherwise \(dtype float32, not float64\): give another"):
        Record.open(path, facts(dtype="float64"))
    with pytest.raises(ConfigError, match="revision abc, not abd"):
        Record.open(path, {**facts(), "revision": "abd"})
    assert not Record.open(None, facts()).cells and not Record.open(tmp_path / "b.json", facts()).cells


def test_what_cannot_be_written_is_refused_before_anything_is_measured(tmp_path):
    for path in (tmp_path / "b/a.json", Path(os.devnull) / "a.json"):
        with pytest.raises(ConfigError, match=r"cannot write .*a\.json \(No.* directory\): give --json another place"):
            Record.open(path, facts())
    Record.open(tmp_path / "a.json", facts())
    assert not list(tmp_path.iterdir())  # nothing is left of the attempt


def test_a_cell_without_its_times_is_refused(tmp_path):
    record({("encode", 1, "cnp"): {"status": "ok", "why": ""}}, tmp_path / "a.json")
    with pytest.raises(ConfigError, match="to be a file that npexp bench --json wrote"):
        Record.read(tmp_path / "a.json")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"cells": [{"mode": "encode"}]}', '{"cells": [], "settings": {}}'])
def test_other_files_are_refused(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ConfigError, match=r"expected .*a\.json to be a file that npexp bench --json wrote"):
        Record.read(tmp_path / "a.json")


def test_the_clock_that_counts():
    key = Key("encode", 1, "cnp")
    assert record({key: ok(0.1)}).seconds(key)[1] == 0.1
    for settings in ({"threads": 2}, {"device": "cuda"}):
        assert record({key: ok(0.1)}, **settings).seconds(key)[1] == 0.2
    assert record({key: {"status": "skipped", "why": ""}}).seconds(key) is None


def test_reached_parts_of_the_machine():
    """4e6 operations in 0.1 s are 4e7 a second; 1e5 bytes are 1e6."""
    key = Key("encode", 1, "cnp")
    assert record({key: ok(0.1)}).shares(key) == pytest.approx((0.04, 0.01))
    assert record({key: ok(0.1)}, threads=2).shares(key) == pytest.approx((0.04, 0.01))  # of half, in twice the time


def test_curves_are_ordered_and_leave_out_what_failed():
    cells = {("encode", n, "cnp"): ok(n / 10, peak) for n, peak in ((4, 40), (1, 0), (2, None))}
    made = record({**cells, ("encode", 8, "cnp"): {"status": "timed out", "why": ""}, ("train", 1, "tnp"): ok(0.5)})
    assert [(*c[:2], list(c[2].items())) for c in made.curves("seconds")] == [
        ("encode", "cnp", [(1, 0.1), (2, 0.2), (4, 0.4)]),
        ("train", "tnp", [(1, 0.5)]),
    ]
    assert ("encode", "cnp", {4: 40}) in list(made.curves("bytes"))
