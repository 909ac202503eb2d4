"""Moments against a loop over points."""

import numpy as np
import torch

from npexp.layers.moments import moments, symmetric


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_moments_against_a_loop():
    phi, y, mask = draw(3, 6, 4), draw(3, 6, 2, seed=1), torch.arange(6) < torch.tensor([6, 3, 0])[:, None]
    y = torch.where(mask[..., None], y, 0.0)
    whole, some = moments(phi, y), moments(torch.where(mask[..., None], phi, torch.nan), y, mask)
    for sums, sizes in ((whole, [6, 6, 6]), (some, [6, 3, 0])):
        gram = symmetric(sums.gram, 4)
        assert sums.gram.shape == (3, 10) and sums.count.tolist() == sizes
        for b, n in enumerate(sizes):
            g, s, total, square = np.zeros((4, 4)), np.zeros((4, 2)), np.zeros(2), np.zeros(2)
            for f, v in zip(phi[b, :n].numpy(), y[b, :n].numpy(), strict=True):
                g, s, total, square = g + np.outer(f, f), s + np.outer(f, v), total + v, square + v**2
            for found, expected in ((gram, g), (sums.cross, s), (sums.total, total), (sums.square, square)):
                np.testing.assert_allclose(found[b], expected, atol=1e-12)


def test_no_points():
    assert all((part == 0).all() for part in moments(draw(2, 0, 3), draw(2, 0, 1)))


def test_the_triangle_is_stored_row_by_row():
    expected = [[1.0, 2.0, 4.0], [2.0, 3.0, 5.0], [4.0, 5.0, 6.0]]
    assert symmetric(torch.arange(1.0, 7.0)[None], 3)[0].tolist() == expected
