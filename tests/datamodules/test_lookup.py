"""Rough functions: what is known of a target is in its neighbours, and a few points of many are not enough."""

import math

import numpy as np
import pytest
import torch

import npexp
from datamodules.oracle import gp_predictive


def predictions(data, x, y, xt, noise):
    u = torch.zeros(x.shape[0], data.kernel.num_hyper)
    return [v[..., 0].numpy() for v in gp_predictive(data.kernel, u, x, y, xt, noise)]


def loglik(y, mean, stddev):
    return (-0.5 * ((y - mean) / stddev) ** 2 - np.log(stddev) - 0.5 * math.log(2 * math.pi)).mean()


def test_sizes():
    data = npexp.build_data("lookup")
    sizes = [data.make_batch("train", index).check() for index in range(30)]
    assert all(64 <= b.xc.shape[1] <= 128 and 16 <= b.xt.shape[1] <= 32 for b in sizes)
    values = torch.cat([b.yc.flatten() for b in sizes])
    assert 0.8 < values.std() < 1.2


def test_the_two_neighbours_say_it_all():
    """Without noise the process between two points is a bridge, whose law no other point changes."""
    data = npexp.build_data("lookup")
    batch = data.make_batch("test", 0)
    order = batch.xc[..., 0].argsort(1)[..., None]
    xc, yc = (v.gather(1, order) for v in (batch.xc, batch.yc))
    xt = batch.xt[:, :1]
    right = (xc < xt).sum(1, keepdim=True).clamp(1, xc.shape[1] - 1)
    pair = torch.cat([right - 1, right], 1)
    two = predictions(data, xc.gather(1, pair), yc.gather(1, pair), xt, 1e-4)
    every = predictions(data, xc, yc, xt, 1e-4)
    np.testing.assert_allclose(two, every, atol=1e-3)
    left, right, at = (v.double().numpy() for v in (*xc.gather(1, pair)[..., 0].T, xt[:, 0, 0]))
    inside = (left < at) & (at < right)
    a, b, both = (-np.expm1(-2 * d / 0.3) for d in (at - left, right - at, right - left))
    np.testing.assert_allclose(every[1][inside, 0] ** 2, (a * b / both)[inside], atol=1e-5)  # the bridge's variance


def test_few_points_do_not_do():
    data, scores = npexp.build_data("lookup"), []
    for index in range(20):
        batch = data.make_batch("test", index)
        order = batch.xc[..., 0].argsort(1)[..., None]
        kept = order[:, torch.linspace(0, order.shape[1] - 1, 8).round().long()]
        few = predictions(data, batch.xc.gather(1, kept), batch.yc.gather(1, kept), batch.xt, 0.05)
        yt = batch.yt[..., 0].numpy()
        prior = loglik(yt, 0.0, math.sqrt(1 + 0.05**2))
        scores.append((float(batch.oracle_marginal.mean()), loglik(yt, *few), prior))
    exact, few, prior = np.mean(scores, 0)
    assert exact == pytest.approx(-0.06, abs=0.06)
    assert few == pytest.approx(-1.0, abs=0.06)
    assert prior == pytest.approx(-1.42, abs=0.06)
