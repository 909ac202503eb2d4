"""Predictive laws against scipy and against their own samples."""

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import quad

from npexp.errors import ConfigError
from npexp.likelihoods import DiagonalGaussian, Gaussian, SetMixture


def gaussian(b=2, nt=3, dy=2):
    g = torch.Generator().manual_seed(0)
    return DiagonalGaussian(
        torch.randn(b, nt, dy, generator=g, dtype=torch.float64),
        torch.rand(b, nt, dy, generator=g, dtype=torch.float64) + 0.2,
    )


def mixture(s=4, b=2, nt=3, dy=2):
    g = torch.Generator().manual_seed(1)
    means = torch.randn(s, b, nt, dy, generator=g, dtype=torch.float64)
    return SetMixture(DiagonalGaussian(means, torch.rand(s, b, nt, dy, generator=g, dtype=torch.float64) + 0.2))


LAWS = [gaussian, mixture]
Y = torch.randn(2, 3, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def components(pred):
    if isinstance(pred, SetMixture):
        return [stats.norm(m, s) for m, s in zip(pred.law.mean.numpy(), pred.law.stddev.numpy(), strict=True)]
    return [stats.norm(pred.mean.numpy(), pred.stddev.numpy())]


@pytest.mark.parametrize("law", LAWS)
def test_densities_against_scipy(law):
    pred = law()
    logpdf = np.stack([c.logpdf(Y.numpy()) for c in components(pred)])
    s = len(logpdf)
    np.testing.assert_allclose(pred.marginal_log_prob(Y), np.logaddexp.reduce(logpdf.sum(-1)) - np.log(s))
    np.testing.assert_allclose(pred.joint_log_prob(Y), np.logaddexp.reduce(logpdf.sum((-1, -2))) - np.log(s))
    np.testing.assert_allclose(pred.cdf(Y), np.mean([c.cdf(Y.numpy()) for c in components(pred)], 0))


@pytest.mark.parametrize("law", LAWS)
def test_masked_targets_do_not_count(law):
    pred = law()
    mask = torch.tensor([[True, False, True], [False, True, False]])
    y = torch.where(mask[..., None], Y, torch.full_like(Y, torch.nan))
    logpdf = np.stack([c.logpdf(Y.numpy()) for c in components(pred)]).sum(-1) * mask.numpy()
    expected = np.logaddexp.reduce(logpdf.sum(-1)) - np.log(len(logpdf))
    np.testing.assert_allclose(pred.joint_log_prob(y, mask), expected)


@pytest.mark.parametrize("law", LAWS)
def test_crps_against_its_integral(law):
    pred = law()
    laws = components(pred)

    def integral(i):
        def gap(t, below):
            return (np.mean([c.cdf(t)[i] for c in laws]) - below) ** 2

        y = Y.numpy()[i]
        return quad(gap, -15, y, args=(0,))[0] + quad(gap, y, 15, args=(1,))[0]

    for i in [(0, 0, 0), (1, 2, 1)]:
        np.testing.assert_allclose(pred.crps(Y)[i], integral(i), rtol=1e-6)


@pytest.mark.parametrize("law", LAWS)
def test_quantiles_invert_the_distribution_function(law):
    pred = law()
    levels = torch.tensor([0.025, 0.5, 0.975], dtype=torch.float64)
    for level, q in zip(levels, pred.quantile(levels), strict=True):
        torch.testing.assert_close(pred.cdf(q), torch.full_like(q, float(level)))


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("seed", [None, 3])
def test_samples_have_the_moments(law, seed):
    torch.manual_seed(0)
    pred, n = law(), 40_000
    draws = pred.sample(n, seed=seed)
    assert ((draws.mean(0) - pred.mean).abs() < 5 * pred.stddev / n**0.5).all()
    torch.testing.assert_close(draws.std(0), pred.stddev, rtol=0.03, atol=0)


def test_mixture_draws_are_coherent():
    """Targets of one draw come from one component, so that they correlate although no component does."""
    means = torch.tensor([-5.0, 5.0])[:, None, None, None].expand(2, 1, 2, 1)
    draws = SetMixture(DiagonalGaussian(means, torch.full_like(means, 0.1))).sample(1000)[:, 0, :, 0]
    assert np.corrcoef(draws.T)[0, 1] > 0.99


@pytest.mark.parametrize("law", LAWS)
def test_seeded_noise_ignores_batch_and_padding(law):
    pred = law()
    whole = pred.sample(5, seed=0)
    if isinstance(pred, SetMixture):
        part = SetMixture(DiagonalGaussian(pred.law.mean[:, 1:, :2], pred.law.stddev[:, 1:, :2]))
    else:
        part = DiagonalGaussian(pred.mean[1:, :2], pred.stddev[1:, :2])
    assert torch.equal(part.sample(5, seed=0), whole[:, 1:, :2])


@pytest.mark.parametrize("scale", ["softplus", "exp"])
@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_head_scales(scale, floor):
    """sigma = 0.1 + 0.9 softplus and sigma = exp are the two published heads."""
    raw = torch.tensor([-30.0, 0.0, 2.0])
    features = torch.cat([torch.zeros(1, 3, 1), raw[None, :, None]], -1)
    stddev = Gaussian(floor, scale)(features).stddev[0, :, 0]
    expected = floor + raw.exp() if scale == "exp" else floor + (1 - floor) * torch.log1p(raw.exp())
    torch.testing.assert_close(stddev, expected)


def test_impossible_floor():
    with pytest.raises(ConfigError, match="min_stddev"):
        Gaussian(-0.1)
