"""Two outputs: the law of the samples and every oracle, against scipy and against one output at a time."""

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from datamodules import LMC, RBF, Coregionalised, GPData, Matern, Mixed, Product, Sum
from datamodules.oracle import bayes_oracle, factor, gp_predictive, scores, whiten
from npexp.batch import TaskBatch
from npexp.errors import ConfigError

LENGTH, SCALE, NOISE = 0.5, 0.8, 0.1
ONE = RBF((LENGTH, LENGTH), (SCALE, SCALE))
SIZES = {"num_context": (5, 5), "num_target": (4, 4), "max_points": None, "noise": NOISE}


def fixed(r):
    return Coregionalised(ONE, (r, r))


def covariance(x, r, noise=NOISE):
    """K kron B and noise, point after point, by numpy alone: x is `[n, dx]`."""
    k = SCALE**2 * np.exp(-0.5 * ((x[:, None] - x[None]) ** 2).sum(-1) / LENGTH**2)
    return np.kron(k, np.array([[1, r], [r, 1]])) + noise**2 * np.eye(2 * len(x))


def test_covariance_is_a_kronecker_product():
    x = torch.rand(3, 6, 2, dtype=torch.float64) * 4 - 2
    u = torch.rand(3, 3, dtype=torch.float64)
    kernel = Coregionalised(ONE, (-0.5, 1.0))
    for a, b in ((x, x), (x[:, :4], x[:, 4:])):
        result = kernel.covariance(u, a, b)
        for task, hyper in zip(range(3), u, strict=True):
            r = -0.5 + 1.5 * hyper[-1].item()
            expected = np.kron(ONE.covariance(u[:, :2], a, b)[task], [[1, r], [r, 1]])
            np.testing.assert_allclose(result[task], expected, atol=1e-12)


@pytest.mark.parametrize("dx", [1, 2])
@pytest.mark.parametrize("r", [-0.9, 0.0, 0.7])
def test_oracles_of_delivered_tasks_are_those_of_scipy(r, dx):
    batch = GPData(fixed(r), dx=dx, **SIZES).make_batch("train", 0).check()
    assert batch.yc.shape == (16, 5, 2) and batch.oracle_marginal.shape == (16, 4)
    for task in range(4):
        x = torch.cat([batch.xc[task], batch.xt[task]]).double().numpy()
        y = torch.cat([batch.yc[task], batch.yt[task]]).double().numpy()
        full = covariance(x, r)

        def log_density(points, y=y, full=full):
            rows = [2 * p + o for p in points for o in (0, 1)]
            return multivariate_normal.logpdf(y[points].ravel(), np.zeros(len(rows)), full[np.ix_(rows, rows)])

        context = list(range(5))
        joint = log_density(list(range(9))) - log_density(context)
        assert batch.oracle_joint[task].item() == pytest.approx(joint, abs=1e-4)
        each = [log_density([*context, 5 + i]) - log_density(context) for i in range(4)]
        np.testing.assert_allclose(batch.oracle_marginal[task], each, atol=1e-4)


def test_independent_outputs_are_two_functions_of_one():
    """Without correlation every score is the sum of those of one output, which have tests of their own."""
    batch = GPData(fixed(0.0), **SIZES).make_batch("train", 0)
    u = torch.zeros(16, 2, dtype=torch.float64)
    chol = factor(ONE, u, torch.cat([batch.xc, batch.xt], 1).double(), NOISE)
    y = torch.cat([batch.yc, batch.yt], 1).double()
    first, second = (scores(chol, whiten(chol, y[..., o]), 5) for o in (0, 1))
    torch.testing.assert_close(batch.oracle_joint, (first.joint + second.joint).float(), atol=1e-4, rtol=0)
    torch.testing.assert_close(batch.oracle_marginal, (first.marginal + second.marginal).float(), atol=1e-4, rtol=0)


def test_samples_have_the_covariance_of_their_law():
    settings = {**SIZES, "num_context": (1, 1), "num_target": (1, 1), "batch_size": 20_000}
    batch = GPData(Coregionalised(ONE, (-0.2, 0.9)), **settings).make_batch("train", 0)
    here, there = batch.yc[:, 0], batch.yt[:, 0]
    near = torch.exp(-0.5 * (batch.xc - batch.xt)[:, 0, 0].square() / LENGTH**2)
    for products, expected in (
        (here.square(), SCALE**2 + NOISE**2),
        (here.prod(1), 0.35 * SCALE**2),  # the mean correlation is 0.35
        (here * there, SCALE**2 * near.mean()),
        (here * there.flip(1), 0.35 * SCALE**2 * near.mean()),
    ):
        each = products.flatten()
        assert (each.mean() - expected).abs() < 5 * each.std() / len(products) ** 0.5


