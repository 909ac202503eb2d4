"""Functions that change their character: covariances written out once more in NumPy, and what they imply."""

import numpy as np
import pytest
import torch

from datamodules import RBF, ChangePoint, Coregionalised, Gibbs, GPData, Matern
from npexp.errors import ConfigError


def points(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).uniform(-2, 2, shape))


@pytest.mark.parametrize("dx", [1, 2, 3])
def test_gibbs_closed_form(dx):
    """The general formula of Paciorek and Schervish, with matrices, for Sigma(x) = l(x)^2 I."""
    kernel = Gibbs((0.2, 1.5), (1.0, 6.0), (0.5, 2.0))
    u, x1, x2 = torch.rand(3, 5, dtype=torch.float64), points(3, 6, dx), points(3, 4, dx, seed=1)
    result = kernel.covariance(u, x1, x2)
    for task in range(3):
        a, b = (0.2 * 7.5 ** u[task, i].item() for i in (0, 1))
        period, phase, scale = 6 ** u[task, 2].item(), u[task, 3].item(), 0.5 + 1.5 * u[task, 4].item()

        def lengthscale(x, a=a, b=b, period=period, phase=phase):
            return a * (b / a) ** ((1 + np.mean(np.sin(2 * np.pi * (x / period + phase)))) / 2)

        for i, first in enumerate(x1[task].numpy()):
            for j, second in enumerate(x2[task].numpy()):
                one, two = (lengthscale(x) ** 2 * np.eye(dx) for x in (first, second))
                middle = (one + two) / 2
                square = (first - second) @ np.linalg.inv(middle) @ (first - second)
                front = (np.linalg.det(one) * np.linalg.det(two)) ** 0.25 / np.linalg.det(middle) ** 0.5
                assert result[task, i, j].item() == pytest.approx(scale**2 * front * np.exp(-square / 2), abs=1e-12)


@pytest.mark.parametrize("dx", [1, 2])
def test_gibbs_is_a_covariance_and_rbf_where_the_lengthscale_is_constant(dx):
    u, x = torch.rand(20, 5, dtype=torch.float64), points(20, 30, dx)
    assert torch.linalg.eigvalsh(Gibbs().covariance(u, x, x)).min() > -1e-10
    constant = Gibbs((0.4, 0.4)).covariance(u, x, x)
    torch.testing.assert_close(constant, RBF((0.4, 0.4)).covariance(u[:, 3:], x, x), atol=1e-8, rtol=0)


def test_shared_points_serve_all_functions():
    u, x = torch.rand(4, 9, dtype=torch.float64), points(1, 5, 1)
    for kernel in (Gibbs(), ChangePoint(RBF(), Matern(), width=(0.1, 0.2))):
        hyper = u[:, : kernel.num_hyper]
        torch.testing.assert_close(
            kernel.covariance(hyper, x, x), kernel.covariance(hyper, x.expand(4, 5, 1), x.expand(4, 5, 1))
        )


def test_a_break_makes_both_sides_independent():
    before, after = RBF((0.5, 0.5), (1.0, 1.0)), Matern(0.5, (0.3, 0.3), (2.0, 2.0))
    kernel = ChangePoint(before, after, (0.25, 0.25))
    x = points(3, 40, 2)
    u = torch.rand(3, 6, dtype=torch.float64)
    result = kernel.covariance(u, x, x)
    late = x[..., 0] > 0.25
    expected = torch.where(late[:, :, None] & late[:, None], after.covariance(u[:, 4:], x, x), 0.0)
    expected += torch.where(~late[:, :, None] & ~late[:, None], before.covariance(u[:, 2:4], x, x), 0.0)
    torch.testing.assert_close(result, expected, atol=1e-12, rtol=0)


def test_a_gradual_change_is_a_sum_of_faded_functions():
    one, two = RBF((0.5, 0.5), (1.0, 1.0)), Matern(1.5, (0.3, 0.3), (2.0, 2.0))
    u, x1, x2 = torch.rand(3, 6, dtype=torch.float64), points(3, 7, 1), points(3, 5, 1, seed=1)
    result = ChangePoint(one, two, (-1.0, 1.0), (0.1, 0.5)).covariance(u, x1, x2).numpy()
    for task in range(3):
        place, width = 2 * u[task, 0].item() - 1, 0.1 + 0.4 * u[task, 1].item()
        s1, s2 = (1 / (1 + np.exp(-(x[task].numpy() - place) / width)) for x in (x1, x2))
        zero = torch.zeros(1, 2, dtype=torch.float64)
        k1, k2 = (k.covariance(zero, x1[task : task + 1], x2[task : task + 1])[0].numpy() for k in (one, two))
        np.testing.assert_allclose(result[task], (1 - s1) * k1 * (1 - s2).T + s1 * k2 * s2.T, atol=1e-12)


def test_locations_fill_their_range():
    """Between two points the correlation is lost exactly when the break is between them: a third of the tasks."""
    kernel = ChangePoint(RBF((1e3, 1e3), (1.0, 1.0)), RBF((1e3, 1e3), (1.0, 1.0)), (-1.5, 1.5))
    u = torch.rand(6000, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = torch.tensor([[[-0.5], [0.5]]], dtype=torch.float64)
    apart = kernel.covariance(u, x, x)[:, 0, 1] < 0.5
    assert apart.double().mean().item() == pytest.approx(1 / 3, abs=0.025)


def test_changes_of_several_outputs():
    pair = Coregionalised(RBF(), (0.9, 0.9))
    kernel = ChangePoint(pair, Coregionalised(Matern(), (-0.9, -0.9)), width=(0.0, 0.3))
    u, x = torch.rand(5, kernel.num_hyper, dtype=torch.float64), points(5, 6, 1)
    result = kernel.covariance(u, x, x)
    assert kernel.num_outputs == 2 and result.shape == (5, 12, 12) and torch.linalg.eigvalsh(result).min() > -1e-10
    assert GPData(kernel).make_batch("train", 0).check().yt.shape[2] == 2


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Gibbs(lengthscale=(0.0, 1.0)), "lengthscale as"),
        (lambda: Gibbs(period=(2.0, 1.0)), "period as"),
        (lambda: Gibbs(scale=(1.0,)), "scale as"),
        (lambda: ChangePoint(RBF(), Coregionalised(RBF())), "kernels of ChangePoint with as many outputs each"),
        (lambda: ChangePoint(RBF(), RBF(), location=(1.0, 0.0)), "location as"),
        (lambda: ChangePoint(RBF(), RBF(), width=(-0.1, 0.0)), "width as"),
    ],
)
def test_bad_settings_are_typed_errors(make, message):
    with pytest.raises(ConfigError, match=f"expected {message}"):
        make()
