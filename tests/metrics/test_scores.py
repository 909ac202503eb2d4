"""Per-task scores against SciPy, closed forms and brute force, with NaN in every padded slot."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from npexp.likelihoods import DiagonalGaussian
from npexp.metrics import scores, task_scores
from npexp.metrics.scores import ENERGY_DRAWS, ENERGY_SEED, LEVELS, pooled_loglik


class Shifted(DiagonalGaussian):
    """Normal outputs whose targets share one unknown shift per task and output: joint and marginal law differ."""

    SHIFT = 0.8

    @property
    def stddev(self):
        return (self._stddev**2 + self.SHIFT**2).sqrt()

    def marginal_log_prob(self, yt):
        return DiagonalGaussian(self.mean, self.stddev).marginal_log_prob(yt)

    def joint_log_prob(self, yt, mask_t=None):
        return torch.stack([self._one(t, yt[t], mask_t[t]) for t in range(len(yt))])

    def _one(self, task, yt, mask):
        mean, var = self._mean[task, mask], self._stddev[task, mask] ** 2
        laws = [
            torch.distributions.MultivariateNormal(mean[:, d], torch.diag(var[:, d]) + self.SHIFT**2)
            for d in range(mean.shape[1])
        ]
        return sum(law.log_prob(yt[mask, d]) for d, law in enumerate(laws))


@pytest.fixture
def tasks(make_tasks):
    return make_tasks(9)


@pytest.fixture
def got(tasks, collate):
    return task_scores(*collate(tasks))


def per_task(tasks, score):
    """`score(y, mean, stddev)` of each unpadded task, as arrays `[nt, dy]`."""
    return [score(*(a[0].numpy() for a in (batch.yt, pred.mean, pred.stddev))) for pred, batch in tasks]


def oracle(y, m, s):
    """The law that made the targets, recovered from how the prediction was spoilt."""
    return stats.norm.logpdf(y, m - 0.3, s / 0.7).mean()


def test_names_shapes_dtype(got):
    assert set(got) == {
        *("loglik_joint", "loglik_marginal", "oracle_gap_joint", "oracle_gap_marginal"),
        *("mse", "mae", "crps", "energy_score", "coverage_95", "pit_coverage"),
    }
    assert got.pop("pit_coverage").shape == (9, 19)
    assert all(v.shape == (9,) and v.dtype == torch.float64 and v.isfinite().all() for v in got.values())


def test_float32_predictions_are_summed_in_float64(tasks, collate, got):
    pred, batch = collate(tasks)
    floats = {k: v.float() for k, v in batch._asdict().items() if not k.startswith("mask")}
    batch = batch._replace(**floats)
    low = task_scores(DiagonalGaussian(pred.mean.float(), pred.stddev.float()), batch)
    assert all(v.dtype == torch.float64 for v in low.values())
    torch.testing.assert_close(low, got, rtol=1e-4, atol=1e-4)


def test_log_likelihoods_are_per_target_and_channel(tasks, got):
    expected = per_task(tasks, lambda y, m, s: stats.norm.logpdf(y, m, s).mean())
    np.testing.assert_allclose(got["loglik_marginal"], expected, rtol=1e-10)
    np.testing.assert_allclose(got["loglik_joint"], expected, rtol=1e-10)


def test_joint_and_marginal_differ_for_a_joint_law(tasks, collate):
    pred, batch = collate(tasks)
    got = scores.log_scores(Shifted(pred.mean, pred.stddev), batch)

    def joint(y, m, s):
        law = [stats.multivariate_normal(m[:, d], np.diag(s[:, d] ** 2) + Shifted.SHIFT**2) for d in range(y.shape[1])]
        return sum(p.logpdf(y[:, d]) for d, p in enumerate(law)) / y.size

    def marginal(y, m, s):
        return stats.norm.logpdf(y, m, np.hypot(s, Shifted.SHIFT)).mean()

    np.testing.assert_allclose(got["loglik_joint"], per_task(tasks, joint), rtol=1e-8)
    np.testing.assert_allclose(got["loglik_marginal"], per_task(tasks, marginal), rtol=1e-10)
    for kind in ("joint", "marginal"):  # both oracles know the same factorised law
        total = got[f"oracle_gap_{kind}"] + got[f"loglik_{kind}"]
        np.testing.assert_allclose(total, per_task(tasks, oracle), rtol=1e-8)


def test_oracle_gap(tasks, collate, got):
    expected = per_task(tasks, oracle)
    np.testing.assert_allclose(got["oracle_gap_joint"], expected - got["loglik_joint"].numpy(), rtol=1e-8)
    np.testing.assert_allclose(got["oracle_gap_marginal"], expected - got["loglik_marginal"].numpy(), rtol=1e-8)
    pred, batch = collate(tasks)
    without = task_scores(pred, batch._replace(oracle_joint=None, oracle_marginal=None))
    assert set(got) - set(without) == {"oracle_gap_joint", "oracle_gap_marginal"}


def test_point_errors(tasks, got):
    np.testing.assert_allclose(got["mse"], per_task(tasks, lambda y, m, s: ((y - m) ** 2).mean()), rtol=1e-10)
    np.testing.assert_allclose(got["mae"], per_task(tasks, lambda y, m, s: abs(y - m).mean()), rtol=1e-10)


def test_crps_is_the_integral_of_its_definition(tasks, got):
    def crps(y, m, s):
        def one(y, m, s):
            below, _ = integrate.quad(lambda t: stats.norm.cdf(t, m, s) ** 2, m - 12 * s, y)
            above, _ = integrate.quad(lambda t: stats.norm.sf(t, m, s) ** 2, y, m + 12 * s)
            return below + above

        return np.vectorize(one)(y, m, s).mean()

    np.testing.assert_allclose(got["crps"], per_task(tasks, crps), rtol=1e-6)


def test_pit_coverage(tasks, got):
    def inside(level):
        return lambda y, m, s: (abs(y - m) / s <= stats.norm.ppf(0.5 + level / 2)).mean()

    for k, level in enumerate(LEVELS):
        np.testing.assert_allclose(got["pit_coverage"][:, k], per_task(tasks, inside(level)), rtol=1e-10)
    np.testing.assert_allclose(got["coverage_95"], per_task(tasks, inside(0.95)), rtol=1e-10)


def test_energy_score_is_brute_force_over_the_same_draws(tasks, got):
    expected = []
    for pred, batch in tasks:
        y = batch.yt.numpy().ravel()
        draws = pred.sample(ENERGY_DRAWS, seed=ENERGY_SEED).numpy().reshape(ENERGY_DRAWS, -1)
        near = [np.linalg.norm(a - y) for a in draws]
        pairs = [np.linalg.norm(a - b) for i, a in enumerate(draws) for j, b in enumerate(draws) if i != j]
        expected.append((np.mean(near) - np.mean(pairs) / 2) / math.sqrt(y.size))
    np.testing.assert_allclose(got["energy_score"], expected, rtol=1e-10)


def test_energy_score_of_single_values_is_the_crps(make_tasks, collate):
    pred, batch = collate(make_tasks(3000), extra=0)
    one = batch._replace(yt=batch.yt[:, :1, :1], xt=batch.xt[:, :1], mask_t=None, oracle_joint=None)
    got = task_scores(
        DiagonalGaussian(pred.mean[:, :1, :1], pred.stddev[:, :1, :1]), one._replace(oracle_marginal=None)
    )
    assert float(got["energy_score"].mean()) == pytest.approx(float(got["crps"].mean()), rel=0.05)


def test_energy_score_can_be_left_out(tasks, collate, monkeypatch):
    monkeypatch.setattr(DiagonalGaussian, "sample", lambda *_, **__: pytest.fail("sampled"))
    assert "energy_score" not in task_scores(*collate(tasks), energy=False)


def test_padding_and_neighbours_are_inert(tasks, collate, got):
    far = task_scores(*collate(tasks, extra=7))
    alone = [task_scores(*task) for task in tasks]
    for name, values in got.items():
        torch.testing.assert_close(far[name], values, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(torch.cat([a[name] for a in alone]), values, rtol=1e-12, atol=1e-14)


def test_predictions_are_never_asked_about_nan(tasks, collate, monkeypatch):
    def checked(method):
        def ask(self, y, *args):
            assert y.isfinite().all()
            return method(self, y, *args)

        return ask

    for name in ("joint_log_prob", "marginal_log_prob", "cdf", "crps"):
        monkeypatch.setattr(DiagonalGaussian, name, checked(getattr(DiagonalGaussian, name)))
    pred, batch = collate(tasks)
    task_scores(DiagonalGaussian(pred.mean.nan_to_num(0), pred.stddev.nan_to_num(1)), batch)


def test_a_prediction_of_nan_reaches_every_score(tasks, collate):
    pred, batch = collate(tasks)
    mean = pred.mean.clone()
    mean[0, 0, 0] = math.nan
    got = task_scores(DiagonalGaussian(mean, pred.stddev), batch)
    assert all(v[0].isnan().all() and v[1:].isfinite().all() for v in got.values())


def test_pooled_weighs_targets_not_tasks():
    got = pooled_loglik(torch.tensor([1.0, 2.0], dtype=torch.float64), torch.tensor([3, 1]), dy=2)
    assert float(got) == pytest.approx(2 * (3 * 1.0 + 1 * 2.0) / 4)
