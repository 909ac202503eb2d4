"""Lattices whose axes differ, against brute force."""

import itertools

import pytest
import torch

from npexp.errors import ConfigError, DataError
from npexp.layers.product_lattice import ProductLattice, per_axis

DOMAIN = [[0.0, 4.0], [-1.0, 1.0], [0.0, 360.0]]
SPACE_TIME = ProductLattice.dense(3, DOMAIN, [1.5, 2.0, 1 / 60], [False, False, True])


def inputs(n=40):
    low, high = torch.tensor(DOMAIN, dtype=torch.float64).unbind(-1)
    x = low + (high - low) * torch.rand(2, n, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[0, 0], x[0, 1] = low + 1e-6, high - 1e-6
    return x


def test_each_axis_has_its_own_size():
    assert SPACE_TIME.shape == (7, 5, 6)  # the circle has as many points as steps
    assert SPACE_TIME.num_points == 210 and SPACE_TIME.dx == 3
    assert ProductLattice.dense(2, [-2.0, 2.0], 2.0).shape == (9, 9)
    assert ProductLattice.dense(2, [-2.0, 2.0], 2.0, multiple=(4, 1)).shape == (12, 9)


@pytest.mark.parametrize("k", [1, 2, 3, 4, 9])
def test_neighbours_are_the_nearest_along_each_axis(k):
    x = inputs()
    found = SPACE_TIME.neighbours(x, k)
    for task, point in itertools.product(range(2), range(x.shape[1])):
        near = []
        for i, axis in enumerate(SPACE_TIME.axes):
            apart = (x[task, point, i] - axis.start) / axis.spacing - torch.arange(axis.size, dtype=x.dtype)
            if SPACE_TIME.periodic[i]:
                apart = (apart + axis.size / 2) % axis.size - axis.size / 2
            near.append({int(j): float(apart[j]) for j in apart.abs().argsort()[:k]})
        expected = {(a * 5 + b) * 6 + c: (near[0][a], near[1][b], near[2][c]) for a, b, c in itertools.product(*near)}
        index, offset = found.index[task, point].tolist(), found.offset[task, point]
        assert len(index) == len(expected) == min(k, 7) * min(k, 5) * min(k, 6)
        for j, row in zip(index, offset, strict=True):
            # half a circle away there are two ways around
            apart = (row - torch.tensor(expected[j], dtype=x.dtype)).abs()
            assert torch.minimum(apart, (apart - torch.tensor([0.0, 0.0, 6.0], dtype=x.dtype)).abs()).max() < 1e-9


def test_both_ends_of_a_circle_are_one_place():
    x = torch.tensor([[[1.0, 0.0, 0.0], [1.0, 0.0, 360.0]]], dtype=torch.float64)
    index, offset = SPACE_TIME.neighbours(x, 3)
    assert torch.equal(index[0, 0], index[0, 1]) and torch.equal(offset[0, 0], offset[0, 1])


def test_inputs_outside_are_refused_by_their_own_axis():
    x, mask = inputs(), torch.ones(2, 40, dtype=torch.bool)
    x[1, 3, 1] = 1.5
    with pytest.raises(DataError, match=r"context x .*\[-1, 1\], got 1.5 at task 1, point 3, column 1.*wider `domain`"):
        SPACE_TIME.check("context", x, mask)
    mask[1, 3] = False
    SPACE_TIME.check("context", x, mask)


def test_impossible_lattices_are_refused():
    with pytest.raises(ConfigError, match=r"periodic axis to hold a whole number of steps.*change points_per_unit"):
        ProductLattice.dense(1, [0.0, 1.0], 2.5, True)
    with pytest.raises(ConfigError, match="multiple of 3"):
        ProductLattice.dense(1, [0.0, 4.0], 1.0, True, (3,))
    with pytest.raises(ConfigError, match="domain to be one value, or a list of dx=2"):
        ProductLattice.dense(2, [[0.0, 1.0]] * 3, 1.0)
    with pytest.raises(ConfigError, match="low < high"):
        ProductLattice.dense(2, [[0.0, 1.0], [1.0, 0.0]], 1.0)
    with pytest.raises(ConfigError, match="points_per_unit > 0"):
        ProductLattice.dense(1, [0.0, 1.0], 0.0)
    with pytest.raises(ConfigError, match="dx of 1, 2 or 3"):
        ProductLattice.dense(4, [0.0, 1.0], 1.0)


def test_one_value_serves_all_axes():
    assert per_axis("window", 4, 2) == (4, 4) and per_axis("window", [4, 2], 2) == (4, 2)
    assert per_axis("domain", (0.0, 1.0), 2, nested=True) == ((0.0, 1.0), (0.0, 1.0))
