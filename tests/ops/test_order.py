"""The canonical order, against Python's own sort."""

import pytest
import torch

from npexp.ops.order import canonical_order, curve_key, target_rank


def points(n=20, dx=1, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randint(-2, 3, (1, n, dx), generator=g).double() / 2  # many ties
    return x, torch.randint(0, 3, (1, n, 1), generator=g).double()


@pytest.mark.parametrize("dx", [1, 2, 3])
def test_sorts_by_key_then_content(dx):
    x, y = points(dx=dx)
    order = canonical_order(x, y)[0]
    key = curve_key(x)[0]
    rows = [(float(key[i]), *x[0, i].tolist(), *y[0, i].tolist()) for i in range(20)]
    assert [rows[i] for i in order] == sorted(rows)


@pytest.mark.parametrize("dx", [1, 2, 3])
def test_every_permutation_gives_one_layout(dx):
    x, y = points(dx=dx)
    order = canonical_order(x, y)[0]
    for seed in range(5):
        p = torch.randperm(20, generator=torch.Generator().manual_seed(seed))
        again = canonical_order(x[:, p], y[:, p])[0]
        assert torch.equal(x[:, p][:, again], x[:, order]) and torch.equal(y[:, p][:, again], y[:, order])


def test_padding_comes_last():
    x, y = points()
    mask = torch.arange(20)[None] % 3 != 0
    order = canonical_order(x, y, mask)
    assert mask[0, order[0]].tolist() == [True] * 13 + [False] * 7
    real = x[0, order[0, :13], 0]
    assert (real.diff() >= 0).all()


def test_morton_interleaves_bits():
    """Cells (i, j) next to the origin, against the codes written out by hand."""
    cell = 2.0**-10
    x = torch.tensor([[[0.0, 0.0], [cell, 0.0], [0.0, cell], [cell, cell], [2 * cell, 0.0]]], dtype=torch.float64)
    codes = curve_key(x)[0]
    assert (codes - codes[0]).tolist() == [0, 1, 2, 3, 4]


def test_adding_a_point_keeps_the_rest_in_order():
    x, _y = points(dx=2)
    keys = curve_key(x)
    outlier = torch.cat([x, torch.full((1, 1, 2), 1e3, dtype=torch.float64)], 1)
    assert torch.equal(curve_key(outlier)[:, :20], keys)


def test_target_rank_counts():
    keys = torch.tensor([[0.0, 1.0, 1.0, 2.0, 99.0]])  # the last one is padding
    rank = target_rank(keys, torch.tensor([[-1.0, 0.0, 1.0, 1.5, 100.0]]), torch.tensor([4]))
    assert rank.tolist() == [[-0.5, 0.5, 2.5, 2.5, 3.5]]


@pytest.mark.parametrize("dx", [2, 5, 8])
def test_cells_tell_ordinary_inputs_apart(dx):
    """The box of the curve reaches to 8 on every side, however few bits there are for an axis."""
    x = torch.linspace(-7.5, 7.5, 4)[:, None].expand(-1, dx)[None]
    assert len(curve_key(x).unique()) == 4
