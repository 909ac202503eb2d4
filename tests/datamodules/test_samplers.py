"""Fast samplers: each is a linear map of white noise, so the identity pushed through it gives its exact covariance."""

import numpy as np
import pytest
import torch
from scipy.linalg import expm

from datamodules import (
    RBF,
    Circulant,
    Coregionalised,
    FarFact,
    Gibbs,
    Markov,
    Matern,
    Mixed,
    Periodic,
    RandomFeatures,
    SpectralMixture,
    Sum,
    markov,
)
from datamodules.loader import generator
from datamodules.samplers import features
from npexp.errors import ConfigError, DataError


def law(kernel, u, x):
    """The covariance that a family asks for, `[b, n, n]`, at points `[b, n, dx]`."""
    x = torch.from_numpy(np.asarray(x, dtype=float))
    return kernel.covariance(torch.from_numpy(u), x, x).numpy()


@pytest.mark.parametrize("order", [1, 2, 3])
def test_transitions_are_those_of_the_differential_equation(order):
    """The matrix exponential of the companion form, and covariances as differences of the stationary one."""
    drift = np.diag(np.ones(order - 1), 1)
    drift[-1] = {1: [-1], 2: [-1, -2], 3: [-1, -3, -3]}[order]
    tau = np.array([0.1, 1.0, 3.0, markov.FAR])
    step, spread = markov.transitions(order, tau)
    stationary = spread[-1]
    assert stationary[0, 0] == pytest.approx(1) and (step[-1] == 0).all()
    balance = drift @ stationary + stationary @ drift.T  # minus the noise, which drives the last derivative only
    assert np.abs(balance[:-1]).max(initial=0) < 1e-12 and balance[-1, -1] < 0
    for i in range(3):
        np.testing.assert_allclose(step[i], expm(drift * tau[i]), atol=1e-12)
        np.testing.assert_allclose(spread[i], stationary - step[i] @ stationary @ step[i].T, atol=1e-12)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_close_points_cost_no_digits(order):
    """Variances of tiny steps keep their leading power: a difference of variances would leave rounding."""
    tau = np.array([0.0, 1e-9, 1e-6])
    spread = markov.transitions(order, tau)[1]
    density = {1: 2, 2: 4, 3: 16 / 3}[order]
    power = 2 * order - 1
    leading = density * tau**power / power / {1: 1, 2: 1, 3: 4}[order]
    np.testing.assert_allclose(spread[:, 0, 0], leading, rtol=1e-5)
    roots = markov.root(spread)
    np.testing.assert_allclose(roots @ roots.swapaxes(1, 2), spread, rtol=1e-9, atol=0)
    assert (roots[0] == 0).all()


@pytest.mark.parametrize("nu", [0.5, 1.5, 2.5])
def test_markov_covariance_is_the_kernel(nu):
    kernel = Matern(nu, (0.1, 0.6), (0.2, 1.0))
    sampler, u = Markov(kernel), np.random.default_rng(0).random((3, 2))
    x = np.sort(np.random.default_rng(1).uniform(-2, 2, (3, 60)), 1)
    x[:, 30] = x[:, 31]  # the same point twice
    x[:, 40] = x[:, 41] - 1e-9
    rate, scale = sampler.units(u)
    size = 60 * sampler.order
    white = np.eye(size).reshape(size, 60, sampler.order)
    for task, expected in enumerate(law(kernel, u, x[..., None])):
        tau = markov.distances(x[task : task + 1], rate[task : task + 1])
        rows = scale[task] * markov.sample(sampler.order, tau.repeat(size, 0), white)
        np.testing.assert_allclose(rows.T @ rows, expected, atol=1e-8)


def test_tasks_of_one_solve_are_independent():
    tau = np.full((2, 4), 0.3)
    tau[:, 0] = markov.FAR
    white = np.random.default_rng(0).standard_normal((2, 4, 3))
    both = markov.sample(3, tau, white)
    np.testing.assert_allclose(both[1:], markov.sample(3, tau[1:], white[1:]), atol=1e-15)


CIRCULAR = {
    "rbf": RBF((0.1, 0.6)),
    "rough": Matern(0.5),
    "smooth": Matern(2.5),
    "spectral": SpectralMixture(2, (0.5, 2.0), (0.5, 1.0)),
    "sum": Sum([RBF(), Mixed([Matern(1.5), RBF()])]),
}


@pytest.mark.parametrize("name", CIRCULAR)
def test_circulant_covariance_is_the_kernel(name):
    kernel = CIRCULAR[name]
    sampler, u = Circulant(kernel, 80), np.random.default_rng(0).random((2, kernel.num_hyper))
    values = sampler.eigenvalues(u, 0.05)
    assert (values >= 0).all()
    grid = np.arange(80)[None, :, None] * 0.05
    expected = law(kernel, u, np.repeat(grid, 2, 0))
    size = 2 * values.shape[1] - 2
    for task in range(2):
        rows = sampler.on_grid(values[[task]].repeat(size, 0), np.eye(size))
        np.testing.assert_allclose(rows.T @ rows, expected[task], atol=1e-8)


