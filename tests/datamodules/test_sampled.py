"""What sources share that draw every task anew: sizes, padding, numbers that differ."""

import numpy as np
import pytest
import torch

from datamodules import Sawtooth, Series, Shapes
from datamodules.sampled import assemble, distinct
from npexp.errors import ConfigError

SOURCES = [Sawtooth, Shapes, Series]
SMALL = {"num_context": (0, 9), "num_target": (2, 6), "max_points": 12}


def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("source", SOURCES)
def test_sizes(source):
    dm, seen = source(**SMALL), set()
    for index in range(100):
        batch = dm.make_batch("train", index).check()
        assert batch.num_tasks == 16 and batch.mask_c is None and batch.mask_t is None and batch.oracle_joint is None
        seen.add((batch.xc.shape[1], batch.xt.shape[1]))
    contexts = {nc for nc, _ in seen}
    assert contexts == set(range(10)) and {nt for _, nt in seen} == set(range(2, 7))
    assert max(nc + nt for nc, nt in seen) == 12


@pytest.mark.parametrize("source", SOURCES)
def test_ragged_sizes_and_padding(source):
    dm = source(**SMALL, ragged=True)
    for index in range(20):
        batch = dm.make_batch("train", index).check()
        assert len(set(batch.num_context.tolist())) > 1
        assert batch.num_context.max() <= 9 and batch.num_target.min() >= 2
        assert (batch.num_context + batch.num_target).max() <= 12
        for values, mask in ((batch.xc, batch.mask_c), (batch.yc, batch.mask_c), (batch.xt, batch.mask_t)):
            assert (values[~mask] == 0).all()
            assert (values[mask] != 0).float().mean() > 0.95


@pytest.mark.parametrize("source", SOURCES)
def test_batches_are_pure(source):
    one, two = source(), source()
    before = torch.get_rng_state()
    forward = [one.make_batch("train", i) for i in range(3)]
    backward = [two.make_batch("train", i) for i in (2, 1, 0)][::-1]
    for a, b in zip(forward, backward, strict=True):
        assert all(torch.equal(u, v) for u, v in zip(a[:4], b[:4], strict=True))
    assert torch.equal(before, torch.get_rng_state())
    others = [one.make_batch("val", 0), one.make_batch("test", 0), source(seed=1).make_batch("train", 0), forward[1]]
    assert not any(torch.equal(forward[0].xc[:, :2], b.xc[:, :2]) for b in others)


@pytest.mark.parametrize("source", SOURCES)
def test_evaluation_sets_are_cached(source, tmp_path):
    dm = source(cache_dir=str(tmp_path), num_val_batches=2, num_test_batches=1)
    dm.prepare_data()
    assert [len(dm.eval_batches(split)) for split in ("val", "test")] == [2, 1]
    assert dm.cache_file("val") != source(cache_dir=str(tmp_path)).cache_file("val")
    assert dm.traits["oracle"] is False and dm.traits["test_sets"] == ["test"]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(
    "settings",
    [
        {"num_context": (5, 3)},
        {"num_target": (0, 3)},
        {"num_context": (3, 46), "num_target": (3, 46), "max_points": 48},
        {"num_val_batches": 0},
        {"num_test_batches": 0},
        {"batch_size": 0},
    ],
)
def test_bad_settings_are_typed_errors(source, settings):
    with pytest.raises(ConfigError, match=r"expected .* got"):
        source(**settings)


def test_distinct_numbers():
    counts = np.array([5, 9, 30])
    chosen = distinct(rng(), counts, 5, None)
    assert chosen.shape == (3, 5) and all(len(set(row)) == 5 for row in chosen)
    assert sorted(chosen[0]) == list(range(5))  # all there are
    assert (chosen < counts[:, None]).all() and (chosen >= 0).all()


def test_distinct_numbers_are_uniform():
    generator = rng()
    chosen = distinct(generator, np.full(6000, 4), 2, None)
    pairs = np.bincount(chosen[:, 0] * 4 + chosen[:, 1], minlength=16).reshape(4, 4)
    assert (np.diag(pairs) == 0).all()
    assert abs(pairs[~np.eye(4, dtype=bool)] / 6000 - 1 / 12).max() < 0.015


def test_distinct_numbers_fill_real_slots_only():
    """As many slots as real points would not fit: only the real ones need numbers of their own."""
    mask = torch.tensor([[True, False, False, True, True], [False, True, True, True, False]])
    chosen = distinct(rng(), np.array([3, 3]), 5, mask)
    for row, real in zip(chosen, mask.numpy(), strict=True):
        assert sorted(row[real]) == [0, 1, 2]


def test_assemble():
    x, y = torch.arange(10.0).view(1, 5, 2), torch.arange(5.0).view(1, 5, 1)
    mask = torch.tensor([[True, False, True, True, False]])
    batch = assemble(x + torch.where(mask, 0, torch.nan)[..., None], y, 2, mask).check()
    assert batch.xc.tolist() == [[[0, 1], [0, 0]]] and batch.xt.tolist() == [[[4, 5], [6, 7], [0, 0]]]
    assert batch.yc.flatten().tolist() == [0, 0] and batch.yt.flatten().tolist() == [2, 3, 0]
    assert batch.mask_c.tolist() == [[True, False]] and batch.mask_t.tolist() == [[True, True, False]]
