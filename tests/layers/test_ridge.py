"""A ridge memory against exact Gaussian processes with the kernel noise^2 phi(x) D^2 phi(x)', in NumPy and scipy."""

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from sklearn.gaussian_process import kernels

from npexp.errors import ConfigError, UnknownNameError
from npexp.layers.basis import Basis
from npexp.layers.moments import Moments
from npexp.layers.ridge import (
    MATERN,
    MATERN_NOISE,
    MAX_LOG_SCALE,
    MIN_LOG_NOISE,
    MIN_LOG_WEIGHT,
    RidgeMemory,
    matern_log_amplitude,
)

B, NC, NT, M = 2, 7, 4, 9


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def memory(num_priors=1, num_refined=0, dy=1, **settings) -> RidgeMemory:
    """With priors and noise of each head's own; float64."""
    torch.manual_seed(0)
    settings = {"misfit": False, "dz": 4, "dim_hidden": 8, **settings}
    found = RidgeMemory(Basis(1, M), dy, num_priors, num_refined, **settings).double()
    with torch.no_grad():
        found.log_amplitude += 0.5 * torch.randn_like(found.log_amplitude)
        found.log_noise += torch.randn_like(found.log_noise)
    return found


def points(dy=1):
    return draw(B, NC, 1), draw(B, NC, dy, seed=1), draw(B, NT, 1, seed=2), draw(B, NT, dy, seed=3)


def prior(found, head, group=0):
    """Standard deviation of the noise, and of the weights."""
    log_amplitude, log_noise = (p[group, head].detach().numpy() for p in (found.log_amplitude, found.log_noise))
    log_noise = floored(log_noise)
    excess = MAX_LOG_SCALE - np.log1p(np.exp(MAX_LOG_SCALE - (log_amplitude - log_noise)))
    return np.exp(log_noise), np.exp(log_noise + excess)


def floored(log_noise):
    """The soft floor on the noise."""
    return MIN_LOG_NOISE + np.logaddexp(0, 10 * (log_noise - MIN_LOG_NOISE)) / 10


def gram(found, head, x, z, group=0):
    """Kernel matrix of one task."""
    weights = prior(found, head, group)[1]
    a, b = (found.basis(v[None])[0].detach().numpy() for v in (x, z))
    return (a * weights**2) @ b.T


def gaussian_process(found, head, x, y, z, group=0):
    """Means and covariances of outputs with their noise at z."""
    noise = prior(found, head, group)[0]
    inner = gram(found, head, x, x, group) + noise**2 * np.eye(len(x))
    cross = gram(found, head, z, x, group)
    covariance = gram(found, head, z, z, group) - cross @ np.linalg.solve(inner, cross.T)
    return cross @ np.linalg.solve(inner, y.numpy()), covariance + noise**2 * np.eye(len(z))


def log_marginal_likelihood(found, head, x, y, group=0):
    covariance = gram(found, head, x, x, group) + prior(found, head, group)[0] ** 2 * np.eye(len(x))
    return sum(multivariate_normal(np.zeros(len(x)), covariance).logpdf(column) for column in y.numpy().T)


def check_laws(found, experts, x, y, z, dy):
    for b in range(len(x)):
        for k in range(found.num_experts):
            mean, covariance = gaussian_process(found, k, x[b], y[b], z[b])
            np.testing.assert_allclose(experts.means[b, ..., k].detach(), mean, rtol=1e-7, atol=1e-8)
            stddev = np.sqrt(np.diag(covariance))[:, None].repeat(dy, 1)
            np.testing.assert_allclose(experts.log_stddevs[b, ..., k].detach().exp(), stddev, rtol=1e-7)