def test_circle_grows_until_its_covariance_is_one():
    """Smooth and long: on the smallest circle some eigenvalues are negative."""
    sampler, u = Circulant(RBF((0.6, 0.6)), 50), np.full((1, 2), 0.5)
    assert sampler.eigenvalues(u, 4 / 49).shape[1] == 100
    with pytest.raises(DataError, match="widen input_range or shorten the lengthscales"):
        Circulant(RBF((300.0, 300.0)), 50).eigenvalues(u, 4 / 49)
    with pytest.raises(DataError, match="eigenvalues down to -"):
        Circulant(Periodic((0.3, 0.3)), 50).eigenvalues(np.full((1, 3), 0.5), 4 / 49)


def test_circulant_points_are_distinct_and_on_the_grid():
    drawn = Circulant(Matern(0.5), 41).draw(generator(0, "x", index=0), (-2.0, 2.0), 5, 30, 1)
    places = (drawn.x[..., 0] + 2) / 0.1
    np.testing.assert_allclose(places, places.round(), atol=1e-5)
    assert all(len(set(task)) == 30 for task in places.round().tolist())


@pytest.mark.parametrize("dx", [1, 3])
@pytest.mark.parametrize("nu", [0.5, 2.5, None])
def test_random_features_have_the_mean_covariance(nu, dx):
    kernel = Matern(nu, (0.7, 0.7)) if nu else RBF((0.7, 0.7))
    rng = np.random.default_rng(0)
    sampler, u = RandomFeatures(kernel, 40_000), np.full((1, 2), 0.5)
    frequencies, scale = sampler.frequencies(u, rng.random((1, 40_000, dx + 1)))
    assert scale == pytest.approx(0.55) and frequencies.shape == (1, 40_000, dx)
    x = rng.uniform(-1, 1, (6, dx))
    waves = scale * features(x, frequencies[0], 2 * np.pi * rng.random((1, 40_000)))
    np.testing.assert_allclose(waves @ waves.T, law(kernel, u, x[None])[0], atol=5 * 0.3 / 200)


SAMPLERS = {
    "markov": Markov(Matern(1.5, (0.5, 0.5), (0.8, 0.8))),
    "circulant": Circulant(Matern(1.5, (0.5, 0.5), (0.8, 0.8)), 64),
    "features": RandomFeatures(Matern(1.5, (0.5, 0.5), (0.8, 0.8)), 64),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_draws_have_the_law_of_the_family(name):
    """Values in place: products of two points against the kernel at their distance, in the order they are delivered."""
    drawn = SAMPLERS[name].draw(generator(0, "x", index=0), (-2.0, 2.0), 4000, 3, 1)
    assert drawn.x.shape == (4000, 3, 1) and drawn.x.dtype == np.float32 and np.abs(drawn.x).max() <= 2
    assert drawn.y.var() == pytest.approx(0.64, abs=0.04)
    r = 3**0.5 * np.abs(drawn.x[:, 0, 0] - drawn.x[:, 2, 0].astype(float)) / 0.5
    product, expected = drawn.y[:, 0] * drawn.y[:, 2], 0.64 * (1 + r) * np.exp(-r)
    for low, high in ((0, 1), (1, 2), (2, 4), (4, 20)):
        part = (r >= low) & (r < high)
        assert abs((product - expected)[part].mean()) < 4 * product[part].std() / part.sum() ** 0.5


def test_large_batches_of_chains_go_in_parts(monkeypatch):
    one = SAMPLERS["markov"].draw(generator(0, "x", index=0), (0.0, 1.0), 7, 20, 1)
    monkeypatch.setattr("datamodules.samplers.STEPS", 45)  # two tasks at once
    parts = SAMPLERS["markov"].draw(generator(0, "x", index=0), (0.0, 1.0), 7, 20, 1)
    np.testing.assert_allclose(one.y, parts.y, atol=1e-12)


def test_features_go_in_parts(monkeypatch):
    one = SAMPLERS["features"].draw(generator(0, "x", index=0), (0.0, 1.0), 2, 20, 2)
    monkeypatch.setattr("datamodules.samplers.ENTRIES", 64 * 7)
    np.testing.assert_allclose(one.y, SAMPLERS["features"].draw(generator(0, "x", index=0), (0.0, 1.0), 2, 20, 2).y)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Markov(RBF()), "a Matern kernel for Markov, got RBF"),
        (lambda: Circulant(Gibbs()), "a stationary kernel of one output for Circulant, got Gibbs"),
        (lambda: Circulant(Sum([RBF(), FarFact()])), "a stationary kernel of one output for Circulant, got Sum"),
        (lambda: Circulant(Coregionalised(RBF())), "a stationary kernel of one output"),
        (lambda: Circulant(RBF(), num_points=1), "num_points to be an integer, at least 2"),
        (lambda: RandomFeatures(Periodic()), "RBF or Matern for RandomFeatures, got Periodic"),
        (lambda: RandomFeatures(RBF(), num_features=0), "num_features to be an integer, at least 1"),
    ],
)
def test_bad_settings_are_typed_errors(make, message):
    with pytest.raises(ConfigError, match=f"expected {message}"):
        make()
