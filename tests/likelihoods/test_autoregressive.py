"""The chain rule on a law whose conditionals are known: a Gaussian process, by scipy."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from npexp.errors import ConfigError, UnknownNameError
from npexp.likelihoods import Autoregressive, Decoding, DiagonalGaussian, Predictive, Verbs

NOISE = 0.1
G = torch.Generator().manual_seed(0)
XC, YC = (torch.randn(2, 4, 1, generator=G, dtype=torch.float64) for _ in range(2))
XT, YT = (torch.randn(2, 6, 1, generator=G, dtype=torch.float64) for _ in range(2))


def kernel(a: Tensor, b: Tensor) -> Tensor:
    return (-0.5 * (a - b.mT).square()).exp()


def posterior(state, x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance of the outputs at x, noise included, given the state's points (padded ones have weight 0)."""
    xs, ys, keep = state
    gram = kernel(xs, xs) * keep[:, :, None] * keep[:, None] + torch.diag_embed(NOISE**2 * keep + (1 - keep))
    cross = kernel(x, xs) * keep[:, None]
    solved = torch.linalg.solve(gram, torch.cat([ys * keep[..., None], cross.mT], -1))
    covariance = kernel(x, x) + NOISE**2 * torch.eye(x.shape[1], dtype=x.dtype) - cross @ solved[..., 1:]
    return cross @ solved[..., :1], covariance


class JointGaussian(DiagonalGaussian):
    """The exact joint law of a block."""

    def __init__(self, mean: Tensor, covariance: Tensor):
        super().__init__(mean, covariance.diagonal(dim1=-2, dim2=-1).sqrt()[..., None])
        self.covariance = covariance

    def joint_log_prob(self, yt, mask_t=None):
        mask = torch.ones(yt.shape[:2], dtype=torch.bool) if mask_t is None else mask_t
        scores = []
        for y, m, c, keep in zip(yt, self.mean, self.covariance, mask, strict=True):
            real = keep.nonzero()[:, 0]
            c = c[real][:, real].numpy()
            scores.append(stats.multivariate_normal(m[real, 0].numpy(), c).logpdf(y[real, 0]) if len(real) else 0.0)
        return torch.tensor(np.array(scores, dtype=float))

    def sample(self, n, seed=None):
        root = torch.linalg.cholesky(self.covariance)
        return self.mean + root @ torch.randn(n, *self.mean.shape, dtype=root.dtype)


def absorb(state, x, y, mask):
    keep = torch.ones(x.shape[:2], dtype=x.dtype) if mask is None else mask.to(x.dtype)
    return tuple(torch.cat([old, new], 1) for old, new in zip(state, (x, y, keep), strict=True))


def gp(decoding: Decoding, joint: bool = False, x: Tensor = XT, mask: Tensor | None = None) -> Predictive:
    """The GP's law of the targets, decoded from its marginals or from the exact joint law of each block."""

    def predict(state, xt, mask_t):
        mean, covariance = posterior(state, xt)
        if joint:
            return JointGaussian(mean, covariance)
        return DiagonalGaussian(mean, covariance.diagonal(dim1=-2, dim2=-1).sqrt()[..., None])

    state = (XC, YC, torch.ones(2, 4, dtype=torch.float64))
    return Autoregressive(Verbs(1, predict, absorb), state, x, mask, decoding)


def exact(sizes=(6, 6)) -> Tensor:
    mean, covariance = posterior((XC, YC, torch.ones(2, 4, dtype=torch.float64)), XT)
    return torch.tensor(
        [
            stats.multivariate_normal(mean[i, :n, 0], covariance[i, :n, :n]).logpdf(YT[i, :n, 0].numpy())
            for i, n in enumerate(sizes)
        ]
    )


@pytest.mark.parametrize("order", ["given", "random", "distance"])
@pytest.mark.parametrize("num_orders", [1, 3])
def test_the_chain_rule_gives_the_joint_density_in_any_order(order, num_orders):
    """A consistent model's conditionals multiply to its joint density, whatever the order."""
    torch.testing.assert_close(gp(Decoding(order=order, num_orders=num_orders)).joint_log_prob(YT), exact())


@pytest.mark.parametrize("block_size", [1, 2, 4, 6, 100])
def test_blocks_of_any_size_give_the_joint_density(block_size):
    torch.testing.assert_close(gp(Decoding(block_size), joint=True).joint_log_prob(YT), exact())


@pytest.mark.parametrize("anchors", [0, 2, 6, 50])
def test_anchors_then_the_rest_at_once(anchors):
    """With the exact joint law of the rest nothing is lost; with its marginals, exactly their dependence is."""
    decoding = Decoding(num_anchors=anchors)
    torch.testing.assert_close(gp(decoding, joint=True).joint_log_prob(YT), exact())
    k = min(anchors, 6)
    told = absorb((XC, YC, torch.ones(2, 4, dtype=torch.float64)), XT[:, :k], YT[:, :k], None)
    mean, covariance = posterior(told, XT[:, k:])
    rest = torch.distributions.Normal(mean[..., 0], covariance.diagonal(dim1=-2, dim2=-1).sqrt())
    expected = rest.log_prob(YT[:, k:, 0]).sum(-1)
    if k:
        expected = expected + gp(Decoding(), x=XT[:, :k]).joint_log_prob(YT[:, :k])
    torch.testing.assert_close(gp(decoding).joint_log_prob(YT), expected)


