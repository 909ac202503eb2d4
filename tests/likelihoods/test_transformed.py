"""Transformed laws against scipy, and everything again through a change of units."""

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import quad

from npexp.errors import ConfigError, DataError, ShapeError, UnknownNameError
from npexp.likelihoods import (
    Affine,
    Bernoulli,
    BernoulliGamma,
    Categorical,
    Cholesky,
    DiagonalGaussian,
    Gaussian,
    GaussianMixture,
    LowRank,
    SetMixture,
    StudentT,
    Transformed,
    TransformedLaw,
)
from npexp.likelihoods.transforms import TRANSFORMS, make_transform

B, NT, DY = 2, 3, 2
SETTINGS = {
    "log": {},
    "softplus": {},
    "logit": {"low": -1.0, "high": 3.0},
    "asinh": {"scale": 0.5},
    "affine": {"shift": -2.0, "scale": 3.0},
}
Z = torch.randn(B, NT, DY, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def gaussian(*s):
    g = torch.Generator().manual_seed(0)
    mean = torch.randn(*s, B, NT, DY, generator=g, dtype=torch.float64)
    return DiagonalGaussian(mean, 0.2 + 0.8 * torch.rand(*s, B, NT, DY, generator=g, dtype=torch.float64))


def transformed(name, law=None):
    return Transformed(Gaussian(), name, SETTINGS[name]).wrap(law or gaussian())


def reference(name):
    """The transform written once more, in NumPy."""
    return {
        "log": np.exp,
        "softplus": lambda z: np.log1p(np.exp(z)),
        "logit": lambda z: -1 + 4 / (1 + np.exp(-z)),
        "asinh": lambda z: 0.5 * np.sinh(z),
        "affine": lambda z: -2 + 3 * z,
    }[name]


@pytest.mark.parametrize("name", TRANSFORMS)
def test_maps_and_slopes(name):
    transform = make_transform(name, SETTINGS[name])
    z = torch.linspace(-6, 6, 41, dtype=torch.float64, requires_grad=True)
    y = transform.forward(z)
    np.testing.assert_allclose(y.detach(), reference(name)(z.detach().numpy()))
    torch.testing.assert_close(transform.inverse(y), z)
    (slope,) = torch.autograd.grad(y.sum(), z)
    torch.testing.assert_close(transform.log_slope(z), slope.log())


@pytest.mark.parametrize("name", TRANSFORMS)
def test_densities_integrate_to_the_distribution_function(name):
    """For a single output, between quantiles."""
    base = gaussian()
    law = transformed(name, DiagonalGaussian(base.mean[:1, :1, :1], base.stddev[:1, :1, :1]))
    levels = torch.tensor([1e-6, 0.3, 1 - 1e-6], dtype=torch.float64)
    low, middle, high = law.quantile(levels).flatten().tolist()

    def density(y):
        return law.marginal_log_prob(torch.tensor(y, dtype=torch.float64).view(1, 1, 1)).exp().item()

    assert quad(density, low, middle, limit=200)[0] == pytest.approx(0.3 - 1e-6, rel=1e-6)
    assert quad(density, middle, high, limit=200)[0] == pytest.approx(0.7 - 1e-6, rel=1e-6)
    assert law.cdf(torch.tensor(middle, dtype=torch.float64).view(1, 1, 1)).item() == pytest.approx(0.3)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_joint_density_moves_with_the_jacobian(name):
    """Of a joint law too, with a mask and NaN in its padding."""
    torch.manual_seed(0)
    base = LowRank(rank=2)(torch.randn(B, NT, 4 * DY, dtype=torch.float64))
    law, y = transformed(name, base), torch.as_tensor(reference(name)(Z.numpy()))
    slope = numerical_log_slope(name)
    torch.testing.assert_close(law.joint_log_prob(y), base.joint_log_prob(Z) - slope.sum((1, 2)), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(law.marginal_log_prob(y), base.marginal_log_prob(Z) - slope.sum(2), rtol=1e-6, atol=1e-6)
    mask = torch.tensor([[True, False, True], [False, True, False]])
    got = law.joint_log_prob(torch.where(mask[..., None], y, torch.nan), mask)
    expected = base.joint_log_prob(Z, mask) - (slope * mask[..., None]).sum((1, 2))
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)


def numerical_log_slope(name):
    step = 1e-6
    up, down = (reference(name)((Z + e).numpy()) for e in (step, -step))
    return torch.as_tensor(np.log((up - down) / (2 * step)))


def test_log_against_the_lognormal():
    base, law = gaussian(), transformed("log")
    known = stats.lognorm(base.stddev.numpy(), scale=np.exp(base.mean.numpy()))
    y = Z.exp()
    np.testing.assert_allclose(law.joint_log_prob(y), known.logpdf(y.numpy()).sum((1, 2)))
    np.testing.assert_allclose(law.cdf(y), known.cdf(y.numpy()))
    np.testing.assert_allclose(law.mean, known.mean(), rtol=1e-9)
    np.testing.assert_allclose(law.stddev, known.std(), rtol=1e-6)
    levels = torch.tensor([0.1, 0.9], dtype=torch.float64)
    np.testing.assert_allclose(law.quantile(levels)[1], known.ppf(0.9))


@pytest.mark.parametrize("name", ["softplus", "logit", "asinh"])
def test_moments_against_integrals(name):
    base, law, g = gaussian(), transformed(name), reference(name)
    i = (0, 1, 1)
    normal = stats.norm(base.mean[i].item(), base.stddev[i].item())
    mean = quad(lambda z: g(z) * normal.pdf(z), -12, 12, limit=200)[0]
    square = quad(lambda z: (g(z) - mean) ** 2 * normal.pdf(z), -12, 12, limit=200)[0]
    assert law.mean[i].item() == pytest.approx(mean, rel=1e-8)
    assert law.stddev[i].item() == pytest.approx(square**0.5, rel=1e-8)
    single = Transformed(Gaussian(), name, SETTINGS[name]).wrap(
        DiagonalGaussian(base.mean.float(), base.stddev.float())
    )
    assert single.mean.dtype == torch.float32 and single.mean[i].item() == pytest.approx(mean, rel=1e-5)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_moments_of_a_mixture_in_float32(name):
    """Quantiles far in the tail must not run away because rounded weights add up to less than one."""
    features = torch.randn(50, NT, 9 * DY, generator=torch.Generator().manual_seed(0))
    likelihood = Transformed(GaussianMixture(3), name, SETTINGS[name])
    single, double = likelihood(features), likelihood(features.double())
    torch.testing.assert_close(single.mean.double(), double.mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(single.stddev.double(), double.stddev, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("seed", [None, 1])
def test_samples_have_the_moments(name, seed):
    torch.manual_seed(0)
    law, n = transformed(name), 40_000
    draws = law.sample(n, seed=seed)
    assert ((draws.mean(0) - law.mean).abs() < 5 * law.stddev / n**0.5).all()
    share = (draws <= law.mean).double().mean(0)
    assert (share - law.cdf(law.mean)).abs().max() < 0.015


@pytest.mark.parametrize("name", TRANSFORMS)
def test_crps_against_its_integral(name):
    law, i = transformed(name), (1, 0, 0)
    y = torch.as_tensor(reference(name)(Z.numpy()))
    low, high = (float(reference(name)(e)) for e in (-8.0, 8.0))

    def cdf(t):
        return law.cdf(torch.full((B, NT, DY), t, dtype=torch.float64))[i].item()

    expected = quad(lambda t: cdf(t) ** 2, low, y[i].item(), limit=400)[0]
    expected += quad(lambda t: (cdf(t) - 1) ** 2, y[i].item(), high, limit=400)[0]
    assert law.crps(y)[i].item() == pytest.approx(expected, abs=2e-3 * law.stddev[i].item())


@pytest.mark.parametrize(("name", "outside"), [("log", [0.0, -1.0]), ("logit", [-1.0, 3.0, 7.0]), ("softplus", [-0.1])])
def test_outputs_outside_the_range_are_refused(name, outside):
    law, y = transformed(name), torch.as_tensor(reference(name)(Z.numpy()))
    mask = torch.tensor([[True, True, False]]).expand(B, NT)
    for value in [*outside, torch.nan]:
        y[0, 2, 1] = value
        with pytest.raises(DataError, match="strictly between"):
            law.joint_log_prob(y)
        assert law.joint_log_prob(y, mask).isfinite().all()
        assert law.marginal_log_prob(y)[0].isfinite().tolist() == [True, True, False]
    at = torch.full_like(y, outside[0])
    assert (law.cdf(at) == 0).all()
    if name == "logit":
        assert (law.cdf(at + 4) == 1).all()


@pytest.mark.parametrize("name", ["log", "logit", "softplus"])
def test_draws_stay_inside_in_float32(name):
    """Even where the map rounds to an end of the range."""
    for mean in (-300.0, 80.0):
        base = DiagonalGaussian(torch.full((1, 1, 1), mean), torch.ones(1, 1, 1))
        law = transformed(name, base)
        draws = law.sample(100)
        assert all(law.joint_log_prob(y).isfinite() for y in draws)


SCALE, SHIFT = torch.tensor([2.0, 0.5], dtype=torch.float64), torch.tensor([-1.0, 3.0], dtype=torch.float64)


def bases():
    torch.manual_seed(0)
    features = torch.randn(B, NT, 12 * DY, dtype=torch.float64)
    return {
        "diagonal": gaussian(),
        "mixture over sets": SetMixture(gaussian(4)),
        "mixture": GaussianMixture(2)(features[..., : 6 * DY]),
        "student": StudentT()(features[..., : 3 * DY]),
        "low rank": LowRank(10)(features),
        "cholesky": Cholesky(11)(features),
        "log": transformed("log"),
    }


@pytest.mark.parametrize("name", bases())
def test_a_change_of_units_is_exact(name):
    base = bases()[name]
    law = Affine(base, SHIFT, SCALE)
    z = Z.exp() if name == "log" else Z
    y, scale = SHIFT + SCALE * z, SCALE.log().sum()
    torch.testing.assert_close(law.mean, SHIFT + SCALE * base.mean)
    torch.testing.assert_close(law.stddev, SCALE * base.stddev)
    torch.testing.assert_close(law.joint_log_prob(y), base.joint_log_prob(z) - NT * scale)
    torch.testing.assert_close(law.marginal_log_prob(y), base.marginal_log_prob(z) - scale)
    mask = torch.tensor([[True, False, True], [False, True, False]])
    got = law.joint_log_prob(torch.where(mask[..., None], y, torch.nan), mask)
    torch.testing.assert_close(got, base.joint_log_prob(z, mask) - mask.sum(1) * scale)
    torch.testing.assert_close(law.cdf(y), base.cdf(z))
    torch.testing.assert_close(law.crps(y), SCALE * base.crps(z))
    torch.testing.assert_close(law.sample(4, seed=2), SHIFT + SCALE * base.sample(4, seed=2))
    level = torch.full_like(Z, 0.7)
    torch.testing.assert_close(law.icdf(level), SHIFT + SCALE * base.icdf(level))


def test_a_change_of_units_against_scipy():
    law = Affine(gaussian(), SHIFT, SCALE)
    known = stats.norm(law.mean.numpy(), law.stddev.numpy())
    np.testing.assert_allclose(law.joint_log_prob(Z), known.logpdf(Z.numpy()).sum((1, 2)))


def test_units_before_or_after_mixing():
    """A mixture of laws in new units, or a mixture in new units: one law, also in its draws."""
    a, b = SetMixture(Affine(gaussian(4), SHIFT, SCALE)), Affine(SetMixture(gaussian(4)), SHIFT, SCALE)
    torch.testing.assert_close(a.joint_log_prob(Z), b.joint_log_prob(Z))
    torch.testing.assert_close(a.sample(9, seed=0), b.sample(9, seed=0))
    torch.testing.assert_close(a.crps(Z), b.crps(Z), rtol=0, atol=2e-3)  # closed form in one only


def test_impossible_units_are_refused(untyped):
    with pytest.raises(ConfigError, match="scale > 0"):
        Affine(gaussian(), 0.0, torch.tensor([1.0, 0.0]))
    with pytest.raises(ConfigError, match="finite shift"):
        Affine(gaussian(), float("nan"), 1.0)
    with pytest.raises(ShapeError, match=r"expected shift \[2\]"):
        Affine(gaussian(), torch.zeros(3), 1.0)


def test_a_likelihood_behind_another_transform():
    """Two transforms in a row: a logit-normal, moved to other bounds by an affine map."""
    inner = Transformed(Gaussian(), "logit")
    outer = Transformed(inner, "affine", {"shift": -1.0, "scale": 4.0})
    features = torch.cat([gaussian().mean, gaussian().stddev], -1)
    once = Transformed(Gaussian(), "logit", SETTINGS["logit"])(features)
    y = torch.as_tensor(reference("logit")(Z.numpy()))
    twice = outer(features)
    assert isinstance(twice, Affine) and isinstance(once, TransformedLaw)
    torch.testing.assert_close(twice.joint_log_prob(y), once.joint_log_prob(y))
    torch.testing.assert_close(twice.mean, once.mean)


def test_traits_are_the_likelihoods_own():
    for likelihood, joint, consistent in (
        (Gaussian(), False, True),
        (LowRank(), True, True),
        (Cholesky(), True, False),
    ):
        law = Transformed(likelihood, "log")
        assert (law.joint, law.consistent) == (joint, consistent)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Transformed(Gaussian(), "logg"), UnknownNameError, "did you mean 'log'"),
        (lambda: Transformed(Gaussian(), "log", {"low": 0.0}), ConfigError, "no setting 'low'"),
        (lambda: Transformed(Gaussian(), "logit", {"low": 1.0, "high": 1.0}), ConfigError, "low < high"),
        (lambda: Transformed(Gaussian(), "asinh", {"scale": 0.0}), ConfigError, "scale > 0"),
        (lambda: Transformed(Gaussian(), "affine", {"scale": -1.0}), ConfigError, "scale > 0"),
        (lambda: Transformed(Gaussian(), "affine", {"shift": float("inf")}), ConfigError, "finite shift"),
        (lambda: Transformed(Bernoulli(), "affine"), ConfigError, "with a density, got Bernoulli"),
        (lambda: Transformed(Categorical(3), "log"), ConfigError, "with a density"),
        (lambda: Transformed(BernoulliGamma(), "log"), ConfigError, "with a density"),
        (lambda: Transformed(StudentT(), "log"), ConfigError, "has no mean"),
        (lambda: Transformed(Transformed(StudentT(), "affine"), "asinh"), ConfigError, "has no mean"),
    ],
)
def test_impossible_settings_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
    Transformed(StudentT(), "logit")
    Transformed(Transformed(StudentT(), "logit"), "log")


def test_logit_is_exact_next_to_its_bounds():
    """In float32, where most draws of a wide law lie within rounding of an end."""
    z, y = torch.zeros(1, 1, 1), torch.full((1, 1, 1), 1e-12)
    law, exact = (Transformed(Gaussian(), "logit").wrap(DiagonalGaussian(v, v + 10)) for v in (z, z.double()))
    torch.testing.assert_close(law.joint_log_prob(y).double(), exact.joint_log_prob(y.double()), rtol=1e-5, atol=0)
