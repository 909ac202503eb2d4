"""Heads over experts at their initial weights, against Gaussian processes and mixtures in NumPy and scipy."""

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.special import logsumexp, softmax
from scipy.stats import chisquare, multivariate_normal, norm

from npexp.errors import ConfigError, UnknownNameError
from npexp.layers.basis import Basis
from npexp.layers.ridge import MIN_LOG_WEIGHT, RidgeMemory
from npexp.likelihoods import DiagonalGaussian, LowRankGaussian, SetMixture
from npexp.likelihoods.experts import check_law, expert_head
from npexp.ops.tree import tree_map

B, NC, NT, DY, K, DZ, M = 2, 6, 4, 2, 3, 5, 7
FLOOR = 0.005


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X, Y, XT, YT, H = (
    draw(B, NC, 1),
    draw(B, NC, DY, seed=1),
    draw(B, NT, 1, seed=2),
    draw(B, NT, DY, seed=3),
    draw(B, NT, DZ),
)


def memory(**settings) -> RidgeMemory:
    torch.manual_seed(0)
    found = RidgeMemory(Basis(1, M), DY, K, 0, 4, 8, **{"misfit": False, **settings}).double()
    with torch.no_grad():
        found.log_amplitude += 0.3 * torch.randn_like(found.log_amplitude)
        found.log_noise += 2 + 0.3 * torch.randn_like(found.log_noise)  # so that all heads have a say
    return found


def experts(found: RidgeMemory, xt=XT):
    return found.read(found.solve(found.pool(X, Y)), xt, rows=True)


def head(law, **settings):
    return expert_head(law, DZ, 8, DY, K, FLOOR, True).double()


def posterior(found: RidgeMemory, b: int):
    """Weights of the heads by evidence; means, latent covariances and noise of each, from kernel matrices."""
    a, c = (found.basis(v[b : b + 1])[0].detach().numpy() for v in (X, XT))
    evidence, laws = [], []
    with torch.no_grad():
        scales = found.solve(found.pool(X, Y)).bank.scale[b].numpy()
    for scale, log_noise in zip(scales, found.log_noise[0].detach().numpy(), strict=True):
        noise = np.exp(log_noise)
        among, between, ahead = (noise**2 * (u * scale**2) @ v.T for u, v in ((a, a), (c, a), (c, c)))
        inner = among + noise**2 * np.eye(NC)
        evidence.append(sum(multivariate_normal(np.zeros(NC), inner).logpdf(v) for v in Y[b].numpy().T))
        laws.append(
            (between @ np.linalg.solve(inner, Y[b].numpy()), ahead - between @ np.linalg.solve(inner, between.T), noise)
        )
    return np.array(evidence) - logsumexp(evidence), laws


def test_mixture_of_the_experts_and_a_free_normal():
    """Experts by evidence, and a normal at the moments of their mixture, whose logit is -1."""
    found = memory()
    law = head("mixture")(H, experts(found))
    for b in range(B):
        weights, laws = posterior(found, b)
        means = np.stack([mean for mean, *_ in laws], -1)  # [nt, dy, k]
        variances = np.stack([np.diag(cov) + noise**2 for _, cov, noise in laws], -1)[:, None]
        mean = means @ np.exp(weights)
        stddev = np.sqrt((variances + means**2) @ np.exp(weights) - mean**2)
        share = softmax([0.0, -1.0])
        parts = np.exp(weights) * share[0] * norm(means, FLOOR + np.sqrt(variances)).pdf(YT[b].numpy()[..., None])
        density = parts.sum(-1) + share[1] * norm(mean, FLOOR + stddev).pdf(YT[b].numpy())
        np.testing.assert_allclose(law.marginal_log_prob(YT)[b].detach(), np.log(density).sum(-1), rtol=1e-6)


def test_anchored_normal_has_the_moments_of_the_experts():
    found = memory()
    law = head("anchored")(H, experts(found))
    for b in range(B):
        weights, laws = posterior(found, b)
        means = np.stack([mean for mean, *_ in laws], -1)
        variances = np.stack([np.diag(cov) + noise**2 for _, cov, noise in laws], -1)[:, None]
        mean = means @ np.exp(weights)
        np.testing.assert_allclose(law.mean[b].detach(), mean, rtol=1e-7, atol=1e-9)
        stddev = np.sqrt((variances + means**2) @ np.exp(weights) - mean**2)
        np.testing.assert_allclose(law.stddev[b].detach(), FLOOR + stddev, rtol=1e-7)


def joint_by_scipy(found, b, keep, floor=FLOOR):
    weights, laws = posterior(found, b)
    parts = [
        sum(
            multivariate_normal(
                mean[keep, o], cov[np.ix_(keep, keep)] + (floor + noise) ** 2 * np.eye(len(keep))
            ).logpdf(v)
            for o, v in enumerate(YT[b, keep].numpy().T)
        )
        for mean, cov, noise in laws
    ]
    return logsumexp(weights + np.array(parts))


