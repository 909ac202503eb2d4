"""Each family against its closed form, written out once more in NumPy."""

import numpy as np
import pytest
import torch

from datamodules import RBF, FarFact, Matern, Mixed, Periodic, Product, SpectralMixture, Sum, WeaklyPeriodic
from datamodules.kernels import distances
from npexp.errors import ConfigError

LOW, HIGH = (0.3, 0.9), (0.5, 2.0)
FAMILIES = {
    "rbf": RBF(LOW, HIGH),
    "rbf_log": RBF(LOW, HIGH, log_uniform=True),
    "matern12": Matern(0.5, LOW, HIGH),
    "matern32": Matern(1.5, LOW, HIGH),
    "matern52": Matern(2.5, LOW, HIGH),
    "periodic": Periodic(HIGH, LOW, HIGH),
    "weakly_periodic": WeaklyPeriodic(HIGH, LOW, (0.4, 1.4), (0.2, 1.0)),
    "far_fact": FarFact(-0.4, 0.9, HIGH),
    "spectral_mixture": SpectralMixture(2, HIGH, LOW, HIGH),
    "sum": Sum([RBF(LOW, HIGH), Matern(0.5, LOW, HIGH)]),
    "product": Product([RBF(LOW, HIGH), Periodic(HIGH, LOW, LOW)]),
    "mixed": Mixed([RBF(LOW, HIGH), Matern(1.5, LOW, HIGH), Periodic(HIGH, LOW, HIGH)]),
}


def closed_form(kernel, u, x1, x2):
    """One task's covariance: `u` `[k]`, points `[n, d]` and `[m, d]`, all NumPy."""
    delta = x1[:, None] - x2[None]
    distance = np.sqrt((delta**2).sum(-1))

    def value(ends, number):
        low, high = ends
        return np.exp(np.log(low) + number * np.log(high / low)) if kernel.log_uniform else low + number * (high - low)

    match kernel:
        case RBF():
            return value(kernel.scale, u[1]) ** 2 * np.exp(-(distance**2) / (2 * value(kernel.lengthscale, u[0]) ** 2))
        case Matern():
            r = np.sqrt(2 * kernel.nu) * distance / value(kernel.lengthscale, u[0])
            polynomial = {0.5: 1, 1.5: 1 + r, 2.5: 1 + r + r**2 / 3}[kernel.nu]
            return value(kernel.scale, u[1]) ** 2 * polynomial * np.exp(-r)
        case Periodic():
            waves = (np.sin(np.pi * delta / value(kernel.period, u[0])) ** 2).sum(-1)
            return value(kernel.scale, u[2]) ** 2 * np.exp(-2 * waves / value(kernel.lengthscale, u[1]) ** 2)
        case WeaklyPeriodic():
            envelope = np.exp(-(distance**2) / (2 * value(kernel.lengthscale, u[0]) ** 2))
            inner = Periodic(kernel.period, kernel.periodic_lengthscale, kernel.scale)
            return envelope * closed_form(inner, u[2:], x1, x2)
        case SpectralMixture():
            q = kernel.num_components
            frequency, bandwidth = value(kernel.frequency, u[1 : 1 + q]), value(kernel.bandwidth, u[1 + q : 1 + 2 * q])
            weight = -np.log(1 - u[1 + 2 * q :])
            lag = delta[..., None]
            terms = np.exp(-2 * np.pi**2 * lag**2 * bandwidth**2) * np.cos(2 * np.pi * lag * frequency)
            return value(kernel.scale, u[0]) ** 2 * (terms @ (weight / weight.sum())).prod(-1)
        case FarFact():
            of1, of2 = (np.stack([(x <= -0.4) | (x > 0.9), x > -0.4], 1) for x in (x1[:, 0], x2[:, 0]))  # far, near
            return value(kernel.scale, u[0]) ** 2 * (of1.astype(float) @ of2.T)
        case Sum() | Product():
            first, second = kernel.kernels
            one, two = (
                closed_form(first, u[: first.num_hyper], x1, x2),
                closed_form(second, u[first.num_hyper :], x1, x2),
            )
            return one + two if isinstance(kernel, Sum) else one * two
        case Mixed():
            return closed_form(kernel.kernels[int(u[0] * len(kernel.kernels))], u[1:], x1, x2)