def test_ragged_tasks_are_those_alone():
    kernel = fixed(0.6)
    dm = GPData(kernel, ragged=True, num_context=(0, 6), num_target=(1, 4), max_points=None, noise=NOISE)
    batch = dm.make_batch("train", 0).check()
    for i in range(16):
        c, t = batch.mask_c[i], batch.mask_t[i]
        x = torch.cat([batch.xc[i, c], batch.xt[i, t]])[None].double()
        y = torch.cat([batch.yc[i, c], batch.yt[i, t]]).flatten()[None].double()
        chol = factor(kernel, torch.zeros(1, 3, dtype=torch.float64), x, NOISE)
        alone = scores(chol, whiten(chol, y), int(c.sum()), dy=2)
        torch.testing.assert_close(batch.oracle_joint[i], alone.joint[0].float(), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(batch.oracle_marginal[i, t], alone.marginal[0].float(), atol=1e-4, rtol=1e-4)
        assert (batch.oracle_marginal[i, ~t] == 0).all()


def test_predictive_is_that_of_conditioning():
    r, batch = 0.8, GPData(fixed(0.8), **SIZES).make_batch("train", 0)
    u = torch.zeros(16, 3, dtype=torch.float64)
    mean, stddev = gp_predictive(fixed(r), u, batch.xc, batch.yc, batch.xt, NOISE)
    padded = [torch.cat([v, torch.full_like(v[:, :2], torch.nan)], 1) for v in (batch.xc, batch.yc)]
    mask = torch.arange(7).expand(16, 7) < 5
    again = gp_predictive(fixed(r), u, *padded, batch.xt, NOISE, mask)
    torch.testing.assert_close(again, (mean, stddev))
    for task in range(3):
        full = covariance(torch.cat([batch.xc[task], batch.xt[task]]).double().numpy(), r)
        gain = np.linalg.solve(full[:10, :10], full[:10, 10:])
        np.testing.assert_allclose(mean[task].flatten(), batch.yc[task].double().flatten().numpy() @ gain, atol=1e-6)
        variance = np.diag(full[10:, 10:] - full[10:, :10] @ gain)
        np.testing.assert_allclose(stddev[task].flatten() ** 2, variance, atol=1e-8)


def test_bayes_oracle_integrates_over_the_correlation():
    low, high, points = -0.9, 0.9, 400
    dm = GPData(Coregionalised(ONE, (low, high)), **SIZES, batch_size=3)
    batch = dm.make_batch("train", 0)
    best = bayes_oracle(dm.kernel, batch, NOISE, num_draws=256)
    for task in range(3):
        x = torch.cat([batch.xc[task], batch.xt[task]]).double().numpy()
        y = torch.cat([batch.yc[task], batch.yt[task]]).double().numpy().ravel()
        grid = low + (high - low) * (np.arange(points) + 0.5) / points

        def log_density(n, x=x, y=y, grid=grid):
            laws = (covariance(x, r)[: 2 * n, : 2 * n] for r in grid)
            return logsumexp([multivariate_normal.logpdf(y[: 2 * n], np.zeros(2 * n), law) for law in laws])

        assert best.joint[task].item() == pytest.approx(log_density(9) - log_density(5), abs=1e-3)
        assert best.marginal[task, 0].item() == pytest.approx(log_density(6) - log_density(5), abs=1e-3)


def test_a_batch_alone_is_that_of_the_oracle():
    dm = GPData(Coregionalised(RBF()), **SIZES, batch_size=2)
    batch = dm.make_batch("train", 0)
    ceiling = dm.bayes_oracle("train", num_batches=2, num_draws=64, num_scrambles=2)
    assert np.isfinite(ceiling.joint.mean) and np.isfinite(ceiling.marginal.mean)
    assert isinstance(batch, TaskBatch) and dm.traits["dy"] == 2


def test_plot_tasks():
    for task in GPData(fixed(0.5), **SIZES).plot_tasks(2):
        batch = task.batch.check()
        assert batch.yc.shape == (1, 5, 2) and task.truth.shape == task.mean.shape == batch.yt.shape == (1, 200, 2)
        assert (batch.yt - task.truth).std() == pytest.approx(NOISE, rel=0.2)
        assert ((batch.yt - task.mean) / task.stddev).square().mean() < 4
        assert (task.mean[0, :, 0] - task.mean[0, :, 1]).abs().max() > 1e-3
    assert {task.kind for task in GPData(fixed(0.5), dx=2).plot_tasks(2)} == {"parity"}


def test_families_of_two_outputs_compose():
    pair, rough = Coregionalised(RBF()), Coregionalised(Matern(0.5))
    x = torch.rand(4, 5, 1, dtype=torch.float64)
    for family in (Sum([pair, rough]), Product([pair, rough]), Mixed([pair, rough])):
        assert family.num_outputs == 2
        result = family.covariance(torch.rand(4, family.num_hyper, dtype=torch.float64), x, x)
        assert result.shape == (4, 10, 10) and torch.linalg.eigvalsh(result).min() > -1e-9
        assert GPData(family).make_batch("train", 0).check().yt.shape[2] == 2


@pytest.mark.parametrize("dy", [1, 2, 4])
def test_linear_model_is_a_sum_of_kronecker_products(dy):
    families, x = [RBF(), Matern(0.5), RBF((2.0, 2.0))], torch.rand(3, 6, 2, dtype=torch.float64) * 4 - 2
    kernel = LMC(families, dy, weight=(-1.0, 2.0), own=(0.1, 0.4))
    u = torch.rand(3, kernel.num_hyper, dtype=torch.float64)
    for a, b in ((x, x), (x[:, :4], x[:, 4:])):
        result = kernel.covariance(u, a, b)
        for task in range(3):
            expected, rest = 0, u[task]
            for family in families:
                shared, own = -1 + 3 * rest[:dy].numpy(), 0.1 + 0.3 * rest[dy : 2 * dy].numpy()
                k = family.covariance(rest[None, 2 * dy : 2 * dy + 2], a[task : task + 1], b[task : task + 1])[0]
                expected = expected + np.kron(k.numpy(), np.outer(shared, shared) + np.diag(own))
                rest = rest[2 * dy + 2 :]
            assert len(rest) == 0
            np.testing.assert_allclose(result[task], expected, atol=1e-12)


def test_oracles_of_three_outputs_are_those_of_scipy():
    kernel = LMC([ONE], 3, weight=(0.7, 0.7), own=(0.2, 0.2))
    batch = GPData(kernel, **SIZES).make_batch("train", 0).check()
    assert batch.yc.shape == (16, 5, 3)
    x = torch.cat([batch.xc, batch.xt], 1)[0].double().numpy()
    y = torch.cat([batch.yc, batch.yt], 1)[0].double().numpy()
    k = SCALE**2 * np.exp(-0.5 * ((x[:, None] - x[None]) ** 2).sum(-1) / LENGTH**2)
    full = np.kron(k, np.full((3, 3), 0.49) + 0.2 * np.eye(3)) + NOISE**2 * np.eye(27)

    def log_density(n):
        return multivariate_normal.logpdf(y[:n].ravel(), np.zeros(3 * n), full[: 3 * n, : 3 * n])

    assert batch.oracle_joint[0].item() == pytest.approx(log_density(9) - log_density(5), abs=1e-4)
    assert batch.oracle_marginal[0, 0].item() == pytest.approx(log_density(6) - log_density(5), abs=1e-4)


def test_one_family_without_own_parts_is_the_intrinsic_model():
    """Weights 1 and nothing of their own: outputs are one function, as with correlation 1."""
    x, u = torch.rand(2, 4, 1, dtype=torch.float64), torch.rand(2, 6, dtype=torch.float64)
    linear = LMC([RBF()], 2, weight=(1.0, 1.0), own=(0.0, 0.0)).covariance(u, x, x)
    intrinsic = Coregionalised(RBF(), (1.0, 1.0)).covariance(u[:, [4, 5, 0]], x, x)
    torch.testing.assert_close(linear, intrinsic)


@pytest.mark.parametrize(
    "make",
    [
        lambda: LMC([]),
        lambda: LMC([RBF(), Coregionalised(RBF())]),
        lambda: LMC([Coregionalised(RBF())]),
        lambda: LMC([RBF()], num_outputs=0),
        lambda: LMC([RBF()], weight=(1.0, 0.0)),
        lambda: LMC([RBF()], own=(-0.1, 0.0)),
        lambda: GPData(LMC([RBF()], 3), test_kernels={"two": LMC([RBF()], 2)}),
        lambda: Coregionalised(RBF(), (-1.1, 0.0)),
        lambda: Coregionalised(RBF(), (0.0, 1.1)),
        lambda: Coregionalised(RBF(), (0.5, 0.0)),
        lambda: Coregionalised(Coregionalised(RBF())),
        lambda: Sum([RBF(), Coregionalised(RBF())]),
        lambda: Mixed([Coregionalised(RBF()), RBF()]),
        lambda: GPData(Coregionalised(RBF()), test_kernels={"one": RBF()}),
    ],
)
def test_bad_settings_are_typed_errors(make):
    with pytest.raises(ConfigError, match=r"expected .* got"):
        make()