@pytest.mark.parametrize("dy", [1, 2])
def test_heads_are_gaussian_processes(dy):
    """Means, standard deviations, the whole covariance of the targets, and evidences, which sum over outputs."""
    found, (x, y, z, _) = memory(3, dy=dy), points(dy)
    solved = found.solve(found.pool(x, y))
    experts = found.read(solved, z, rows=True)
    check_laws(found, experts, x, y, z, dy)
    evidence = solved.bank.evidence.detach().numpy()
    for b in range(B):
        for k in range(3):
            noise, rows = prior(found, k)[0], experts.rows[b, k].detach().numpy()
            covariance = gaussian_process(found, k, x[b], y[b], z[b])[1]
            np.testing.assert_allclose(noise**2 * (rows @ rows.T + np.eye(NT)), covariance, rtol=1e-7, atol=1e-9)
        known = np.array([log_marginal_likelihood(found, k, x[b], y[b]) for k in range(3)])
        np.testing.assert_allclose(evidence[b], known + dy * NC * np.log(2 * np.pi) / 2, rtol=1e-9)
        weights = np.maximum(known - logsumexp(known), MIN_LOG_WEIGHT)
        np.testing.assert_allclose(solved.logits[b].detach(), weights, rtol=1e-7, atol=1e-9)  # gates start at 0


def test_padding_is_no_data():
    found, (x, y, z, _) = memory(2), points()
    mask = torch.arange(NC) < torch.tensor([NC, 3])[:, None]
    experts = found.read(found.solve(found.pool(x, torch.where(mask[..., None], y, 0.0), mask)), z)
    alone = found.read(found.solve(found.pool(x[1:, :3], y[1:, :3])), z[1:])
    check_laws(found, alone, x[1:, :3], y[1:, :3], z[1:], 1)
    for part, known in zip(experts, alone, strict=True):
        assert part is known is None or torch.allclose(part[1:], known, rtol=1e-9, atol=1e-10)


def test_no_points_leave_the_prior():
    found, (x, y, z, _) = memory(3), points()
    solved = found.solve(found.pool(x[:, :0], y[:, :0]))
    experts = found.read(solved, z)
    check_laws(found, experts, x[:, :0], y[:, :0], z, 1)
    assert (solved.bank.evidence == 0).all() and (experts.means == 0).all()


def test_misfit_widens_heads_that_are_surprised():
    """By the root of y' (K + noise^2)^-1 y / n where it exceeds 1, for each output alone."""
    (x, y, z, _), plain, wary = points(2), memory(2, dy=2), memory(2, dy=2, misfit=True)
    wary.load_state_dict(plain.state_dict())
    y = y * torch.tensor([0.1, 20.0])
    plain, wary = (m.read(m.solve(m.pool(x, y)), z) for m in (plain, wary))
    found, seen = memory(2, dy=2), set()
    for b in range(B):
        for k in range(2):
            inner = gram(found, k, x[b], x[b]) + prior(found, k)[0] ** 2 * np.eye(NC)
            for o in range(2):
                error = y[b, :, o].numpy() @ np.linalg.solve(inner, y[b, :, o].numpy()) / NC
                factor = np.sqrt(max(error, 1.0))
                ratio = (wary.log_stddevs - plain.log_stddevs)[b, :, o, k].detach().exp()
                np.testing.assert_allclose(ratio, np.full(NT, factor), rtol=1e-7)
                seen.add(factor > 1)
    assert seen == {True, False}
    torch.testing.assert_close(wary.means, plain.means)


@pytest.mark.parametrize("num_refined", [0, 2])
def test_outputs_with_priors_of_their_own_are_memories_of_their_own(num_refined):
    (x, y, z, _), both = points(2), memory(2, num_refined, dy=2, shared_noise=False, misfit=True)
    experts = both.read(both.solve(both.pool(x, y)), z)
    for o in range(2):
        one = memory(2, num_refined, misfit=True)
        with torch.no_grad():
            one.log_amplitude.copy_(both.log_amplitude[o : o + 1])
            one.log_noise.copy_(both.log_noise[o : o + 1])
        alone = one.read(one.solve(one.pool(x, y[..., o : o + 1])), z)
        for name in ("logits", "means", "log_stddevs", "log_scales", "mean", "log_stddev"):
            torch.testing.assert_close(getattr(experts, name)[:, :, o : o + 1], getattr(alone, name))


