"""Joint normal laws: chain rule, marginals, coherence, masks, and the heads that make them."""

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal, norm

from npexp.errors import ConfigError, UnknownNameError
from npexp.likelihoods import (
    Cholesky,
    CholeskyGaussian,
    DiagonalGaussian,
    LowRank,
    LowRankGaussian,
    RelationalLowRank,
    SetMixture,
)

B, NT, DY = 2, 4, 2


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def low_rank(*s):
    return LowRankGaussian(draw(*s, B, NT, DY), draw(*s, B, NT, DY, 3, seed=1), draw(*s, B, NT, DY, seed=2).abs() + 0.2)


def cholesky(*s):
    rows = draw(*s, B, NT * DY, NT * DY, seed=1).tril(-1) + torch.eye(NT * DY, dtype=torch.float64)
    return CholeskyGaussian(draw(*s, B, NT, DY), rows.unflatten(-2, (NT, DY)))


LAWS = [low_rank, cholesky]
Y = draw(B, NT, DY, seed=5)


def moments(law, b):
    """Mean and covariance of one task as NumPy arrays, formed by hand."""
    if isinstance(law, LowRankGaussian):
        h = law.factor[b].flatten(0, 1).numpy()
        return law.mean[b].flatten().numpy(), h @ h.T + np.diag(law.noise[b].flatten().numpy() ** 2)
    rows = law.factor[b].flatten(0, 1).numpy()
    return law.mean[b].flatten().numpy(), rows @ rows.T


@pytest.mark.parametrize("make", LAWS)
def test_joint_density_against_scipy(make):
    law = make()
    for b in range(B):
        expected = multivariate_normal(*moments(law, b)).logpdf(Y[b].flatten().numpy())
        assert law.joint_log_prob(Y)[b].item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("make", LAWS)
def test_joint_density_is_the_sum_of_conditionals(make):
    """Conditioning done on its own, one target after the other, in NumPy."""
    law = make()
    for b in range(B):
        (mean, cov), y, total = moments(law, b), Y[b].flatten().numpy(), 0.0
        for i in range(NT):
            now, seen = slice(i * DY, (i + 1) * DY), slice(0, i * DY)
            gain = np.linalg.solve(cov[seen, seen], cov[seen, now]).T if i else np.zeros((DY, 0))
            conditional = mean[now] + gain @ (y[seen] - mean[seen]), cov[now, now] - gain @ cov[seen, now]
            total += multivariate_normal(*conditional).logpdf(y[now])
        assert law.joint_log_prob(Y)[b].item() == pytest.approx(total, rel=1e-9)


@pytest.mark.parametrize("make", LAWS)
def test_marginals(make):
    """A target alone has its block of the covariance, an output alone its diagonal entry."""
    law = make()
    stddev = np.stack([np.sqrt(np.diag(moments(law, b)[1])).reshape(NT, DY) for b in range(B)])
    np.testing.assert_allclose(law.stddev, stddev)
    np.testing.assert_allclose(law.cdf(Y), norm(law.mean.numpy(), stddev).cdf(Y.numpy()))
    torch.testing.assert_close(law.cdf(law.icdf(torch.full_like(Y, 0.3))), torch.full_like(Y, 0.3))
    torch.testing.assert_close(law.crps(Y), DiagonalGaussian(law.mean, law.stddev).crps(Y))
    for b in range(B):
        mean, cov = moments(law, b)
        for i in range(NT):
            block = slice(i * DY, (i + 1) * DY)
            expected = multivariate_normal(mean[block], cov[block, block]).logpdf(Y[b, i].numpy())
            assert law.marginal_log_prob(Y)[b, i].item() == pytest.approx(expected, rel=1e-9)


def test_marginal_of_a_single_output():
    law = cholesky()
    one = CholeskyGaussian(law.mean[..., :1], law.factor[:, :, 0, : 2 * NT : 2][:, :, None])
    expected = DiagonalGaussian(one.mean, one.stddev).log_density(Y[..., :1])[..., 0]
    torch.testing.assert_close(one.marginal_log_prob(Y[..., :1]), expected)


