"""The table of mixers, in the terminal and in the documentation."""

import json
import tomllib
from pathlib import Path

import pytest

import npexp
from npexp import mixer_costs, mixer_table
from npexp.cli import main
from npexp.mixer_table import FAMILIES

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def rows():
    return npexp.available_mixers(measured=True)


@pytest.fixture
def three(monkeypatch):
    """As if there were three mixers only, one of them measured."""
    from npexp.mixers import base

    some = {name: cls for name, cls in base.registered().items() if name in ("isab", "ist", "linear")}
    monkeypatch.setattr(base, "registered", lambda: some)
    cells = {n: mixer_costs.Cell(1e-6 * n, 10 * n) for n in mixer_costs.SIZES}
    monkeypatch.setattr(mixer_costs, "read_measured", lambda: {"linear": cells})


def test_the_documentation_is_current(rows):
    assert (ROOT / "docs/mixers.md").read_text() == mixer_table.markdown(rows), (
        "docs/mixers.md is out of date: run npexp mixers --markdown > docs/mixers.md"
    )


def test_every_mixer_stands_in_both_tables_once(rows):
    lines = mixer_table.terminal(rows).splitlines()
    assert max(map(len, lines)) <= 120
    assert sorted(line.split()[0] for line in lines if line.split()[:1] and line.split()[0] in rows) == sorted(rows)
    found = [line.split("`")[1] for line in mixer_table.markdown(rows).splitlines() if line.startswith("| `")]
    assert sorted(found) == sorted(rows)
    assert "{" not in mixer_table.markdown(rows).partition("```python")[0]


def test_as_a_table(three, capsys):
    assert main(["mixers"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines if line.partition(":")[0] in FAMILIES] == ["latent", "kernel"]
    rows = {line.split()[0]: line.split() for line in lines if line[:1].isalpha()}
    state = mixer_costs.state_bytes("linear")
    assert rows["linear"][-6:] == ["1.00", "1.00", state, "layer", "exact", "set"]
    assert rows["ist"][-6:] == ["-", "-", "8,192", "-", "-", "set"]


def test_as_json(three, capsys):
    assert main(["mixers", "--json", "--family", "kernel"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["linear"]
    assert found["linear"]["time_slope"] == found["linear"]["memory_slope"] == 1.0
    plain = npexp.available_mixers()
    assert plain["linear"].items() <= found["linear"].items()
    assert set(found["linear"]) - set(plain["linear"]) == {"state_bytes", "time_slope", "memory_slope"}


def test_as_markdown(three, capsys):
    assert main(["mixers", "--markdown"]) == 0
    page = capsys.readouterr().out
    assert page.startswith("# Token mixers") and "\n### latent\n" in page and "\n### pattern\n" not in page
    assert "| `ist` | [2406.12409](https://arxiv.org/abs/2406.12409) |" in page


def test_measuring_from_the_command_line(three, tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(mixer_costs, "measure_all", lambda names, say, anew: asked.append((list(names), anew)))
    assert main(["mixers", "--measure"]) == 0
    assert main(["mixers", "--measure", "--family", "latent"]) == 0
    assert main(["mixers", "--measure", "ist"]) == 0
    assert asked == [(["isab", "ist", "linear"], False), (["isab", "ist"], False), (["ist"], True)]
    assert main(["mixers", "--family", "latnet"]) == 2
    assert "did you mean 'latent'" in capsys.readouterr().err


def test_data_files_travel_in_wheels():
    package_data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    for path in (mixer_costs.MEASURED, mixer_table.GUIDE):
        assert path.exists() and any(path.match(pattern) for pattern in package_data["npexp.mixers"])