def test_joint_law_mixes_gaussian_processes():
    """Also of some of the targets, masked or left out: the law is consistent."""
    found = memory()
    law = head("joint")(H, experts(found))
    mask = torch.tensor([[True, True, False, True], [False, True, True, False]])
    some = law.joint_log_prob(torch.where(mask[..., None], YT, torch.nan), mask)
    fewer = head("joint")(H[:, :2], experts(found, XT[:, :2]))
    for b in range(B):
        for scores, keep in (
            (law.joint_log_prob(YT), range(NT)),
            (some, mask[b].nonzero()[:, 0].tolist()),
            (fewer.joint_log_prob(YT[:, :2]), range(2)),
        ):
            assert scores[b].item() == pytest.approx(joint_by_scipy(found, b, list(keep)), rel=1e-8)
        for i in range(NT):
            alone = law.marginal_log_prob(YT)[b, i].item()
            assert alone == pytest.approx(joint_by_scipy(found, b, [i]), rel=1e-8)


def test_joint_law_obeys_the_chain_rule():
    """Blocks of targets that are told before the next ones are asked for: evidences weigh the heads as Bayes does.

    So it is where nothing but the linear models speaks: not with a floor on the noise, misfit or inferred priors, which
    make the law after an update another one than the conditional of the law before.
    """
    found, law = memory(), head("joint")
    law.min_stddev = 0.0
    state, total = found.pool(X, Y), 0.0
    whole = law(H, found.read(found.solve(state), XT, rows=True)).joint_log_prob(YT)
    for block in (slice(0, 1), slice(1, 3), slice(3, 4)):
        solved = found.solve(state)
        assert (solved.bank.log_weights > MIN_LOG_WEIGHT).all()
        total = total + law(H[:, block], found.read(solved, XT[:, block], rows=True)).joint_log_prob(YT[:, block])
        state = tree_map(torch.add, state, found.pool(XT[:, block], YT[:, block]))
    torch.testing.assert_close(whole, total, rtol=1e-9, atol=1e-9)
    law.min_stddev = 0.05
    again = law(H, found.read(found.solve(found.pool(X, Y)), XT, rows=True)).joint_log_prob(YT)
    assert (again - whole).abs().max() > 1e-3


def test_draws_of_the_joint_law():
    found, n = memory(), 40_000
    law = head("joint")(H, experts(found))
    torch.manual_seed(0)
    with torch.no_grad():
        draws = law.sample(n)
    assert draws.shape == (n, B, NT, DY)
    for b in range(B):
        weights, laws = posterior(found, b)
        mean = sum(np.exp(w) * m for w, (m, *_) in zip(weights, laws, strict=True))
        for o in range(DY):
            covariance = sum(
                np.exp(w)
                * (cov + (FLOOR + noise) ** 2 * np.eye(NT) + np.outer(m[:, o] - mean[:, o], m[:, o] - mean[:, o]))
                for w, (m, cov, noise) in zip(weights, laws, strict=True)
            )
            spread = np.sqrt(np.diag(covariance))
            got = np.cov(draws[:, b, :, o].numpy().T)
            assert (np.abs(draws[:, b, :, o].mean(0).numpy() - mean[:, o]) < 5 * spread / n**0.5).all()
            assert (np.abs(got - covariance) < 0.05 * np.outer(spread, spread)).all()


def test_corrections_shift_and_stretch():
    """The network of the joint head moves means in units of the mixture's spread, and scales noise and covariance."""
    found, law = memory(), head("joint")
    shift, stretch, noise = 0.3, -0.2, 0.4
    with torch.no_grad():
        law.network[-1].bias.copy_(torch.tensor([shift, stretch, noise] * DY))
        before, said = head("joint")(H, experts(found)).law, experts(found)
        after = law(H, said).law
    moved = before.mean + shift * said.log_stddev.exp()
    torch.testing.assert_close(after.mean, moved)
    torch.testing.assert_close(after.factor, np.exp(stretch) * before.factor)
    torch.testing.assert_close(after.noise - FLOOR, np.exp(noise) * (before.noise - FLOOR))


def test_impossible_heads(untyped):
    with pytest.raises(UnknownNameError, match="unknown law 'joined'; did you mean 'joint'"):
        check_law("joined", None)
    with pytest.raises(ConfigError, match="set shared_noise to True"):
        expert_head("joint", DZ, 8, DY, K, FLOOR, False)
    assert expert_head("joint", DZ, 8, 1, K, FLOOR, False).joint


def channels(*s):
    return LowRankGaussian(
        draw(*s, B, NT, DY), draw(*s, B, NT, DY, 3, seed=1), draw(*s, B, NT, DY, seed=2).abs() + 0.2, across=False
    )


def covariance(law, b, o):
    h = law.factor[b, :, o].numpy()
    return h @ h.T + np.diag(law.noise[b, :, o].numpy() ** 2)