def test_inferred_priors_start_as_means_of_the_learned_ones_by_evidence():
    found, (x, y, z, _) = memory(3, 2), points()
    solved = found.solve(found.pool(x, y))
    for b in range(B):
        known = np.array([log_marginal_likelihood(found, k, x[b], y[b]) for k in range(3)])
        weight = np.exp(np.maximum(known - logsumexp(known), MIN_LOG_WEIGHT))
        weight /= weight.sum()
        twin = memory(5)
        with torch.no_grad():
            twin.log_amplitude[0, :3], twin.log_noise[0, :3] = found.log_amplitude[0], found.log_noise[0]
            twin.log_amplitude[0, 3:] = torch.as_tensor(weight @ found.log_amplitude[0].numpy())
            twin.log_noise[0, 3:] = weight @ floored(found.log_noise[0].numpy())
        one, own = slice(b, b + 1), found.read(solved, z)
        expected = twin.read(twin.solve(twin.pool(x[one], y[one])), z[one])
        check_laws(twin, expected, x[one], y[one], z[one], 1)
        torch.testing.assert_close(own.means[one], expected.means)
        torch.testing.assert_close(own.logits[one], expected.logits)


def test_conditioning_is_capped():
    """Whatever the parameters: prior over noise at most e^4, noise at least e^-4.6."""
    found, (x, y, *_) = memory(2), points()
    with torch.no_grad():
        found.log_amplitude.fill_(100.0)
        found.log_noise[0, 0] = -100.0
        found.log_noise[0, 1] = 30.0
    bank = found.solve(found.pool(x, y)).bank
    assert bank.scale.max() <= np.exp(MAX_LOG_SCALE) and bank.scale.min() > 0.99 * np.exp(MAX_LOG_SCALE)
    np.testing.assert_allclose(bank.log_noise.detach(), [[MIN_LOG_NOISE, 30.0]] * B)


def test_solutions_are_float64_where_no_gradient_is_needed():
    found, (x, y, z, _) = memory(3, 2), points()
    found.load_state_dict({name: p.float().double() for name, p in found.state_dict().items()})
    exact = found.read(found.solve(found.pool(x, y)), z).means.detach()
    found.float()
    for gradient, dtype, tolerance in ((False, torch.float64, 1e-5), (True, torch.float32, 1e-2)):
        with torch.set_grad_enabled(gradient):
            solved = found.solve(found.pool(x, y))
            means = found.read(solved, z).means
        assert solved.bank.weights.dtype == dtype and means.dtype == torch.float32
        torch.testing.assert_close(means.double(), exact, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("accumulate", "gradient"), [("float32", False), ("float32", True), ("float64", True)])
def test_very_many_points(accumulate, gradient):
    """Rounding of sums over many points exceeds what wide priors add to them; those in float32 narrow the priors."""
    torch.manual_seed(0)
    basis, n = Basis(1, 32), 30_000
    x = 4 * torch.rand(1, n, 1) - 2
    y = (3 * x).sin() + 0.1 * torch.randn(1, n, 1)
    z = torch.linspace(-1.9, 1.9, 9)[None, :, None]
    memories = [RidgeMemory(basis, 1, 2, 0, 4, 8, accumulate=a) for a in ("float64", accumulate)]
    for m in memories:
        m.log_amplitude.data.fill_(20.0)
    with torch.no_grad():
        exact = memories[0].read(memories[0].solve(memories[0].pool(x, y)), z)
        state = memories[1].pool(x, y)
        more = Moments(*(100 * part for part in state))  # as if each had come a hundred times
    with torch.set_grad_enabled(gradient):
        for sums in (state, more):
            found = memories[1].read(memories[1].solve(sums), z)
            assert (found.means - exact.means).abs().max() < 0.02
    assert state.gram.dtype == getattr(torch, accumulate)


def test_impossible_memories(untyped):
    with pytest.raises(UnknownNameError, match="unknown dtype 'float16'"):
        RidgeMemory(Basis(1, 4), 1, accumulate="float16")
    with pytest.raises(ConfigError, match="num_priors"):
        RidgeMemory(Basis(1, 4), 1, num_priors=0)
    with pytest.raises(ConfigError, match="num_refined"):
        RidgeMemory(Basis(1, 4), 1, num_refined=-1)


