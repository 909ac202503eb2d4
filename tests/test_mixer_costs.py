"""Bytes of states, fitted slopes, and the measurement that fills the table."""

import sys

import pytest
import torch

import npexp
from npexp import mixer_costs
from npexp.errors import UnknownNameError
from npexp.mixer_costs import Cell, Slopes, measure_all, read_measured, slopes, state_bytes, write_measured
from npexp.mixers import base
from npexp.mixers.dense import Dense


def test_state_bytes():
    assert state_bytes("dense") == "512 n"  # keys and values of 64 float32 each
    assert state_bytes("perceiver") == f"{32 * 64 * 4:,}"


@pytest.mark.parametrize(
    ("size", "said"),
    [
        (lambda n: 3 * n + 1, "12 n + 4"),
        (lambda n: 3 * n - 1, "12 n - 4"),
        (lambda n: n // 4, "1 n"),
        (lambda n: 7, "28"),
        (lambda n: n * n, "about 4 n^2"),
        (lambda n: n // 256 * 256 + 256, "4 n + 1,024"),
    ],
)
def test_state_bytes_in_words(size, said, monkeypatch):
    class Hoard(Dense):
        def summarise(self, ctx, carry=None):
            return torch.zeros(1, size(ctx.h.shape[1])), carry

    monkeypatch.setitem(base._REGISTRY, "hoard", (Hoard, {}))
    assert state_bytes("hoard") == said


def test_slopes():
    cells = {n: Cell(2e-6 * n**1.5, 40 * n) for n in (1024, 2048, 4096, 8192)}
    assert slopes(cells) == Slopes(1.5, 1.0)
    noisy = {n: Cell(c.seconds * (1.1 if n % 3 else 1), c.bytes) for n, c in cells.items()}
    assert slopes(noisy).memory == 1.0 and slopes(noisy).time == pytest.approx(1.5, abs=0.1)
    assert slopes(dict(list(cells.items())[:2])) == Slopes(None, None)


@pytest.fixture
def fake(monkeypatch):
    """Measurements by formula; the list of what was measured."""
    done = []

    def measure(name, n):
        done.append((name, n))
        return Cell(1e-7 * n**2 if name == "dense" else 1e-6 * n, 100 * n)

    monkeypatch.setattr(mixer_costs, "measure", measure)
    return done


def test_measuring_goes_on_where_it_stopped(fake, tmp_path):
    path, said = tmp_path / "measured.csv", []
    measure_all(["linear"], said.append, path=path)
    assert [n for _, n in fake] == list(mixer_costs.SIZES) and len(said) == 5
    table = read_measured(path)
    assert slopes(table["linear"]) == Slopes(1.0, 1.0)
    del table["linear"][8192]
    write_measured(table, path)
    fake.clear()
    measure_all(["linear", "ist"], said.append, path=path)
    assert fake == [("linear", 8192), *(("ist", n) for n in mixer_costs.SIZES)]
    fake.clear()
    measure_all(["linear"], said.append, anew=True, path=path)
    assert len(fake) == 5 and set(read_measured(path)) == {"linear", "ist"}
    with pytest.raises(UnknownNameError):
        measure_all(["liner"], said.append, path=path)


def test_what_would_take_too_long_is_left_out(fake, tmp_path, monkeypatch):
    path, said = tmp_path / "measured.csv", []
    measure_all(["dense"], said.append, path=path)  # 26.8 s at 16,384
    assert list(read_measured(path)["dense"]) == [2048, 4096, 8192]
    assert said[-1] == "dense: 16384 points left out"
    monkeypatch.setattr(mixer_costs, "MAX_SECONDS", 1.0)
    measure_all(["dense"], said.append, anew=True, path=path)  # smaller ones make up for 4,096 and more
    assert list(read_measured(path)["dense"]) == [512, 1024, 2048]
    assert slopes(read_measured(path)["dense"]).time == 2.0
    monkeypatch.setattr(mixer_costs, "MAX_BYTES", 3e5)
    measure_all(["linear"], said.append, path=path)
    assert list(read_measured(path)["linear"]) == [512, 1024, 2048]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_measurement_sees_what_is_used():
    """Dense attention reads 4,096 points in linear memory: keys, values, queries and what they give."""
    cell = mixer_costs.measure("dense", 4096)
    each = 4096 * 64 * 4
    assert 3 * each < cell.bytes < 20 * each and 0 < cell.seconds < 20
    assert mixer_costs.measure("no_such_mixer", 64) is None


def test_only_mixers_that_exist_are_measured():
    table = read_measured()
    assert set(table) <= set(npexp.available_mixers())
    assert all(cell.seconds > 0 and cell.bytes > 0 for cells in table.values() for cell in cells.values())
