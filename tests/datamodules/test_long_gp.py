"""Long functions: exact scores against the dense ones, sizes, and contexts of 100,000 points."""

import numpy as np
import pytest
import torch

from datamodules import RBF, Circulant, LongGP, Markov, Matern, RandomFeatures
from datamodules.loader import generator
from datamodules.long_gp import predictive, scores
from datamodules.oracle import factor, gp_predictive, whiten
from datamodules.oracle import scores as dense
from npexp.errors import ConfigError

FAST = Markov(Matern(1.5))
SMALL = {"num_context": (5, 30), "num_target": (4, 10), "batch_size": 4}


def observed(nu, n, ends=(-2.0, 2.0), noise=0.1):
    """A few tasks with a point seen twice."""
    sampler, rng = Markov(Matern(nu)), generator(0, "x", index=0)
    drawn = sampler.draw(rng, ends, 3, n, 1)
    drawn.x[:, 1], drawn.y[:, 1] = drawn.x[:, n - 1], drawn.y[:, n - 1]
    return sampler, drawn, (drawn.y + noise * rng.standard_normal((3, n))).astype(np.float32)


@pytest.mark.parametrize("nc", [0, 1, 150])
@pytest.mark.parametrize("nu", [0.5, 1.5, 2.5])
def test_scores_are_those_of_the_dense_factorisation(nu, nc):
    sampler, drawn, y = observed(nu, nc + 20)
    joint, marginal = scores(sampler, drawn, y, nc, 0.1, np.ones(y.shape, bool))
    x, u = torch.from_numpy(drawn.x).double(), torch.from_numpy(drawn.u)
    chol = factor(sampler.kernel, u, x, 0.1)
    exact = dense(chol, whiten(chol, torch.from_numpy(y).double()), nc)
    np.testing.assert_allclose(joint, exact.joint, atol=1e-7)
    np.testing.assert_allclose(marginal, exact.marginal, atol=1e-7)


def test_predictions_are_those_of_the_dense_factorisation():
    sampler, drawn, y = observed(2.5, 60)
    mean, variance, _ = predictive(sampler, drawn, y, 40, 0.1, np.ones(y.shape, bool))
    x, y = torch.from_numpy(drawn.x), torch.from_numpy(y)[..., None]
    expected = gp_predictive(sampler.kernel, torch.from_numpy(drawn.u), x[:, :40], y[:, :40], x[:, 40:], 0.1)
    np.testing.assert_allclose(mean, expected[0][..., 0], atol=1e-8)
    np.testing.assert_allclose(variance**0.5, expected[1][..., 0], atol=1e-8)