def test_channels_apart_against_scipy():
    """`LowRankGaussian(across=False)`: joint over targets, independent over channels."""
    law, mask = channels(), torch.tensor([[True, False, True, True], [False, False, True, False]])
    some = law.joint_log_prob(torch.where(mask[..., None], YT, torch.nan), mask)
    for b in range(B):
        for score, keep in ((law.joint_log_prob(YT), np.arange(NT)), (some, mask[b].nonzero()[:, 0].numpy())):
            known = sum(
                multivariate_normal(law.mean[b, keep, o], covariance(law, b, o)[np.ix_(keep, keep)]).logpdf(
                    YT[b, keep, o]
                )
                for o in range(DY)
            )
            assert score[b].item() == pytest.approx(known, rel=1e-9)
        stddev = np.sqrt(np.stack([np.diag(covariance(law, b, o)) for o in range(DY)], -1))
        np.testing.assert_allclose(law.stddev[b], stddev)
        known = norm(law.mean[b].numpy(), stddev).logpdf(YT[b].numpy()).sum(-1)
        np.testing.assert_allclose(law.marginal_log_prob(YT)[b], known)
    torch.manual_seed(0)
    draws = law.sample(40_000)[:, 0].transpose(1, 2).flatten(1)  # [n, dy nt]
    known = np.zeros((2 * NT, 2 * NT))
    known[:NT, :NT], known[NT:, NT:] = covariance(law, 0, 0), covariance(law, 0, 1)
    spread = np.sqrt(np.diag(known))
    assert (np.abs(np.cov(draws.numpy().T) - known) < 0.05 * np.outer(spread, spread)).all()


def weighted(make, s=3):
    return SetMixture(make(s), draw(s, B, seed=9).log_softmax(0))


def normals(s):
    return DiagonalGaussian(2 * draw(s, B, NT, DY), draw(s, B, NT, DY, seed=1).abs() + 0.2)


@pytest.mark.parametrize("make", [normals, channels])
def test_weighted_mixtures_over_sets(make):
    law = weighted(make)
    w, means, stddevs = (v.numpy() for v in (law.log_weights.exp(), law.law.mean, law.law.stddev))
    for b in range(B):
        mean = np.einsum("s,snd->nd", w[:, b], means[:, b])
        np.testing.assert_allclose(law.mean[b], mean)
        second = np.einsum("s,snd->nd", w[:, b], stddevs[:, b] ** 2 + means[:, b] ** 2)
        np.testing.assert_allclose(law.stddev[b], np.sqrt(second - mean**2))
        parts = norm(means[:, b], stddevs[:, b])
        np.testing.assert_allclose(law.cdf(YT)[b], np.einsum("s,snd->nd", w[:, b], parts.cdf(YT[b].numpy())))
        known = logsumexp(np.log(w[:, b, None]) + parts.logpdf(YT[b].numpy()).sum(-1), 0)
        np.testing.assert_allclose(law.marginal_log_prob(YT)[b], known)
        known = logsumexp(np.log(w[:, b]) + law.law.joint_log_prob(YT)[:, b].numpy())
        assert law.joint_log_prob(YT)[b].item() == pytest.approx(known)
    y, at = YT[0, 1, 1].item(), norm(means[:, 0, 1, 1], stddevs[:, 0, 1, 1])
    below = quad(lambda v: (w[:, 0] @ at.cdf(v)) ** 2, -30, y)[0]
    above = quad(lambda v: (1 - w[:, 0] @ at.cdf(v)) ** 2, y, 30)[0]
    assert law.crps(YT)[0, 1, 1].item() == pytest.approx(below + above, rel=1e-6)


def test_weights_are_the_frequencies_of_the_components():
    """One component for all of a task: its targets are far apart from the other components' together."""
    s, n = 3, 20_000
    offset = 100.0 * torch.arange(s, dtype=torch.float64)[:, None, None, None].expand(s, B, NT, DY)
    law = SetMixture(DiagonalGaussian(offset, torch.ones_like(offset)), draw(s, B, seed=9).log_softmax(0))
    torch.manual_seed(0)
    chosen = (law.sample(n) / 100).round()
    assert (chosen == chosen[:, :, :1, :1]).all()
    for b in range(B):
        counts = np.bincount(chosen[:, b, 0, 0].int().numpy(), minlength=s)
        assert chisquare(counts, n * law.log_weights[:, b].exp().numpy()).pvalue > 1e-3


@pytest.mark.parametrize("make", [normals, channels])
def test_seeded_draws_do_not_depend_on_the_batch(make):
    law = weighted(make)
    alone = SetMixture(law.law.pick(torch.arange(3)[:, None], torch.tensor([[1]])), law.log_weights[:, 1:])
    assert torch.equal(alone.sample(50, seed=3), law.sample(50, seed=3)[:, 1:])
    assert not torch.equal(alone.sample(50, seed=4), alone.sample(50, seed=3))
