"""Basis functions against the Fourier series written out in NumPy."""

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from npexp.errors import ConfigError, UnknownNameError
from npexp.layers.basis import PERIOD, Basis


@pytest.mark.parametrize("m", [2, 3, 8, 9])
def test_one_dimension_starts_as_a_fourier_series(m):
    """Cosines, then sines, then the constant; the last wave of an even m lacks its sine."""
    x = torch.linspace(-2, 2, 7, dtype=torch.float64)[None, :, None]
    angle = x.numpy() * 2 * np.pi * np.arange(1, m // 2 + 1) / PERIOD
    expected = np.concatenate([np.cos(angle), np.sin(angle)], -1)[..., : m - 1]
    phi = Basis(1, m).double()(x).detach().numpy()
    assert phi.shape == (1, 7, m)
    np.testing.assert_allclose(phi[..., :-1], expected, atol=1e-6)  # frequencies were made in float32
    assert (phi[..., -1] == 1).all()


def test_waves_of_several_dimensions():
    """cos(w'x) and sin(w'x) with frequencies in a ball whose volume grows with their number."""
    torch.manual_seed(0)
    basis, x = Basis(3, 17).double(), torch.randn(2, 5, 3, dtype=torch.float64)
    w = basis.frequencies.detach().numpy()
    assert w.shape == (8, 3) and (np.linalg.norm(w, axis=-1) <= 2 * np.pi / PERIOD * 8 ** (1 / 3) + 1e-6).all()
    expected = np.concatenate([np.cos(x.numpy() @ w.T), np.sin(x.numpy() @ w.T)], -1)
    np.testing.assert_allclose(basis.waves(x).detach(), expected, atol=1e-12)


def test_waves_may_be_faster_along_some_axes():
    torch.manual_seed(0)
    unit = 2 * np.pi / PERIOD
    found = Basis(2, 401, cycles=[30.0, 0.5]).frequencies.detach().numpy() / unit
    radius = np.linalg.norm(found / [30, 0.5], axis=1)  # uniform in every direction of an ellipse
    assert radius.max() <= 1 + 1e-6 and kstest(radius, "uniform").pvalue > 1e-3
    angle = np.arctan2(found[:, 1] / 0.5, found[:, 0] / 30)
    assert kstest(angle, "uniform", args=(-np.pi, 2 * np.pi)).pvalue > 1e-3
    np.testing.assert_allclose(Basis(1, 9, cycles=[8.0]).frequencies[:, 0].detach() / unit, [2, 4, 6, 8], rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_features_do_not_depend_on_how_many_points_come_at_a_time(dtype):
    """To the last bit, in the dtype of x whatever the parameters', so that what was added can be taken away."""
    basis, x = Basis(2, 16), torch.randn(1, 40, 2, dtype=dtype)
    whole = basis(x)
    assert whole.dtype == dtype
    assert torch.equal(whole, torch.cat([basis(x[:, i : i + 1]) for i in range(40)], 1))


@pytest.mark.parametrize("kind", ["mlp", "fourier_mlp"])
def test_learned_features(kind):
    torch.manual_seed(0)
    basis, x = Basis(2, 6, kind, dim_hidden=8), torch.randn(2, 5, 2)
    phi = basis(x.double())
    rows = x if kind == "mlp" else torch.cat([x, basis.waves(x)], -1)
    assert phi.shape == (2, 5, 6) and phi.dtype == torch.float64
    torch.testing.assert_close(phi[..., :-1].float(), basis.network(rows))
    assert (phi[..., -1] == 1).all()


def test_impossible_bases(untyped):
    with pytest.raises(ConfigError, match="num_features to be an integer, at least 2"):
        Basis(1, 1)
    with pytest.raises(UnknownNameError, match="unknown basis 'fourrier'; did you mean 'fourier'"):
        Basis(1, 8, "fourrier")
    for cycles in ([3.0], [3.0, 0.0]):
        with pytest.raises(ConfigError, match="expected cycles with a positive number for each of 2 axes"):
            Basis(2, 8, cycles=cycles)