@pytest.mark.parametrize("dx", [1, 3])
@pytest.mark.parametrize("name", FAMILIES)
def test_closed_form(name, dx):
    kernel = FAMILIES[name]
    rng = np.random.default_rng(0)
    u, x1, x2 = rng.random((6, kernel.num_hyper)), rng.uniform(-2, 2, (6, 7, dx)), rng.uniform(-2, 2, (6, 5, dx))
    for a, b in ((x1, x2), (x1, x1)):
        result = kernel.covariance(torch.tensor(u), torch.tensor(a), torch.tensor(b))
        assert result.dtype == torch.float64 and not result.requires_grad
        expected = np.stack([closed_form(kernel, *task) for task in zip(u, a, b, strict=True)])
        np.testing.assert_allclose(result.numpy(), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dx", [1, 2, 3])
def test_distances_of_near_points_are_exact(dx):
    x1 = torch.linspace(-2, 2, 5 * dx, dtype=torch.float64).view(1, 5, dx)
    x2 = x1 + 1e-9 * torch.arange(1, 5 * dx + 1).view(1, 5, dx)
    delta = x1.numpy()[:, :, None] - x2.numpy()[:, None]
    for square, power in ((False, 1), (True, 2)):
        each = distances(x1, x2, last_dim_is_batch=True, square_dist=square)
        np.testing.assert_allclose(each, abs(np.moveaxis(delta, -1, 1)) ** power, rtol=1e-12)
        expected = np.sqrt((delta**2).sum(-1)) ** power
        np.testing.assert_allclose(distances(x1, x2, square_dist=square), expected, rtol=1e-12)


@pytest.mark.parametrize("name", FAMILIES)
def test_shared_points_and_any_batch_size(name):
    kernel = FAMILIES[name]
    u, x = torch.rand(9, kernel.num_hyper, dtype=torch.float64), torch.rand(1, 4, 2, dtype=torch.float64)
    shared = kernel.covariance(u, x, x)
    torch.testing.assert_close(shared, kernel.covariance(u, x.expand(9, 4, 2), x.expand(9, 4, 2)))
    torch.testing.assert_close(shared[4:5], kernel.covariance(u[4:5], x, x))


def test_hyperparameters_fill_their_ranges():
    u = torch.linspace(0, 1, 5, dtype=torch.float64)[:, None].expand(5, 2)
    x = torch.zeros(1, 1, 1, dtype=torch.float64)
    uniform, logarithmic = (RBF(scale=(0.5, 2.0), log_uniform=log).covariance(u, x, x).sqrt() for log in (False, True))
    torch.testing.assert_close(uniform[:, 0, 0], torch.linspace(0.5, 2, 5).double())
    torch.testing.assert_close(logarithmic[:, 0, 0].log2(), torch.linspace(-1, 1, 5).double())


def test_mixed_takes_every_family_equally_often():
    mixed = Mixed([RBF(scale=(s, s)) for s in (1.0, 2.0, 3.0)])
    u, x = torch.rand(3000, 3, dtype=torch.float64), torch.zeros(1, 1, 1, dtype=torch.float64)
    variances = mixed.covariance(u, x, x).flatten()
    assert [round(v) for v in variances.unique().tolist()] == [1, 4, 9]
    assert (torch.bincount(variances.round().long())[[1, 4, 9]] / 3000 - 1 / 3).abs().max() < 0.05


@pytest.mark.parametrize(
    "make",
    [
        lambda: RBF(lengthscale=(0.6, 0.1)),
        lambda: RBF(lengthscale=(0.0, 0.1)),
        lambda: RBF(scale=(0.1, 0.2, 0.3)),
        lambda: RBF(scale=(0.1, float("nan"))),
        lambda: Matern(nu=2.0),
        lambda: Periodic(period=(-1.0, 1.0)),
        lambda: SpectralMixture(num_components=0),
        lambda: Mixed([]),
        lambda: Sum([]),
    ],
)
def test_bad_settings_are_typed_errors(make):
    with pytest.raises(ConfigError, match=r"expected .* got"):
        make()
