"""What the listings print."""

import json

import pytest

import npexp
from npexp import commands, cost, registry
from npexp.cli import main
from npexp.commands import print_listing


@pytest.fixture
def two(monkeypatch):
    """As if there were two models only."""
    monkeypatch.setattr(registry, "names", lambda group: ["cnp", "tnp"] if group == "model" else [])


def test_models_as_json(two, capsys):
    assert main(["models", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["cnp", "tnp"] and found["tnp"]["state_bytes"] is None
    expected = cost.measure(npexp.build("cnp", dx=1, dy=1))
    assert expected._asdict().items() <= found["cnp"].items() and found["cnp"]["update"] == "exact"
    plain = npexp.available_models()
    assert plain == {name: {k: v for k, v in row.items() if k not in cost.Cost._fields} for name, row in found.items()}


def test_models_as_a_table(two, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 120
    assert lines[2].split() == ["state", "flops", "flops", "flops"]
    heading = ["name", "parameters", "bytes", "update", "predict", "target", "update", "remove", "cost", "traits"]
    assert lines[3].split() == heading
    assert lines[5].split()[:8] == ["cnp", "116,354", "528", "99.5k", "98.7k", "33.9k", "exact", "exact"]
    assert lines[6].split()[1:3] == ["220,994", "-"] and lines[6].split()[3].endswith("G")
    assert "after 1,000 points where the state grows" in " ".join(lines)
    assert cost.POINTS == 1000 and set(commands.COSTS) == set(cost.Cost._fields)


def test_numbers_of_three_digits(capsys):
    values = [0, 7, 999, 1000, 1049, 9_999, 999_499, 999_500, 12_345_678, 182_942_614_218]
    print_listing("", {f"n{i}": {"flops_update": v} for i, v in enumerate(values)})
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    found = [row[1] for row in rows if row and row[0].startswith("n") and row[0] != "name"]
    assert found == ["0", "7", "999", "1k", "1.05k", "10k", "999k", "1M", "12.3M", "183G"]


@pytest.mark.parametrize("width", [20, 60, 120])
def test_no_word_is_cut_off(width, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    entries = {
        "a_name": {"size": 12_345, "cost": "unimaginable nc^2", "odd": True},
        "b": {"size": 1, "cost": "nc", "odd": False},
    }
    print_listing("", entries)
    words = capsys.readouterr().out.split()
    assert {"a_name", "12,345", "unimaginable", "nc^2", "size", "cost", "traits"} <= set(words)