MASKS = [[[1, 1, 1, 0], [1, 1, 0, 0]], [[0, 1, 0, 1], [1, 0, 0, 1]], [[1, 1, 1, 1], [0, 0, 0, 0]]]


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("make", LAWS)
def test_a_mask_gives_the_law_of_the_real_targets(make, mask):
    """The sub-block of the covariance, whichever targets are real, with finite gradients and NaN in the padding."""
    law, mask = make(), torch.tensor(mask, dtype=torch.bool)
    law._mean.requires_grad_(), law.factor.requires_grad_()
    got = law.joint_log_prob(torch.where(mask[..., None], Y, torch.nan), mask)
    gradients = torch.autograd.grad(got.sum(), (law._mean, law.factor))
    assert all(g.isfinite().all() for g in gradients)
    assert (gradients[0][~mask] == 0).all()
    law = make()
    for b in range(B):
        keep = mask[b].repeat_interleave(DY).numpy()
        mean, cov = moments(law, b)
        y = Y[b].flatten().numpy()[keep]
        expected = multivariate_normal(mean[keep], cov[np.ix_(keep, keep)]).logpdf(y) if keep.any() else 0.0
        assert got[b].item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("seed", [None, 7])
@pytest.mark.parametrize("make", LAWS)
def test_samples_have_the_covariance(make, seed):
    torch.manual_seed(0)
    law, n = make(), 50_000
    draws = law.sample(n, seed=seed).flatten(2).numpy()
    for b in range(B):
        mean, cov = moments(law, b)
        scale = np.sqrt(np.diag(cov))
        assert (np.abs(draws[:, b].mean(0) - mean) < 5 * scale / n**0.5).all()
        assert (np.abs(np.cov(draws[:, b].T) - cov) < 0.04 * np.outer(scale, scale)).all()


@pytest.mark.parametrize("make", LAWS)
def test_seeded_noise_ignores_batch_and_padding(make):
    law = make()
    whole = law.sample(5, seed=0)
    if isinstance(law, LowRankGaussian):
        part = LowRankGaussian(law.mean[1:, :2], law.factor[1:, :2], law.noise[1:, :2])
    else:
        part = CholeskyGaussian(law.mean[1:, :2], law.factor[1:, :2, :, : 2 * DY])
    torch.testing.assert_close(part.sample(5, seed=0), whole[:, 1:, :2])


@pytest.mark.parametrize("make", LAWS)
def test_mixture_over_joint_laws(make):
    """Latent-variable models: each component's own covariance, mixed over whole sets."""
    law = make(3)
    mixed = SetMixture(law)
    components = torch.stack([law.pick(torch.tensor(k)).joint_log_prob(Y) for k in range(3)])
    torch.testing.assert_close(mixed.joint_log_prob(Y), components.logsumexp(0) - np.log(3))
    assert mixed.sample(6, seed=0).shape == (6, B, NT, DY)
    reference = SetMixture(DiagonalGaussian(law.mean, law.stddev))  # no score of an output alone knows the difference
    torch.testing.assert_close(mixed.crps(Y), reference.crps(Y))
    torch.testing.assert_close(mixed.stddev, reference.stddev)


def test_low_rank_laws_are_consistent():
    """The law of some targets is that of the same features alone: Kolmogorov's condition."""
    likelihood, features = LowRank(rank=3), draw(B, NT, 5 * DY)
    keep = [0, 2]
    mask = torch.zeros(B, NT, dtype=torch.bool)
    mask[:, keep] = True
    alone = likelihood(features[:, keep]).joint_log_prob(Y[:, keep])
    torch.testing.assert_close(likelihood(features).joint_log_prob(Y, mask), alone)


@pytest.mark.parametrize(("floor", "diagonal"), [(0.0, "linear"), (0.05, "linear"), (0.05, "tanh")])
def test_published_factor(floor, diagonal):
    """L = tril(H H^T); on EMNIST with the diagonal 0.05 + 0.95 tanh."""
    features = draw(1, NT, DY + 3 * DY)
    law = Cholesky(rank=3, min_stddev=floor, diagonal=diagonal)(features)
    h = features[0, :, DY:].reshape(NT * DY, 3).numpy()
    expected = np.tril(h @ h.T)
    scale = np.diag(expected)
    np.fill_diagonal(expected, floor + (1 - floor) * np.tanh(scale) if diagonal == "tanh" else floor + scale)
    np.testing.assert_allclose(law.factor[0].flatten(0, 1), expected)
    torch.testing.assert_close(law.mean[0], features[0, :, :DY])


HEADS = [lambda **kw: Cholesky(rank=3, **kw), lambda **kw: RelationalLowRank(rank=3, **kw)]


def head(make, dim_in=8, **settings):
    torch.manual_seed(0)
    likelihood = make(**({"num_layers": 2, "num_heads": 2, "dim_feedforward": 8, "depth": 2} | settings))
    return likelihood.head(dim_in, 8, DY, 2).double()


