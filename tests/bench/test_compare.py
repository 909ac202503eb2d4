"""Comparisons of records made by hand."""

import re

import pytest

from npexp.bench.compare import changes, compare
from npexp.cli import main
from npexp.errors import ConfigError
from tests.bench.records import MACHINE, ok, record

SAME, SLOWER, LITTLE, WIDE = (("encode", n, "cnp") for n in (1, 2, 4, 8))
FASTER, BROKEN, FIXED, STILL = (("predict", n, "tnp") for n in (1, 2, 4, 8))
FAILED = {"status": "timed out", "why": "more than 1 s"}
OLD = {key: ok(0.1) for key in (SAME, SLOWER, LITTLE, FASTER, BROKEN)}
OLD |= {WIDE: ok(0.1, width=0.4), FIXED: FAILED, STILL: FAILED, ("train", 1, "np"): ok(0.1)}
NEW = {SAME: ok(0.1), SLOWER: ok(0.15), LITTLE: ok(0.109, width=0.01), FASTER: ok(0.05), BROKEN: FAILED}
NEW |= {WIDE: ok(0.2, width=0.4), FIXED: ok(0.1), STILL: FAILED, ("train", 2, "np"): ok(0.1)}


@pytest.fixture
def paths(tmp_path):
    """Two files, of which the new one has regressed."""
    paths = [tmp_path / "old.json", tmp_path / "new.json"]
    record(OLD, paths[0]), record(NEW, paths[1], threads=1)
    return [str(path) for path in paths]


def test_regressions(paths, capsys):
    assert main(["bench", "--compare", *paths]) == 1
    lines = capsys.readouterr().out.splitlines()
    rows = [re.split(r"\s\s+", line.strip()) for line in lines if line.startswith((" encode", " predict"))]
    found = {(row[0], int(row[1]), row[2]): row[5:] for row in rows}
    assert [tuple(row[:3]) for row in rows[:2]] == [("encode", "2", "cnp"), ("predict", "2", "tnp")]  # sorted
    memory = ["1 MiB", "1 MiB", "1.00"]
    assert found[SLOWER] == ["1.50", *memory, "slower"] and found[FASTER] == ["0.50", *memory, "faster"]
    assert found[SAME] == ["1.00", *memory] and found[WIDE] == ["2.00", *memory]  # quartiles overlap
    assert found[LITTLE] == ["1.09", *memory]  # apart, but hardly slower
    words = "\n".join(lines)
    assert "ok, now timed out" in words and "timed out, now ok" in words
    assert f"only in {paths[0]}: train 1 np" in words and f"only in {paths[1]}: train 2 np" in words
    assert lines[-1].startswith("2 of 8 cells regressed")
    assert "the machine's matrix products ran 1.00 times as fast" in words


def test_no_regression(paths, capsys):
    assert main(["bench", "--compare", paths[0], paths[0]]) == 0
    assert "0 of 9 cells regressed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("old", "new", "verdict"),
    [
        (50, 54.5, ""),  # MiB; 1.09 times
        (50, 55.5, "more memory"),
        (55.5, 50, "less memory"),
        (10, 13.9, ""),  # within 4 MiB
        (0, 3.9, ""),
        (0, 4.1, "more memory"),
        (None, 50, ""),
    ],
)
def test_memory_regresses_too(old, new, verdict):
    before, after = (record({SAME: ok(0.1, None if mib is None else int(mib * 2**20))}) for mib in (old, new))
    (change,) = changes(before, after)
    assert (change.verdict, change.regressed) == (verdict, verdict == "more memory")
    assert change.memory == (pytest.approx(new / old, rel=1e-6) if old else None)


def test_faster_with_more_memory(capsys):
    assert compare(record({SAME: ok(0.1)}), record({SAME: ok(0.05, 2**23)})) == 1
    out = capsys.readouterr().out
    assert "faster, more memory" in out and "1 of 1 cells regressed" in out


def test_other_settings_and_machines_are_named(capsys):
    new = record({SAME: ok(0.1)}, dtype="bfloat16")
    new.facts["machine"] = {**MACHINE, "device": "slide rule", "matmul": [2e9, 1e9]}
    assert compare(record({SAME: ok(0.1)}), new) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "other settings: dtype bfloat16, not float32" in lines
    assert "other machine: device slide rule, not abacus" in lines
    assert "the machine's matrix products ran 2.00 times as fast" in lines


def test_what_does_not_compare():
    with pytest.raises(ConfigError, match=r"counts cpu time, .* wall time"):
        compare(record({SAME: ok(0.1)}), record({SAME: ok(0.1)}, device="cuda"))
    with pytest.raises(ConfigError, match="no cell in common"):
        compare(record({SAME: ok(0.1)}), record({FASTER: ok(0.1)}))
