"""A fact far away: closed forms of what everybody, and of what a window, can know of the targets."""

import math

import numpy as np
import pytest
import torch

import npexp
from datamodules import FarFact
from datamodules.oracle import gp_predictive
from npexp.errors import ConfigError

NOISE = 0.1


def columns(batch):
    return [v[..., 0].double().numpy() for v in (batch.xc, batch.yc, batch.xt, batch.yt)]


def normal(y, mean, variance):
    return -0.5 * (np.log(2 * math.pi * variance) + (y - mean) ** 2 / variance)


def level(y, prior=1.0):
    """Posterior mean and variance of a level of which these noisy values are known."""
    precision = 1 / prior + len(y) / NOISE**2
    return y.sum() / NOISE**2 / precision, 1 / precision


def test_where_points_lie():
    data = npexp.build_data("far_fact")
    for index in range(30):
        xc, _, xt, _ = columns(data.make_batch("train", index).check())
        assert 30 <= xc.shape[1] <= 60 and 8 <= xt.shape[1] <= 16
        assert xc.min() >= -2 and xc.max() <= 1 <= xt.min() and xt.max() <= 2
        share = (xc <= -1.5).mean()
        assert 1 / 6 - 0.08 < share < 1 / 6 + 0.08


def test_functions_have_two_levels_and_their_sum():
    data = npexp.build_data("far_fact", noise=0.0, batch_size=400)
    xc, yc, _, yt = columns(data.make_batch("train", 0))
    jitter = 0.01  # where there is no noise the sampler adds a millionth of the variance
    levels = []
    for x, y, target in zip(xc, yc, yt, strict=True):
        far, near = y[x <= -1.5], y[x > -1.5]
        if len(far):
            levels.append((far[0], near[0]))
            assert np.ptp(far) < jitter and np.ptp(near) < jitter
            np.testing.assert_allclose(target, far[0] + near[0], atol=jitter)
    covariance = np.cov(np.array(levels).T)
    np.testing.assert_allclose(covariance, np.eye(2), atol=0.25)


def test_ceiling_is_that_of_two_averages():
    """Far and near level have independent posteriors, and a target is their sum."""
    batch = npexp.build_data("far_fact").make_batch("test", 0)
    for task, (xc, yc, _, yt) in enumerate(zip(*columns(batch), strict=True)):
        (far, of_far), (near, of_near) = level(yc[xc <= -1.5]), level(yc[xc > -1.5])
        shared = of_far + of_near  # error that all targets of a task have in common
        expected = normal(yt, far + near, shared + NOISE**2)
        np.testing.assert_allclose(batch.oracle_marginal[task], expected, atol=1e-4)
        covariance = shared + NOISE**2 * np.eye(len(yt))
        error = yt - far - near
        joint = -0.5 * (error @ np.linalg.solve(covariance, error) + np.linalg.slogdet(2 * math.pi * covariance)[1])
        assert float(batch.oracle_joint[task]) == pytest.approx(joint, abs=1e-3)


def test_windows_cannot_know_it():
    """From the 12 points that are nearest to a target the far level keeps its whole variance."""
    data = npexp.build_data("far_fact")
    best, window = [], []
    for index in range(40):
        batch = data.make_batch("test", index)
        chosen = batch.xc.topk(12, dim=1).indices  # all targets are to the right of all of the context
        x, y = (v.gather(1, chosen) for v in (batch.xc, batch.yc))
        assert (x > -1.5).all()
        u = torch.zeros(16, 1)
        mean, stddev = (v[..., 0].numpy() for v in gp_predictive(data.kernel, u, x, y, batch.xt, NOISE))
        _, of_near = level(np.zeros(12))
        np.testing.assert_allclose(stddev**2, 1 + of_near + NOISE**2, rtol=1e-6)
        window.append(normal(batch.yt[..., 0].numpy(), mean, stddev**2).mean())
        best.append(batch.oracle_marginal.mean())
    assert np.mean(best) == pytest.approx(0.79, abs=0.05)
    assert np.mean(window) == pytest.approx(-1.42, abs=0.1)


def test_steps_must_be_in_order():
    with pytest.raises(ConfigError, match=r"expected edge < echo, got 1.0 and -1.0"):
        FarFact(edge=1.0, echo=-1.0)
    with pytest.raises(ConfigError, match="expected scale"):
        FarFact(scale=(0.0, 1.0))