def test_padding_leaves_the_scores_alone():
    dm = LongGP(FAST, ragged=True, **SMALL)
    batch = dm.make_batch("val", 0).check()
    assert len(set(batch.num_context.tolist())) > 1 and (batch.oracle_marginal[~batch.mask_t] == 0).all()
    rng = generator(0, "val", index=0)
    dm.draw_sizes(rng)
    u = torch.from_numpy(rng.random((4, 2)))  # the first thing that a sampler draws
    for i in range(4):
        c, t = batch.mask_c[i], batch.mask_t[i]
        x = torch.cat([batch.xc[i, c], batch.xt[i, t]])[None].double()
        y = torch.cat([batch.yc[i, c], batch.yt[i, t]])[None, :, 0].double()
        chol = factor(FAST.kernel, u[i : i + 1], x, 0.1)
        exact = dense(chol, whiten(chol, y), int(c.sum()))
        torch.testing.assert_close(batch.oracle_joint[i], exact.joint[0].float(), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(batch.oracle_marginal[i, t], exact.marginal[0].float(), atol=1e-4, rtol=1e-4)


def test_sizes_splits_and_traits():
    dm = LongGP(FAST, test_contexts={"more": 77}, **SMALL)
    assert dm.test_names == ("test", "test_more")
    for index in range(20):
        batch = dm.make_batch("train", index).check()
        assert 5 <= batch.xc.shape[1] <= 30 and 4 <= batch.xt.shape[1] <= 10 and batch.xc.abs().max() <= 4
        assert batch.oracle_joint is None
    assert dm.make_batch("test_more", 0).check().xc.shape == (4, 77, 1)
    assert dm.make_batch("test_more", 0).oracle_joint is not None
    again = LongGP(FAST, **SMALL).make_batch("test", 1)
    assert all(torch.equal(a, b) for a, b in zip(dm.make_batch("test", 1), again, strict=True) if a is not None)
    assert dm.traits["oracle"] is True and dm.traits["approximate"] is False


def test_longer_ragged_contexts_are_whole():
    batch = LongGP(FAST, ragged=True, test_contexts={"more": 77}, **SMALL).make_batch("test_more", 0).check()
    assert (batch.num_context == 77).all() and len(set(batch.num_target.tolist())) > 1


@pytest.mark.parametrize("nu", [0.5, 2.5])
def test_contexts_of_100_000_points(nu):
    dm = LongGP(Markov(Matern(nu)), num_context=(100_000, 100_000), num_target=(50, 50), batch_size=1)
    batch = dm.make_batch("train", 0).check()
    assert batch.xc.shape == (1, 100_000, 1)
    assert len(batch.xc.unique()) < 100_000  # float32 makes neighbours meet, and the chain does not mind
    order = batch.xc[0, :, 0].argsort()
    steps = batch.yc[0, order, 0].diff()
    assert steps.std().item() == pytest.approx(0.1 * 2**0.5, rel=0.05)  # the function hardly moves between neighbours


def test_scores_of_a_long_context():
    """At 4,000 points, of which the nearest determine all that can be known: a dense factor of them."""
    sampler, drawn, y = observed(1.5, 4001, (-8.0, 8.0))
    _, marginal = scores(sampler, drawn, y, 4000, 0.1, np.ones(y.shape, bool))
    x, target = drawn.x[..., 0].astype(float), drawn.x[:, -1:, 0]
    near = np.abs(x - target).argsort(1)[:, :1200]
    near = np.concatenate([np.sort(near[near != 4000].reshape(3, -1), 1), np.full((3, 1), 4000)], 1)
    points, values = (torch.from_numpy(np.take_along_axis(v.astype(float), near, 1)) for v in (x, y))
    chol = factor(sampler.kernel, torch.from_numpy(drawn.u), points[..., None], 0.1)
    exact = dense(chol, whiten(chol, values), points.shape[1] - 1)
    np.testing.assert_allclose(marginal, exact.marginal, atol=1e-6)


def test_other_samplers():
    grid = LongGP(Circulant(RBF(), 64), test_contexts={"more": 50}, **SMALL)
    waves = LongGP(RandomFeatures(RBF(), 32), dx=2, **SMALL)
    for dm, approximate, kind in ((grid, False, "curve"), (waves, True, "parity")):
        assert dm.traits["approximate"] is approximate and dm.traits["oracle"] is False
        assert dm.make_batch("test", 0).check().oracle_joint is None
        assert [task.kind for task in dm.plot_tasks(2)] == [kind, kind]
    assert waves.make_batch("train", 0).check().xc.shape[2] == 2
    assert grid.plot_tasks(1)[0].mean is None


def test_plot_tasks():
    for task in LongGP(FAST, **SMALL).plot_tasks(3):
        batch = task.batch.check()
        assert batch.num_tasks == 1 and (batch.xt[0, 1:] >= batch.xt[0, :-1]).all()
        assert task.truth.shape == task.mean.shape == task.stddev.shape == batch.yt.shape
        assert ((batch.yt - task.mean) / task.stddev).square().mean().item() == pytest.approx(1, abs=0.6)
        assert (batch.yt - task.truth).std().item() == pytest.approx(0.1, rel=0.2)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"noise": 0.0}, "noise > 0"),
        ({"noise": -0.1, "sampler": RandomFeatures(RBF())}, "noise to be a number, at least 0.0"),
        ({"dx": 2}, "dx of 1 with Markov, got 2: use RandomFeatures"),
        ({"dx": 2, "sampler": Circulant(RBF())}, "dx of 1 with Circulant"),
        ({"input_range": (1.0, -1.0)}, "input_range as"),
        ({"test_contexts": {"a b": 5}}, "names of test sets"),
        ({"test_contexts": {"more": 0}}, "test_contexts.more to be an integer, at least 1"),
        ({"sampler": Circulant(RBF(), 39)}, "at most 39 points, the num_points of Circulant, got 40"),
        ({"sampler": Circulant(RBF(), 99), "test_contexts": {"more": 90}}, "at most 99 points"),
    ],
)
def test_bad_settings_are_typed_errors(settings, message):
    with pytest.raises(ConfigError, match=f"expected {message}"):
        LongGP(**{"sampler": FAST, **SMALL, **settings})