@pytest.mark.parametrize("make", HEADS)
@pytest.mark.parametrize("mask", MASKS[:2])
def test_padded_targets_are_as_if_they_were_not_there(make, mask):
    """In attention and in the density, wherever they stand, with an axis of laws in front."""
    net, h, mask = head(make), draw(3, B, NT, 8), torch.tensor(mask, dtype=torch.bool)
    h = torch.where(mask[..., None], h, 1e3 * h)
    law = net(h, mask)
    scores = law.joint_log_prob(torch.where(mask[..., None], Y, torch.nan), mask)
    for b in range(B):
        alone = net(h[:, b : b + 1, mask[b]])
        torch.testing.assert_close(law.mean[:, b, mask[b]], alone.mean[:, 0])
        torch.testing.assert_close(law.stddev[:, b, mask[b]], alone.stddev[:, 0])
        torch.testing.assert_close(scores[:, b], alone.joint_log_prob(Y[b : b + 1, mask[b]])[:, 0])
    assert scores.shape == (3, B)


@pytest.mark.parametrize("make", HEADS)
def test_a_task_without_targets(make):
    law = head(make)(draw(B, NT, 8), torch.zeros(B, NT, dtype=torch.bool))
    score = law.joint_log_prob(torch.full((B, NT, DY), torch.nan, dtype=torch.float64), law.mean.new_zeros(B, NT) > 0)
    assert (score == 0).all()


@pytest.mark.parametrize("make", HEADS)
def test_targets_see_each_other_in_the_covariance_only(make):
    net, h = head(make), draw(1, 3, 8)
    other = h.clone()
    other[0, 2] += 1
    a, b = net(h), net(other)
    assert torch.equal(a.mean[0, :2], b.mean[0, :2])
    assert ((a.stddev - b.stddev)[0, :2].abs() > 1e-6).all()


@pytest.mark.parametrize("make", HEADS)
@pytest.mark.parametrize(("dim_in", "settings", "dim"), [(7, {}, 8), (8, {}, 8), (8, {"dim": 4}, 4)])
def test_any_width_fits(make, dim_in, settings, dim):
    net = head(make, dim_in, **settings)
    assert net.attention.blocks[0].norm.normalized_shape == (dim,)
    assert isinstance(net.attention.entry, torch.nn.Identity) == (dim_in == dim)
    law = net(draw(B, NT, dim_in))
    law.joint_log_prob(Y).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_attention_is_pytorchs_default_layer():
    """Same weights, same numbers as nn.TransformerEncoderLayer, with a mask."""
    net = head(HEADS[0]).attention.blocks[0].eval()
    twin = torch.nn.TransformerEncoderLayer(8, 2, 8, dropout=0.0, batch_first=True).double().train()
    weights = {
        "self_attn.in_proj_weight": torch.cat([net.attention.to_q.weight, net.attention.to_kv.weight]),
        "self_attn.in_proj_bias": torch.cat([net.attention.to_q.bias, net.attention.to_kv.bias]),
        "self_attn.out_proj.weight": net.attention.to_out.weight,
        "self_attn.out_proj.bias": net.attention.to_out.bias,
    }
    pairs = (("linear1", net.ff.up), ("linear2", net.ff.down), ("norm1", net.norm), ("norm2", net.norm_ff))
    weights |= {f"{name}.{k}": v for name, layer in pairs for k, v in layer.named_parameters()}
    twin.load_state_dict(weights)
    h, mask = draw(B, NT, 8), torch.tensor(MASKS[0], dtype=torch.bool)
    torch.testing.assert_close(net(h, mask)[mask], twin(h, src_key_padding_mask=~mask)[mask])


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"rank": 0}, ConfigError, "rank"),
        ({"num_layers": 0}, ConfigError, "num_layers"),
        ({"dim": 6, "num_heads": 4}, ConfigError, "multiple of num_heads"),
        ({"dim_hidden": 0}, ConfigError, "dim_hidden"),
        ({"depth": 0}, ConfigError, "depth"),
        ({"min_stddev": 1.0}, ConfigError, "min_stddev"),
        ({"diagonal": "relu"}, UnknownNameError, "unknown diagonal 'relu'"),
    ],
)
def test_impossible_settings_are_refused(settings, error, message, untyped):
    with pytest.raises(error, match=message):
        Cholesky(**settings)
    if "diagonal" not in settings:
        with pytest.raises(error, match=message):
            RelationalLowRank(**settings)


def test_impossible_ranks_are_refused(untyped):
    for rank in (0, -1, 1.5):
        with pytest.raises(ConfigError, match="rank"):
            LowRank(rank)
