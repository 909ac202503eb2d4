"""Ridge regressions against a naive twin, NumPy and scikit-learn; gradients against finite differences and float64."""

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.linear_model import Ridge as KnownRidge

import npexp.ops.ridge as module
from npexp.errors import DivergenceError
from npexp.ops.ridge import ridge, ridge_naive, ridge_rows, triangular_inverse

B, K, M, N, DY = 2, 3, 5, 9, 2


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def problem(b=B, k=K, m=M, n=N, dy=DY):
    """Features, outputs, their moments, and prior scales of very different sizes."""
    phi, y = draw(b, n, m), draw(b, n, dy, seed=1)
    return phi, y, phi.mT @ phi, phi.mT @ y, (2 * draw(b, k, m, seed=2)).exp()


def waves(n, m, dtype=torch.float64):
    """Cosines and sines at crowded inputs: neighbouring columns are almost the same."""
    x = 4 * torch.rand(2, n, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 2
    angle = x * torch.arange(1, (m + 1) // 2 + 1) * 2 * torch.pi / 5.5
    return torch.cat([angle.cos(), angle.sin()], -1)[..., :m].to(dtype)


@pytest.mark.parametrize("m", [1, 5, 19, 36])
def test_against_the_twin(m):
    """Also more features than points."""
    phi, _, gram, cross, scale = problem(m=m)
    found = ridge(gram, cross, scale)
    rows = ridge_rows(gram, scale, found.whiten, phi)
    for b in range(B):
        for k in range(K):
            weights, log_det, covariance = ridge_naive(gram[b], cross[b], scale[b, k])
            torch.testing.assert_close(found.weights[b, k], weights, rtol=1e-7, atol=1e-8)
            torch.testing.assert_close(found.log_det[b, k], log_det, rtol=1e-9, atol=1e-9)
            expected = phi[b] @ covariance @ phi[b].T
            torch.testing.assert_close(rows[b, k] @ rows[b, k].T, expected, rtol=1e-7, atol=1e-8)


def test_against_scikit_learn_and_the_evidence_in_function_space():
    """Weights of a ridge regression of rescaled features; log |A| from the marginal law of the outputs."""
    phi, y, gram, cross, scale = (v.numpy() for v in problem())
    found = ridge(*(torch.as_tensor(v) for v in (gram, cross, scale)))
    for b in range(B):
        for k in range(K):
            known = KnownRidge(alpha=1.0, fit_intercept=False, solver="svd").fit(phi[b] * scale[b, k], y[b])
            np.testing.assert_allclose(found.weights[b, k].T, known.coef_ * scale[b, k], rtol=1e-8)
            noise, one = 0.3, y[b, :, 0]
            covariance = noise**2 * (np.eye(N) + (phi[b] * scale[b, k] ** 2) @ phi[b].T)
            left = one @ one - cross[b, :, 0] @ found.weights[b, k, :, 0].numpy()
            evidence = -left / (2 * noise**2) - found.log_det[b, k].item() / 2
            evidence -= N * np.log(noise * np.sqrt(2 * np.pi))
            assert evidence == pytest.approx(multivariate_normal(np.zeros(N), covariance).logpdf(one), rel=1e-9)


def test_no_points_leave_the_prior():
    phi, _, gram, cross, scale = problem()
    found = ridge(0 * gram, 0 * cross, scale)
    assert (found.weights == 0).all() and (found.log_det == 0).all()
    rows = ridge_rows(0 * gram, scale, found.whiten, phi)
    torch.testing.assert_close(rows.square().sum(-1), (phi[:, None] * scale[:, :, None]).square().sum(-1))


def test_gradients_against_finite_differences():
    phi, _, gram, cross, _ = problem(m=4, n=6)
    scale = (0.5 * draw(B, K, 4, seed=2)).exp()
    inputs = [v.clone().requires_grad_() for v in (gram, cross, scale, phi)]

    def solve(gram, cross, scale):
        return ridge(0.5 * (gram + gram.mT), cross, scale)[:2]

    def covariance(gram, cross, scale, phi):
        gram = 0.5 * (gram + gram.mT)
        rows = ridge_rows(gram, scale, ridge(gram, cross, scale).whiten, phi)
        return rows @ rows.mT

    assert torch.autograd.gradcheck(solve, inputs[:3])
    assert torch.autograd.gradcheck(covariance, inputs)


def loss_and_gradients(dtype, n, m, falls_to):
    """A log-likelihood-like function of all results, in this precision, of data that are the same to the last bit."""
    phi, y = waves(n, m, torch.float32), draw(2, n, 1, seed=1, dtype=torch.float32)
    log_scale = torch.linspace(4, falls_to, m).expand(2, 2, m).to(dtype).requires_grad_()
    gram, cross = (phi.double().mT @ v.double() for v in (phi, y))
    gram, cross, phi = (v.to(dtype).requires_grad_() for v in (gram, cross, phi))
    found = ridge(0.5 * (gram + gram.mT), cross, log_scale.exp())
    rows = ridge_rows(0.5 * (gram + gram.mT), log_scale.exp(), found.whiten, phi)
    mean = phi[:, None] @ found.weights
    variance = rows.square().sum(-1, keepdim=True).add(1)
    loss = ((y[:, None].to(dtype) - mean).square() / variance + variance.log()).mean() + 0.01 * found.log_det.mean()
    loss.backward()
    return loss.detach().double(), [v.grad.double() for v in (gram, cross, log_scale, phi)]


@pytest.mark.parametrize("falls_to", [4.0, -6.0])
def test_float32_gradients_of_hard_systems(falls_to):
    """Priors up to the cap e^4 and 46 points of 33 waves: the condition number of A is about 1e5."""
    (low, by_low), (high, by_high) = (loss_and_gradients(d, 46, 33, falls_to) for d in (torch.float32, torch.float64))
    assert low.item() == pytest.approx(high.item(), rel=2e-3)
    for a, b in zip(by_low, by_high, strict=True):
        assert (a - b).norm() < 0.05 * b.norm()


@pytest.mark.parametrize("rounded", [False, True])
def test_many_points_in_float32(rounded):
    """Ten million points at e^4: D G D is 1e11, and float32 finds no factor of A; nor does float64 of a rounded G."""
    phi = waves(200, 33)[:1]
    gram, scale = (phi.mT @ phi) * 5e4, torch.full((1, 1, 33), 4.0).exp()
    cross = gram @ draw(1, 33, 1, seed=3)
    a = scale.square() * gram.float() + torch.eye(33)
    assert bool(torch.linalg.cholesky_ex(a)[1].any()), "an easy one, after all"
    if rounded:
        with pytest.raises(DivergenceError, match="of no data at all"):
            ridge(gram.float(), cross.float(), scale)
        return
    found, exact = ridge(gram, cross, scale), ridge(gram, cross, scale.double())
    assert found.weights.dtype == found.log_det.dtype == found.whiten.dtype == torch.float32
    assert found.log_det.item() == pytest.approx(exact.log_det.item(), rel=1e-5)
    fit, known = (phi @ w[:, 0].double() for w in (found.weights, exact.weights))
    assert (fit - known).norm() < 1e-3 * known.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_numbers_that_are_not_finite_are_refused(which, bad, dtype):
    _, _, *parts = (v.to(dtype) for v in problem())
    parts[which][1, 0, 0] = bad
    with pytest.raises(DivergenceError, match="not finite"):
        ridge(*parts)


@pytest.mark.parametrize("m", [1, 2, 16, 17, 18, 33, 35, 64, 71])
def test_triangular_inverse(m):
    root = draw(2, 3, m, m).tril(-1) / m + torch.eye(m) + draw(2, 3, m, seed=1).square().diag_embed()
    inverse = triangular_inverse(root)
    torch.testing.assert_close(root @ inverse, torch.eye(m, dtype=torch.float64).expand_as(root))
    torch.testing.assert_close(inverse, torch.linalg.inv(root))
    assert (inverse.triu(1) == 0).all()


def test_flushing_tiny_gradients_changes_nothing_measurable(monkeypatch):
    """Outputs whose gradients span 60 orders of magnitude, with and without."""

    def gradients():
        _, _, gram, cross, scale = (v.requires_grad_() for v in problem())
        found = ridge(gram, cross, scale)
        weight = torch.logspace(0, -60, found.weights.numel(), dtype=torch.float64).view_as(found.weights)
        rows = ridge_rows(gram, scale, found.whiten, draw(B, N, M, seed=4))
        last = torch.logspace(0, -60, N, dtype=torch.float64)[:, None]
        ((found.weights * weight).sum() + (rows.square() * last).sum()).backward()
        return gram.grad, cross.grad, scale.grad

    with_it = gradients()
    monkeypatch.setattr(module, "_flush", lambda gradient: gradient)
    for a, b in zip(with_it, gradients(), strict=True):
        assert (a - b).abs().max() < 1e-12 * b.abs().max()
