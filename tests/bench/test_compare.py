"""Comparisons of records made by hand."""

import pytest

from npexp.bench.compare import compare
from npexp.cli import main
from npexp.errors import ConfigError
from tests.bench.records import ok, record

SAME, SLOWER, LITTLE, WIDE = (("encode", n, "cnp") for n in (1, 2, 4, 8))
FASTER, BROKEN, FIXED, STILL = (("predict", n, "tnp") for n in (1, 2, 4, 8))
FAILED = {"status": "timed out", "why": "more than 1 s"}
OLD = {key: ok(0.1) for key in (SAME, SLOWER, LITTLE, FASTER, BROKEN)}
OLD |= {WIDE: ok(0.1, width=0.4), FIXED: FAILED, STILL: FAILED, ("train", 1, "np"): ok(0.1)}
NEW = {SAME: ok(0.1), SLOWER: ok(0.15, 2**21), LITTLE: ok(0.109, width=0.01), FASTER: ok(0.05), BROKEN: FAILED}
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
    rows = [line.split() for line in lines if line.startswith((" encode", " predict"))]
    found = {(row[0], int(row[1]), row[2]): row[7:] for row in rows}
    assert [tuple(row[:3]) for row in rows[:2]] == [("encode", "2", "cnp"), ("predict", "2", "tnp")]  # sorted
    assert found[SLOWER] == ["1.50", "2.00", "slower"] and found[FASTER] == ["0.50", "1.00", "faster"]
    assert found[SAME] == ["1.00", "1.00"] and found[WIDE] == ["2.00", "1.00"]  # quartiles overlap
    assert found[LITTLE] == ["1.09", "1.00"]  # apart, but hardly slower
    words = "\n".join(lines)
    assert "ok, now timed out" in words and "timed out, now ok" in words
    assert f"only in {paths[0]}: train 1 np" in words and f"only in {paths[1]}: train 2 np" in words
    assert lines[-1].startswith("2 of 8 cells regressed")
    assert "the machine's matrix products ran 1.00 times as fast" in words


def test_no_regression(paths, capsys):
    assert main(["bench", "--compare", paths[0], paths[0]]) == 0
    assert "0 of 9 cells regressed" in capsys.readouterr().out


def test_other_settings_are_named(capsys):
    assert compare(record({SAME: ok(0.1)}), record({SAME: ok(0.1)}, dtype="bfloat16")) == 0
    assert "settings differ: dtype bfloat16, not float32" in capsys.readouterr().out


def test_what_does_not_compare():
    with pytest.raises(ConfigError, match=r"counts cpu time, .* wall time"):
        compare(record({SAME: ok(0.1)}), record({SAME: ok(0.1)}, device="cuda"))
    with pytest.raises(ConfigError, match="no cell in common"):
        compare(record({SAME: ok(0.1)}), record({FASTER: ok(0.1)}))