@pytest.mark.parametrize("order", ["given", "random", "distance"])
@pytest.mark.parametrize("block_size", [1, 2])
def test_padded_targets_do_not_count(order, block_size):
    mask = torch.arange(6) < torch.tensor([6, 3])[:, None]
    y, x = (torch.where(mask[..., None], v, torch.full_like(v, fill)) for v, fill in ((YT, torch.nan), (XT, 0.0)))
    law = gp(Decoding(block_size, order), joint=True, x=x, mask=mask)
    torch.testing.assert_close(law.joint_log_prob(y, mask), exact((6, 3)))


def test_several_orders_mix_densities():
    """A model that is not consistent gives each order its own density; the mixture is their mean."""

    def predict(state, xt, mask_t):
        return DiagonalGaussian(xt + state.sum(1, keepdim=True), torch.ones_like(xt))

    def absorb(state, x, y, mask):
        return torch.cat([state, y * x], 1)

    def law(**kw):
        return Autoregressive(Verbs(1, predict, absorb), XC, XT, None, Decoding(**kw))

    a, b = law().joint_log_prob(YT), law(order="random").joint_log_prob(YT)
    assert (a - b).abs().min() > 1e-3
    expected = torch.as_tensor(np.logaddexp(a.numpy(), b.numpy()) - np.log(2))
    torch.testing.assert_close(law(num_orders=2).joint_log_prob(YT), expected)


@pytest.mark.parametrize(
    "decoding", [Decoding(), Decoding(2, "random"), Decoding(1, "distance", 2), Decoding(num_anchors=6)]
)
def test_draws_have_the_exact_mean_and_covariance(decoding):
    torch.manual_seed(0)
    n = 20_000
    draws = gp(decoding, joint=decoding.block_size > 1).sample(n)[..., 0]
    mean, covariance = posterior((XC, YC, torch.ones(2, 4, dtype=torch.float64)), XT)
    stddev = covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    assert ((draws.mean(0) - mean[..., 0]).abs() < 5 * stddev / n**0.5).all()
    for i in range(2):
        error = torch.as_tensor(np.cov(draws[:, i].T.numpy())) - covariance[i]
        assert (error.abs() < 6 * torch.outer(stddev[i], stddev[i]) / n**0.5).all()


@pytest.mark.parametrize("order", ["given", "random", "distance"])
def test_draws_come_back_in_the_callers_order(order):
    """On y = 2x, the task on which public code returns permuted draws."""

    def predict(state, xt, mask_t):
        return DiagonalGaussian(2 * xt, torch.full_like(xt, 1e-3))

    law = Autoregressive(Verbs(1, predict, lambda state, *_: state), XC, XT, None, Decoding(order=order))
    assert (law.sample(3) - 2 * XT).abs().max() < 0.01


@pytest.mark.parametrize("order", ["given", "random", "distance"])
def test_seeded_draws_ignore_batch_and_padding(order):
    x = XT.repeat(2, 1, 1)[:3]
    mask = torch.arange(6) < torch.tensor([6, 4, 6])[:, None]

    def law(x, mask):
        def predict(state, xt, mask_t):
            return DiagonalGaussian(xt + state, torch.ones_like(xt))

        return Autoregressive(
            Verbs(1, predict, lambda s, x, y, m: s + y.sum(1, keepdim=True)),
            x[:, :1] * 0,
            x,
            mask,
            Decoding(order=order),
        )

    together = law(torch.where(mask[..., None], x, 0.0), mask).sample(5, seed=3)
    alone = law(x[1:2, :4], None).sample(5, seed=3)
    torch.testing.assert_close(together[:, 1:2, :4], alone)
    assert torch.equal(together[:, 0], together[:, 2])  # the same task, the same noise
    assert together.std(0).min() > 0.1  # but not the same draw five times


def test_impossible_settings_are_refused(untyped):
    with pytest.raises(ConfigError, match="block_size"):
        Decoding(0)
    with pytest.raises(UnknownNameError, match="did you mean 'random'"):
        Decoding(order="rnadom")


def test_nothing_to_draw():
    assert gp(Decoding()).sample(0).shape == (0, 2, 6, 1)
    assert gp(Decoding(), x=XT[:, :0]).sample(3).shape == (3, 2, 0, 1)


def test_single_draws_are_of_the_whole_mixture():
    """One draw at a time must not always take the first order."""
    seen = []

    def predict(state, xt, mask_t):
        seen.append(float(xt[0, 0, 0]))
        return DiagonalGaussian(xt, torch.ones_like(xt))

    law = Autoregressive(Verbs(1, predict, lambda state, *_: state), XC, XT, None, Decoding(num_orders=4))
    torch.manual_seed(0)
    firsts = set()
    for _ in range(30):
        seen.clear()
        law.sample(1)
        firsts.add(seen[0])
    assert len(firsts) > 1
