"""Factorised laws against scipy, against integrals, and against their own samples."""

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import quad

from npexp.errors import ConfigError, DataError
from npexp.likelihoods import (
    Bernoulli,
    BernoulliGamma,
    Beta,
    Categorical,
    Gaussian,
    GaussianMixture,
    IndependentBernoulli,
    IndependentBernoulliGamma,
    IndependentBeta,
    IndependentCategorical,
    IndependentStudentT,
    NormalMixture,
    SetMixture,
    StudentT,
)

B, NT, DY, K = 2, 3, 2, 3
SHAPE = (B, NT, DY)


def random(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def student(*s):
    a = random(3, *s, *SHAPE)
    law = IndependentStudentT(2 * a[0] - 1, a[1] + 0.2, 2.5 + 5 * a[2])
    return law, stats.t(law.df.numpy(), law.loc.numpy(), law.scale.numpy())


def beta(*s):
    a = random(2, *s, *SHAPE)
    law = IndependentBeta(0.5 + 3 * a[0], 0.7 + 2 * a[1])
    return law, stats.beta(law.a.numpy(), law.b.numpy())


class ScipyMixture:
    def __init__(self, law):
        self.w = law.log_weights.exp().numpy()
        self.parts = stats.norm(law.means.numpy(), law.stddevs.numpy())

    def logpdf(self, y):
        return np.log((self.w * self.parts.pdf(np.asarray(y)[..., None])).sum(-1))

    def cdf(self, y):
        return (self.w * self.parts.cdf(np.asarray(y)[..., None])).sum(-1)

    def mean(self):
        return (self.w * self.parts.mean()).sum(-1)

    def std(self):
        return np.sqrt((self.w * (self.parts.var() + self.parts.mean() ** 2)).sum(-1) - self.mean() ** 2)


def normal_mixture(*s):
    a = random(3, *s, *SHAPE, K)
    law = NormalMixture((2 * a[0]).log_softmax(-1), 4 * a[1] - 2, 0.2 + a[2])
    return law, ScipyMixture(law)


CONTINUOUS = [student, beta, normal_mixture]
Y = 0.1 + 0.8 * random(*SHAPE, seed=1)  # inside (0, 1), where all of them have a density


def zero_inflated(*s):
    a = random(3, *s, *SHAPE)
    return IndependentBernoulliGamma(2 * a[0] - 1, 0.6 + 2 * a[1], 0.3 + a[2])


def bernoulli(*s):
    return IndependentBernoulli(4 * random(*s, *SHAPE) - 2)


def categorical(*s):
    return IndependentCategorical((3 * random(*s, *SHAPE, 4)).log_softmax(-1))


@pytest.mark.parametrize("make", CONTINUOUS)
def test_continuous_laws_against_scipy(make):
    law, known = make()
    np.testing.assert_allclose(law.log_density(Y), known.logpdf(Y.numpy()), rtol=1e-10)
    np.testing.assert_allclose(law.joint_log_prob(Y), known.logpdf(Y.numpy()).sum((1, 2)), rtol=1e-10)
    np.testing.assert_allclose(law.marginal_log_prob(Y), known.logpdf(Y.numpy()).sum(2), rtol=1e-10)
    np.testing.assert_allclose(law.cdf(Y), known.cdf(Y.numpy()), rtol=1e-10)
    np.testing.assert_allclose(law.mean, known.mean(), rtol=1e-10)
    np.testing.assert_allclose(law.stddev, known.std(), rtol=1e-10)


@pytest.mark.parametrize("df", [2.2, 5.0, 900.0])
def test_student_t_tends_to_a_normal(df):
    """Also in float32, where the log gammas of many degrees of freedom cancel."""
    loc, scale = torch.zeros(1, 1, 1), torch.ones(1, 1, 1)
    law = IndependentStudentT(loc, scale, torch.full_like(loc, df))
    y = torch.linspace(-4, 4, 9)[:, None, None, None]
    np.testing.assert_allclose(law.log_density(y), stats.t(df).logpdf(y.numpy()), rtol=2e-4)


def at(law, i):
    """Scalar functions of y: the i-th output's log density, distribution function and score."""

    def only(function):
        return lambda y: function(torch.full(SHAPE, float(y), dtype=torch.float64))[i].item()

    return only(law.log_density), only(law.cdf), only(law.crps)


@pytest.mark.parametrize("make", CONTINUOUS)
def test_densities_integrate_to_the_distribution_function(make):
    law, _ = make()
    i = (1, 2, 1)
    log_density, cdf, _ = at(law, i)
    low, high = (0.0, 1.0) if make is beta else (-np.inf, np.inf)
    assert quad(lambda y: np.exp(log_density(y)), low, 0.6)[0] == pytest.approx(cdf(0.6), rel=1e-6)
    assert quad(lambda y: np.exp(log_density(y)), 0.6, high)[0] == pytest.approx(1 - cdf(0.6), rel=1e-6)


def test_zero_inflated_law_against_scipy():
    law = zero_inflated()
    gamma = stats.gamma(law.shape.numpy(), scale=law.scale.numpy())
    p = torch.sigmoid(law.logits).numpy()
    np.testing.assert_allclose(law.log_density(Y), np.log(p) + gamma.logpdf(Y.numpy()))
    np.testing.assert_allclose(law.log_density(torch.zeros_like(Y)), np.log1p(-p))
    np.testing.assert_allclose(law.cdf(Y), 1 - p + p * gamma.cdf(Y.numpy()))
    assert (law.cdf(-Y) == 0).all()
    np.testing.assert_allclose(law.mean, p * gamma.mean())
    np.testing.assert_allclose(law.stddev, np.sqrt(p * (gamma.var() + gamma.mean() ** 2) - (p * gamma.mean()) ** 2))
    i = (0, 1, 1)
    log_density, cdf, _ = at(law, i)
    mass = np.exp(log_density(0.0)) + quad(lambda y: np.exp(log_density(y)), 0, 3)[0]
    assert mass == pytest.approx(cdf(3.0), rel=1e-6)


def test_masses_of_discrete_laws():
    for law, k in ((bernoulli(), 2), (categorical(), 4)):
        values = torch.arange(k, dtype=torch.float64)[:, None, None, None].expand(-1, *SHAPE)
        mass = law.log_density(values).exp()
        torch.testing.assert_close(mass.sum(0), torch.ones(SHAPE, dtype=torch.float64))
        torch.testing.assert_close(law.cdf(values), mass.cumsum(0))
        torch.testing.assert_close(law.cdf(values - 0.5), mass.cumsum(0) - mass)
        torch.testing.assert_close(law.mean, (values * mass).sum(0))
        torch.testing.assert_close(law.stddev, ((values - law.mean).square() * mass).sum(0).sqrt())
        p = law.probabilities
        torch.testing.assert_close(p if k == 2 else p[..., 3], mass[-1])


def test_a_categorical_of_two_is_a_bernoulli():
    logits = bernoulli().logits
    two = IndependentCategorical(torch.stack([torch.zeros_like(logits), logits], -1).log_softmax(-1))
    y = (Y > 0.5).double()
    for a, b in ((two.log_density(y), bernoulli().log_density(y)), (two.crps(y), bernoulli().crps(y))):
        torch.testing.assert_close(a, b)
    assert torch.equal(two.sample(20, seed=0), bernoulli().sample(20, seed=0))


EVERY = [lambda *s: student(*s)[0], lambda *s: beta(*s)[0], lambda *s: normal_mixture(*s)[0]]
EVERY += [zero_inflated, bernoulli, categorical]
IDS = ["student", "beta", "normal_mixture", "zero_inflated", "bernoulli", "categorical"]


@pytest.mark.parametrize("make", EVERY, ids=IDS)
def test_crps_against_its_integral(make):
    law = make()
    i, y = (1, 0, 1), 1.0 if make in EVERY[-2:] else 0.4
    _, cdf, crps = at(law, i)
    jumps = [0.0, 1.0, 2.0, 3.0]
    below = quad(lambda t: cdf(t) ** 2, -60, y, points=jumps[: int(y) + 1], limit=200)[0]
    above = quad(lambda t: (cdf(t) - 1) ** 2, y, 60, points=[j for j in jumps if j > y], limit=200)[0]
    assert crps(y) == pytest.approx(below + above, rel=2e-4)


@pytest.mark.parametrize("make", EVERY, ids=IDS)
def test_quantiles_invert_the_distribution_function(make):
    law = make()
    for level in (0.03, 0.5, 0.9):
        q = law.icdf(torch.full(SHAPE, level, dtype=torch.float64))
        above = law.cdf(q)
        below = law.cdf(q - 1e-9)
        assert (above >= level - 1e-9).all() and (below <= level + 1e-9).all()
    assert law.quantile(torch.tensor([0.2, 0.8])).shape == (2, *SHAPE)


@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize("make", EVERY, ids=IDS)
def test_samples_follow_the_law(make, seed):
    torch.manual_seed(0)
    law, n = make(), 4_000
    draws = law.sample(n, seed=seed)
    assert draws.shape == (n, *SHAPE)
    assert ((draws.mean(0) - law.mean).abs() < 5 * law.stddev / n**0.5).all()
    level = torch.linspace(0.05, 0.95, 7, dtype=torch.float64)
    points = law.quantile(level)
    share = (draws[None] <= points[:, None]).double().mean(1)
    assert (share - law.cdf(points)).abs().max() < 4 * 0.5 / n**0.5
    if seed is not None:  # the same for every task, whatever its size
        noise = law.cdf(draws) if make in EVERY[:2] else None
        assert noise is None or torch.allclose(noise[:, 0], noise[:, 1])
        index = torch.tensor([1])
        assert torch.equal(law.pick(index).sample(n, seed=seed), draws[:, 1:])


@pytest.mark.parametrize("make", EVERY, ids=IDS)
def test_mixtures_over_sets_take_any_law(make):
    """A leading axis of laws, weighed by hand."""
    law = make(4)
    mixed, y = SetMixture(law), torch.ones(SHAPE, dtype=torch.float64) if make in EVERY[-2:] else Y
    joint = law.log_density(y).sum((-1, -2))
    torch.testing.assert_close(mixed.joint_log_prob(y), joint.logsumexp(0) - np.log(4))
    torch.testing.assert_close(mixed.cdf(y), law.cdf(y).mean(0))
    assert mixed.sample(5, seed=0).shape == (5, *SHAPE)
    q = mixed.quantile(torch.tensor([0.3], dtype=torch.float64))[0]
    assert (mixed.cdf(q) >= 0.3).all() and (mixed.cdf(q - 1e-6) <= 0.3 + 1e-6).all()


WRONG = [
    (bernoulli, [0.5, -1.0, 2.0], "0 or 1, got 1 others"),
    (categorical, [-1.0, 4.0, 1.5], "class indices 0, ..., 3, got 1 others"),
    (lambda: beta()[0], [0.0, 1.0, -0.2], "strictly between 0 and 1, got 1 others"),
    (zero_inflated, [-0.1, torch.inf], "0 or more, got 1 others"),
]


@pytest.mark.parametrize(("make", "values", "message"), WRONG)
def test_outputs_outside_the_support_are_refused(make, values, message):
    """Where they are real: padding may hold anything. A marginal density, which knows no padding, is -inf."""
    law = make()
    mask = torch.tensor([[True, True, False]]).expand(B, NT)
    for value in [*values, torch.nan]:
        y = torch.ones(SHAPE, dtype=torch.float64) * (0.5 if law.support.startswith("strictly") else 1.0)
        y[0, 2, 1] = value
        with pytest.raises(DataError, match=message):
            law.joint_log_prob(y)
        assert law.joint_log_prob(y, mask).isfinite().all()
        assert law.marginal_log_prob(y)[0].isfinite().tolist() == [True, True, False]


@pytest.mark.parametrize("likelihood", [Gaussian(0.1), StudentT(min_stddev=0.1), GaussianMixture(2, 0.1)])
def test_floors_hold(likelihood):
    law = likelihood(torch.full((1, 1, likelihood.num_features(1)), -50.0))
    assert law.stddev.item() >= 0.1 * (1 - 1e-6)
    if isinstance(likelihood, StudentT):
        assert law.stddev.item() == pytest.approx(0.1 * (100 / 98) ** 0.5, rel=1e-4)


def test_floors_of_shapes():
    low = torch.full((1, 1, 3), -50.0)
    law = BernoulliGamma(0.2, 0.3)(low)
    assert law.shape.item() == pytest.approx(0.2) and law.scale.item() == pytest.approx(0.3)
    law = Beta(0.2)(low[..., :2])
    assert law.a.item() == law.b.item() == pytest.approx(0.2)


def test_degrees_of_freedom_stay_in_their_range():
    features = torch.tensor([-80.0, -1.0, 0.0, 80.0])[None, :, None] * torch.tensor([0.0, 0.0, 1.0])
    df = StudentT()(features).df[0, :, 0]
    torch.testing.assert_close(df[[0, 3]], torch.tensor([100.0, 2.1]))
    assert (df.diff() < 0).all()
    assert (StudentT(df=3.0)(features[..., :2]).df == 3).all()


def test_one_standard_deviation_for_all_targets():
    """Homoscedastic: a parameter per output, which learns."""
    head = Gaussian(min_stddev=0.1, homoscedastic=True).head(5, 8, 2, 2)
    law = head(torch.randn(2, 4, 7, 5))
    stddev = 0.1 + 0.9 * np.log(2)
    torch.testing.assert_close(law.stddev, torch.full((2, 4, 7, 2), stddev, dtype=torch.float32))
    assert law.pick(torch.tensor([1])).stddev.shape == (1, 4, 7, 2)
    law.joint_log_prob(torch.randn(4, 7, 2)).sum().backward()
    (parameter,) = [p for p in head.parameters() if p.shape == (2,) and (p == 0).all()]
    assert (parameter.grad != 0).all()
    assert sum(p.numel() for p in head.parameters()) == 5 * 8 + 8 + 8 * 2 + 2 + 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: StudentT(df=2.0), "df above 2"),
        (lambda: StudentT(df=1e6), "use Gaussian"),
        (lambda: StudentT(min_stddev=-1.0), "min_stddev"),
        (lambda: GaussianMixture(0), "num_components"),
        (lambda: GaussianMixture(2, 1.5), "min_stddev"),
        (lambda: Categorical(1), "num_classes"),
        (lambda: Beta(-0.1), "min_concentration"),
        (lambda: BernoulliGamma(min_scale=2.0), "min_scale"),
        (lambda: BernoulliGamma(min_shape=-2.0), "min_shape"),
    ],
)
def test_impossible_settings_are_refused(make, message, untyped):
    with pytest.raises(ConfigError, match=message):
        make()


def test_bernoulli_learns_the_rate():
    """The gradient of the log mass is y - p."""
    logits = torch.zeros(1, 4, 1, requires_grad=True)
    y = torch.tensor([0.0, 1.0, 1.0, 1.0])[None, :, None]
    Bernoulli()(logits).joint_log_prob(y).sum().backward()
    torch.testing.assert_close(logits.grad, y - 0.5)


@pytest.mark.parametrize("make", [bernoulli, categorical], ids=lambda m: m.__name__)
def test_crps_of_a_mixture_over_classes(make):
    """Probabilities mix: against the sum over classes of squared differences of the distribution function."""
    mixture = SetMixture(make(3))
    k = 2 if make is bernoulli else 4
    for label in range(k):
        y = torch.full(mixture.mean.shape, float(label), dtype=torch.float64)
        cdf = torch.stack([mixture.cdf(torch.full_like(y, float(j))) for j in range(k)])
        steps = torch.arange(k)[:, None, None, None] >= label
        torch.testing.assert_close(mixture.crps(y), (cdf - steps.double()).square().sum(0))
