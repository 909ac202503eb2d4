"""Joint normal densities against scipy and against their naive twin."""

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from npexp.ops.gaussian import low_rank_log_prob, low_rank_log_prob_naive, lower_factor, triangular_log_prob


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize(("n", "r"), [(1, 1), (1, 3), (7, 1), (7, 3), (7, 7), (3, 9)])
def test_low_rank_density_against_scipy_and_twin(n, r):
    residual, factor, stddev = draw(2, n), draw(2, n, r, seed=1), draw(2, n, seed=2).abs() + 0.1
    for v in (residual, factor, stddev):
        v.requires_grad_()
    fast = low_rank_log_prob(residual, factor, stddev)
    slow = torch.stack([low_rank_log_prob_naive(*parts) for parts in zip(residual, factor, stddev, strict=True)])
    torch.testing.assert_close(fast, slow, rtol=1e-9, atol=1e-9)
    for i in range(2):
        h, d = factor[i].detach().numpy(), stddev[i].detach().numpy()
        expected = multivariate_normal(np.zeros(n), h @ h.T + np.diag(d**2)).logpdf(residual[i].detach().numpy())
        assert fast[i].item() == pytest.approx(expected, rel=1e-9)
    gradients = [torch.autograd.grad(f.sum(), (residual, factor, stddev)) for f in (fast, slow)]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-7)


def test_low_rank_density_of_some_entries():
    residual, factor, stddev = draw(5), draw(5, 2, seed=1), draw(5, seed=2).abs() + 0.1
    mask = torch.tensor([True, False, True, True, False])
    part = low_rank_log_prob(residual[mask], factor[mask], stddev[mask])
    torch.testing.assert_close(low_rank_log_prob(residual, factor, stddev, mask), part)


def test_low_rank_density_in_float32():
    """A residual that the factor explains leaves a small number behind two large ones, which float32 must not lose."""
    n, r = 200, 4
    factor, z, noise = 50 * draw(n, r, seed=1), draw(r, seed=2), draw(n, seed=3)
    stddev = torch.full((n,), 0.01, dtype=torch.float64)
    residual = (factor @ z + stddev * noise).float()
    exact = low_rank_log_prob_naive(residual.double(), factor.float().double(), stddev.float().double())
    torch.testing.assert_close(
        low_rank_log_prob(residual, factor.float(), stddev.float()), exact.float(), rtol=1e-5, atol=0
    )


@pytest.mark.parametrize("n", [1, 6])
def test_triangular_density_against_scipy(n):
    factor, residual = draw(2, n, n, seed=1).tril(), draw(2, n)  # diagonals of either sign
    got = triangular_log_prob(residual, factor)
    for i in range(2):
        covariance = (factor[i] @ factor[i].T).numpy()
        expected = multivariate_normal(np.zeros(n), covariance, allow_singular=True).logpdf(residual[i].numpy())
        assert got[i].item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 4), (3, 3), (3, 8)])
def test_lower_factor(n, m):
    rows = draw(2, n, m)
    factor = lower_factor(rows)
    assert torch.equal(factor, factor.tril())
    torch.testing.assert_close(factor @ factor.mT, rows @ rows.mT)
