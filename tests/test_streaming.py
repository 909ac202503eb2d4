"""The exact laws that results/streaming compares with, each against another way to it."""

import math
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.distributions import MultivariateNormal

NOISE = 0.02


@pytest.fixture(scope="module")
def stream():
    path = Path(__file__).parents[1] / "results" / "streaming" / "stream.py"
    return SimpleNamespace(**runpy.run_path(str(path)))


def covariance(s, task, knows_drift=True):
    """Of all readings of a stream, written out."""
    x, t = s.x[task, :, 0], s.t
    n = len(x)
    out = torch.empty(n, n, dtype=torch.float64)
    length, scale, drift = (float(v[task]) for v in (s.lengthscale, s.scale, s.drift))
    for i in range(n):
        for j in range(n):
            age = 3**0.5 * abs(float(t[i] - t[j])) / drift if knows_drift else 0.0
            near = torch.exp(-((x[i] - x[j]) ** 2) / (2 * length**2))
            out[i, j] = scale**2 * near * (1 + age) * math.exp(-age) + NOISE**2 * (i == j)
    return out


def test_laws_one_step_ahead_make_the_joint_law(stream):
    s = stream.draw([5.0, 40.0], 1, 14)
    for task in range(2):
        whole = MultivariateNormal(torch.zeros(14).double(), covariance(s, task)).log_prob(s.y[task, :, 0])
        steps = torch.distributions.Normal(s.mean[task], s.stddev[task]).log_prob(s.y[task, :, 0])
        torch.testing.assert_close(steps.sum(), whole)


def test_a_window_that_holds_everything_is_the_exact_law(stream):
    s = stream.draw([5.0, 40.0], 2, 14)
    mean, stddev = stream.window_law(s, 0, 13, True)
    torch.testing.assert_close(mean, s.mean[:, 13])
    torch.testing.assert_close(stddev, s.stddev[:, 13])


def test_a_window_without_drift_conditions_on_its_readings(stream):
    s = stream.draw([5.0], 1, 14)
    full = covariance(s, 0, knows_drift=False)[4:, 4:]
    weights = torch.linalg.solve(full[:-1, :-1], full[:-1, -1])
    mean, stddev = stream.window_law(s, 4, 13, False)
    torch.testing.assert_close(mean[0], weights @ s.y[0, 4:13, 0])
    torch.testing.assert_close(stddev[0].square(), full[-1, -1] - weights @ full[:-1, -1])


def test_an_inverse_that_follows_a_window_is_that_of_the_window(stream):
    x = 4 * torch.rand(95, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 2
    y = (3 * x).sin()
    slid, at = stream.WindowGP(x[:15], y[:15], 0.35, 0.55), torch.tensor(0.3, dtype=torch.float64)
    for i in range(15, 95):  # goes round five times and more
        slid.replace(x[i], y[i])
    anew = stream.WindowGP(x[80:], y[80:], 0.35, 0.55).anew(at)
    torch.testing.assert_close(slid.predict(at), anew)
    torch.testing.assert_close(slid.anew(at), anew)
