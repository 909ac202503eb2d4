"""Epidemics: transitions against their definition, limits, which cells are seen, larger lattices."""

import numpy as np
import pytest
import torch
from scipy.ndimage import convolve

from datamodules import SIR
from datamodules.epidemic import simulate
from npexp.errors import ConfigError, UnknownNameError

SMALL = {"side": 8, "num_context": (20, 30), "num_target": (34, 34), "num_epidemics": 2, "batch_size": 4}


def run(start, beta, gamma, when, seed=0):
    """One epidemic or several at some times, with the probabilities of all of them."""
    start = np.asarray(start, np.uint8)
    rates = (np.full(len(start), p) for p in (beta, gamma))
    return simulate(np.random.default_rng(seed), start, *rates, np.tile(when, (len(start), 1)))


def naive(rng, start, beta, gamma, steps):
    """Cell by cell, by the definition, from the same random numbers: 16 bits of which the last four are dropped."""
    states, (num, side, _) = [start.tolist()], start.shape
    for _ in range(steps):
        size = num * (side + 2) ** 2
        draws = rng.integers(0, 2**64, -(-size // 4), np.uint64).view(np.uint16)[:size].reshape(num, side + 2, side + 2)
        now = [[row[:] for row in lattice] for lattice in states[-1]]
        for b in range(num):
            for i in range(side):
                for j in range(side):
                    u = (int(draws[b, i + 1, j + 1]) // 16) / 4096
                    around = [(i + di, j + dj) for di in (-1, 0, 1) for dj in (-1, 0, 1) if (di, dj) != (0, 0)]
                    inside = [(r, c) for r, c in around if 0 <= r < side and 0 <= c < side]
                    sick = sum(states[-1][b][r][c] == 1 for r, c in inside)
                    if (states[-1][b][i][j] == 0 and u < beta[b] * sick) or (states[-1][b][i][j] == 1 and u < gamma[b]):
                        now[b][i][j] += 1
        states.append(now)
    return np.array(states).swapaxes(0, 1)  # [b, steps + 1, side, side]


def test_steps_are_those_of_the_definition():
    start = np.zeros((3, 5, 5), np.uint8)
    start[[0, 1, 2], [0, 2, 4], [0, 2, 3]] = 1
    start[2, 4, 4] = 2
    beta, gamma = np.array([1024, 512, 4096]) / 4096, np.array([256, 1024, 2048]) / 4096
    when = np.tile(np.arange(9), (3, 1))
    fast = simulate(np.random.default_rng(1), start, beta, gamma, when)
    slow = naive(np.random.default_rng(1), start, beta, gamma, 8)
    assert np.array_equal(fast, slow)
    assert set(np.unique(fast)) == {0, 1, 2}


def test_frequencies_of_transitions():
    """Among many cells with k infected neighbours, min(1, beta k) are infected; gamma of the infected recover."""
    start = np.random.default_rng(2).choice(3, (1, 600, 600), p=[0.6, 0.3, 0.1]).astype(np.uint8)
    after = run(start, 0.2, 0.15, [1])[0, 0]
    ring = np.ones((3, 3), int)
    ring[1, 1] = 0
    sick = convolve((start[0] == 1).astype(int), ring, mode="constant")
    groups = [((start[0] == 0) & (sick == k), min(1, 0.2 * k)) for k in range(7)] + [(start[0] == 1, 0.15)]
    for group, probability in groups:
        found, num = (after != start[0])[group].mean(), group.sum()
        assert num > 100 and abs(found - probability) <= 2e-3 + 4 * np.sqrt(probability * (1 - probability) / num)
    assert np.array_equal(after[start[0] == 2], start[0][start[0] == 2])
    assert (after.astype(int) - start[0]).max() == 1  # nobody recovers in the step of their infection


def test_limits():
    start = np.zeros((2, 9, 9), np.uint8)
    start[:, 4, 4] = 1
    times = np.arange(6)
    alone = run(start, 0.0, 0.3, times)
    assert (alone > 0).sum((2, 3)).max() == 1
    kept = run(start, 0.3, 0.0, times)
    assert (kept < 2).all() and (np.diff((kept == 1).sum((2, 3))) >= 0).all() and (kept[:, -1] == 1).sum() > 2
    distance = abs(np.indices((9, 9)) - 4).max(0)
    certain = run(start, 1.0, 0.0, times)
    assert all(np.array_equal(certain[0, t] == 1, distance <= t) for t in times)  # also where 8 neighbours are infected
    brief = run(start, 1.0, 1.0, times)
    assert all(np.array_equal(brief[0, t] == 1, distance == t) for t in times)


def test_lattices_do_not_touch_and_times_may_come_in_any_order():
    start = np.zeros((3, 6, 6), np.uint8)
    start[1] = 1
    assert not run(start, 1.0, 0.0, [7, 2])[[0, 2]].any()
    start[1, 1:] = 0
    forward, backward = run(start, 0.3, 0.2, [1, 4, 4]), run(start, 0.3, 0.2, [4, 4, 1])
    assert np.array_equal(forward, backward[:, ::-1])
    assert (np.diff(forward.astype(int), axis=1) >= 0).all()  # nobody becomes susceptible again


def test_sizes_and_cells():
    dm = SIR()
    for index in range(4):
        batch = dm.make_batch("train", index).check()
        nc = batch.xc.shape[1]
        assert 128 <= nc <= 512 and batch.xt.shape == (16, 256, 2) and batch.yc.shape == (16, nc, 1)
        assert batch.mask_c is None and batch.oracle_joint is None
        cell = torch.cat([batch.xc, batch.xt], 1) * 16 + 31.5
        assert torch.equal(cell, cell.round()) and cell.min() == 0 and cell.max() == 63
        assert all(len(task.unique(dim=0)) == nc + 256 for task in cell)  # no cell twice
        assert set(batch.yt.unique().tolist()) <= {0.0, 1.0, 2.0}
    assert len({dm.make_batch("train", index).xc.shape[1] for index in range(4)}) > 1


def reconstruct(batch, side):
    """The lattices of a batch that shows all of their cells, each once."""
    x, y = torch.cat([batch.xc, batch.xt], 1), torch.cat([batch.yc, batch.yt], 1)[..., 0]
    row, column = (x * 16 + (side - 1) / 2).long().unbind(-1)
    lattices = torch.full((len(x), side, side), torch.nan)
    lattices[torch.arange(len(x))[:, None], row, column] = y
    return lattices.numpy()


def test_cells_show_the_epidemics():
    dm = SIR(**SMALL | {"num_context": (30, 30)}, num_steps=(0, 9))
    for index in range(5):
        lattices = reconstruct(dm.make_batch("train", index), 8).reshape(2, 2, 64)  # epidemics, times
        assert np.isfinite(lattices).all() and ((lattices > 0).sum(-1) >= 1).all()
        change = lattices[:, 1] - lattices[:, 0]  # one of the two is later, and nobody returns
        assert ((change >= 0).all(-1) | (change <= 0).all(-1)).all()
    fresh = [SIR(**SMALL | {"num_context": (30, 30)}, num_steps=(0, 0)).make_batch("train", i) for i in range(20)]
    first_cases = np.stack([reconstruct(batch, 8) for batch in fresh]).sum((2, 3))
    assert set(first_cases.ravel()) == {1, 2, 3, 4, 5}


def test_batches_are_pure_functions():
    dm, again = SIR(**SMALL), SIR(**SMALL, num_workers=1)
    assert torch.equal(dm.make_batch("train", 3).yt, again.make_batch("train", 3).yt)
    other = [dm.make_batch("train", 4), dm.make_batch("val", 3), SIR(**SMALL, seed=1).make_batch("train", 3)]
    assert all(not torch.equal(dm.make_batch("train", 3).xt, batch.xt) for batch in other)


def test_larger_lattices():
    dm = SIR(**SMALL | {"side": 64}, num_steps=(0, 0), test_sides=(96, 128), num_large=3)
    assert dm.test_names == ("test", "test_96", "test_128")
    assert dm.num_batches("test_128") == 3 and dm.num_batches("test") == 188
    batch = dm.make_batch("test_128", 2).check()
    assert batch.xc.shape == (1, 1562, 2) and batch.xt.shape[1] == 128**2 - 1562  # 100,000 in 1024 x 1024
    assert batch.xt.max() == 63.5 / 16  # equal distances between cells: the lattice reaches further
    lattice = reconstruct(batch, 128)
    assert np.isfinite(lattice).all() and lattice.sum() in {4, 8, 12, 16, 20}  # first cases: four times the area
    assert reconstruct(dm.make_batch("test_96", 0), 96).sum() in {2, 4, 6, 9, 11}
    with pytest.raises(ConfigError, match=r"index < 3 for split 'test_128'"):
        dm.make_batch("test_128", 3)
    with pytest.raises(UnknownNameError, match="test_96"):
        dm.make_batch("test_69", 0)


def test_cache_follows_the_settings(tmp_path):
    dm = SIR(**SMALL, num_val_batches=2, cache_dir=str(tmp_path))
    made = dm.eval_batches("val")
    kept = SIR(**SMALL, num_val_batches=2, cache_dir=str(tmp_path), steps_per_epoch=7)
    assert kept.cache_file("val") == dm.cache_file("val") and dm.cache_file("val").is_file()
    assert all(torch.equal(a.yt, b.yt) for a, b in zip(made, kept.eval_batches("val"), strict=True))
    for change in ({"beta": (0.1, 0.3)}, {"gamma": (0.2, 0.3)}, {"num_steps": (4, 5)}, {"num_epidemics": 4}):
        assert (
            SIR(**SMALL | change, num_val_batches=2, cache_dir=str(tmp_path)).cache_file("val")
            not in tmp_path.iterdir()
        )


def test_plot_tasks():
    tasks = SIR(**SMALL).plot_tasks(3)
    assert [task.batch.check().xc.shape[1] for task in tasks] == [22, 25, 28]
    for task in tasks:
        assert task.kind == "image" and task.image_shape == (8, 8) and torch.equal(task.truth, task.batch.yt)
        grid = task.batch.xt[0] * 16 + 3.5
        assert torch.equal(grid, torch.cartesian_prod(torch.arange(8.0), torch.arange(8.0)))  # rows one after the other
        row, column = (task.batch.xc[0] * 16 + 3.5).long().unbind(-1)
        assert torch.equal(task.truth.view(8, 8)[row, column], task.batch.yc[0, :, 0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"side": 3}, "side to be an integer, at least 4, got 3"),
        ({"side": 20}, "at most the 400 cells of a lattice, got 768 for context and targets"),
        ({"num_context": (128, 3841)}, "at most the 4096 cells of a lattice, got 4097"),
        ({"num_seeds": (1, 4097)}, "at most the 4096 cells of a lattice, got 4097 first cases"),
        ({"num_seeds": (1, 30), "test_sides": (5, 128)}, "at most the 25 cells of a lattice, got 30 first cases"),
        ({"num_seeds": (0, 5)}, "num_seeds as two integers, 1 <= low <= high"),
        ({"beta": (0.5, 0.1)}, r"beta as \[low, high\]"),
        ({"beta": (-0.1, 0.1)}, r"beta as \[low, high\] with 0.0 <= low"),
        ({"beta": (0.1, float("nan"))}, r"beta as \[low, high\]"),
        ({"gamma": (0.1, 1.5)}, r"gamma as probabilities, at most 1, got \(0.1, 1.5\)"),
        ({"gamma": (0.1,)}, r"gamma as \[low, high\]"),
        ({"num_steps": (-1, 5)}, "num_steps as two integers, 0 <= low <= high"),
        ({"num_steps": (9, 4)}, "num_steps as two integers"),
        ({"num_epidemics": 5}, "num_epidemics to divide batch_size, got 5 for 16 tasks"),
        ({"num_epidemics": 0}, "num_epidemics to be an integer, at least 1"),
        ({"test_sides": (128, 128)}, r"each of test_sides once, got \[128, 128\]"),
        ({"test_sides": (2,)}, "each of test_sides to be an integer, at least 4, got 2"),
        ({"num_large": 0}, "num_large to be an integer, at least 1"),
    ],
)
def test_bad_settings_are_typed_errors(settings, message):
    with pytest.raises(ConfigError, match=f"expected .*{message}.*: "):
        SIR(**settings)