@pytest.mark.parametrize(("dx", "cycles"), [(1, None), (1, [100.0]), (2, None), (2, [200.0, 100.0])])
def test_robust_priors_are_matern_functions(dx, cycles):
    """Waves with these amplitudes have the Matérn-5/2 covariance, but for what lies beyond their frequencies."""
    torch.manual_seed(0)
    basis = Basis(dx, {1: 257, 2: 60001}[dx], cycles=cycles)
    with torch.no_grad():
        x = draw(5, dx).clamp(-1, 1)
        phi = basis(x[None])[0].double()
        for (length, scale), row in zip(MATERN, matern_log_amplitude(basis).double(), strict=True):
            if length < 0.2:  # needs more waves
                continue
            expected = scale**2 * kernels.Matern(length, nu=2.5)(x.numpy())
            found = (phi * (2 * row).exp()) @ phi.T
            np.testing.assert_allclose(found, expected, atol={1: 0.01, 2: 0.06}[dx] * scale**2)


def test_robust_heads_are_not_learned():
    found = memory(num_priors=2, num_refined=1, robust=True)
    x, y, xt, _ = points()
    solved = found.solve(found.pool(x, y))
    assert solved.bank.evidence.shape == (B, 2 + len(MATERN) + 1) == (B, found.num_experts)
    stddev = (found.matern[3].exp() / MATERN_NOISE).numpy()
    torch.testing.assert_close(
        solved.bank.log_noise[:, 2:10].exp(), torch.full((B, 8), MATERN_NOISE).double(), rtol=1e-3, atol=0
    )
    assert (solved.bank.scale[0, 5].detach().numpy() <= stddev * 1.001).all()
    found.read(solved, xt).means.sum().backward()
    assert found.log_amplitude.grad.shape == (1, 2, M) and "matern" not in dict(found.named_parameters())
    with pytest.raises(ConfigError, match="expected basis 'fourier' for robust priors, got 'mlp'"):
        RidgeMemory(Basis(1, M, "mlp"), 1, robust=True)


@pytest.mark.parametrize("m", [8, 9])
def test_stationary_heads_are_processes_of_differences(m):
    """Their kernel is a sum of cosines of differences; the last of an even number of features has no partner."""
    torch.manual_seed(0)
    found = RidgeMemory(Basis(1, m), 1, 1, 0, 4, 8, misfit=False, stationary=True).double()
    with torch.no_grad():
        found.log_amplitude += 0.5 * torch.randn_like(found.log_amplitude)
    k, (x, y, z, _) = m // 2, points()
    log_amplitude, noise = found.log_amplitude[0, 0].detach().numpy(), np.exp(floored(found.log_noise.item()))
    pairs = m - 1 - k
    log_pairs = (log_amplitude[:pairs] + log_amplitude[k:-1]) / 2
    excess = np.array([*log_pairs, log_amplitude[-1]]) - np.log(noise)
    *power, still = (noise * np.exp(MAX_LOG_SCALE - np.log1p(np.exp(MAX_LOG_SCALE - excess)))) ** 2
    waves = found.basis.frequencies[:pairs, 0].detach().numpy()

    def kernel(a, b):
        return still + np.cos((a - b.T)[..., None] * waves) @ np.array(power)

    experts = found.read(found.solve(found.pool(x, y)), z)
    for xb, yb, zb, mean, log_stddev in zip(
        x.numpy(), y.numpy(), z.numpy(), experts.means, experts.log_stddevs, strict=True
    ):
        solve = np.linalg.solve(kernel(xb, xb) + noise**2 * np.eye(NC), np.concatenate([yb, kernel(xb, zb)], 1))
        np.testing.assert_allclose(mean[:, 0, 0].detach(), kernel(zb, xb) @ solve[:, 0], rtol=1e-7, atol=1e-8)
        variance = np.diag(kernel(zb, zb) - kernel(zb, xb) @ solve[:, 1:]) + noise**2
        np.testing.assert_allclose(log_stddev[:, 0, 0].detach().exp(), np.sqrt(variance), rtol=1e-7)


def test_only_waves_are_stationary():
    with pytest.raises(ConfigError, match="expected basis 'fourier' for stationary priors, got 'mlp'"):
        RidgeMemory(Basis(1, M, "mlp"), 1, stationary=True)
