"""Sums around places against loops; attention biased by distance."""

import numpy as np
import pytest
import torch

from npexp.errors import ConfigError
from npexp.layers.basis import Basis
from npexp.layers.located import CHANNELS, RARE, REACH, LocatedMemory, LocatedStack, Near
from npexp.ops.tree import tree_map

DX, DY, K = 2, 2, 3


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def memory(num_locations=5):
    torch.manual_seed(0)
    return LocatedMemory(Basis(DX, 6), DX, DY, num_locations, K, dz=8).double()


def test_sums_against_a_loop():
    """Of y, x and 1, and of the learned channels, each weighed by exp(-d^2 / 2 s^2); padding holds nothing."""
    found, x, y = memory(), draw(2, 6, DX), draw(2, 6, DY, seed=1)
    mask = torch.arange(6) < torch.tensor([6, 4])[:, None]
    state = found.pool(x, y, mask)
    assert state.sums.shape == (2, K, 5, CHANNELS + DY + DX + 1) and state.count.tolist() == [6, 4]
    learned = found.values(torch.cat([x, found.basis.waves(x), y], -1)).detach().unflatten(-1, (K, CHANNELS)).numpy()
    widths, places = found.log_width.detach().exp().numpy(), found.places.detach().numpy()
    for b, n in ((0, 6), (1, 4)):
        for k in range(K):
            for m in range(5):
                total = np.zeros(CHANNELS + DY + DX + 1)
                for i in range(n):
                    weight = np.exp(-((x[b, i].numpy() - places[m]) ** 2).sum() / (2 * widths[k] ** 2))
                    total += weight * np.concatenate([learned[b, i, k], y[b, i], x[b, i], [1.0]])
                np.testing.assert_allclose(state.sums[b, k, m].detach(), total, rtol=1e-9, atol=1e-12)


def test_sums_of_two_sets_are_those_of_both():
    found, x, y = memory(), draw(2, 6, DX), draw(2, 6, DY, seed=1)
    both = tree_map(torch.add, found.pool(x[:, :2], y[:, :2]), found.pool(x[:, 2:], y[:, 2:]))
    for a, b in zip(both, found.pool(x, y), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    assert all((part == 0).all() for part in found.pool(x[:, :0], y[:, :0]))


def test_tokens_see_means_offsets_and_density():
    """With the embedding of what was pooled taken apart by hand."""
    found, x, y = memory(), draw(2, 6, DX), draw(2, 6, DY, seed=1)
    state = found.pool(x, y)
    sums = state.sums.detach().numpy()
    rho, places, widths = sums[..., -1:], found.places.detach().numpy(), found.log_width.detach().exp().numpy()
    mean = sums[..., : CHANNELS + DY] / (rho + RARE)
    away = (sums[..., -3:-1] - places * rho) / (rho + RARE) / widths[:, None, None]
    told = np.concatenate([mean, away, np.log(rho + 1e-3) / 3], -1).transpose(0, 2, 1, 3).reshape(2, 5, -1)
    expected = found.embed(torch.as_tensor(told)) + found.at(found.places[None])
    torch.testing.assert_close(found.tokens(state), expected)


@pytest.mark.parametrize(("num_locations", "side"), [(9, 3), (1, 1), (7, None)])
def test_places_start_on_a_lattice_or_spread_evenly(num_locations, side):
    places = memory(num_locations).places.detach().numpy()
    assert places.shape == (num_locations, DX) and np.abs(places).max() <= REACH + 1e-6
    if side:
        axis = np.linspace(-REACH, REACH, side) if side > 1 else np.zeros(1)
        np.testing.assert_allclose(
            places, np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2), atol=1e-6
        )
    else:
        assert len(np.unique(places.round(6), axis=0)) == num_locations


def test_bias_by_distance():
    near = Near(2, 0.5).double()
    widths = near.log_width.detach().exp().numpy()
    np.testing.assert_allclose(widths, [0.5, 2 * REACH], rtol=1e-6)  # from a step to the whole domain
    x, z = draw(2, 4, DX), draw(3, DX, seed=1)
    distance = ((x[:, :, None] - z) ** 2).sum(-1).numpy()
    expected = -distance[:, None] / (2 * widths[:, None, None] ** 2)
    np.testing.assert_allclose(near(x, z).detach(), expected, rtol=1e-9)


def test_rows_read_places_alone():
    """Rows of one task at places of it: alone or together, and blind to places that are infinitely far away."""
    torch.manual_seed(0)
    stack, z = LocatedStack(0.5, 2, 8, 2, 16).double(), draw(4, DX)
    tokens, h, x = draw(2, 4, 8), draw(2, 5, 8, seed=1), draw(2, 5, DX, seed=2)
    whole = stack(tokens, z, h, x)
    torch.testing.assert_close(whole[:, 2:3], stack(tokens, z, h[:, 2:3], x[:, 2:3]))
    far, moved = torch.cat([z, torch.full((1, DX), 1e6)]), torch.cat([tokens, draw(2, 1, 8, seed=3)], 1)
    torch.testing.assert_close(stack(moved, far.double(), h, x), whole)


def test_impossible_sizes():
    with pytest.raises(ConfigError, match="num_locations"):
        LocatedMemory(Basis(1, 4), 1, 1, 0, 1, 8)
    with pytest.raises(ConfigError, match="num_widths"):
        LocatedMemory(Basis(1, 4), 1, 1, 1, 0, 8)
    with pytest.raises(ConfigError, match="num_layers"):
        LocatedStack(0.5, 0, 8, 2, 16)
