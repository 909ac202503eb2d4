"""Tau-leaping against closed forms and against exact simulation; how tasks are made of it."""

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp, kstest

import datamodules.lotka_volterra
from datamodules import LotkaVolterra
from datamodules.lotka_volterra import tau_leap
from npexp.errors import ConfigError
from npexp.scaling import Scaling

RATES = np.array([0.55, 0.0028, 0.0024, 0.80])  # the fit to the record, with ten animals per thousand


def runs(begin, rates, num, steps, step, seed=0):
    """The last numbers of many runs with the same rates, `[2, num]`."""
    begin = np.tile(np.array(begin)[:, None], (1, num))
    path = tau_leap(np.random.default_rng(seed), begin, np.tile(np.array(rates)[:, None], (1, num)), steps, step)
    assert path.shape == (steps + 1, 2, num) and (path >= 0).all() and (path[0] == begin).all()
    return path[-1]


@pytest.mark.parametrize(("step", "accuracy"), [(0.1, 0.08), (0.02, 0.04)])
def test_prey_alone_are_a_birth_process(step, accuracy):
    """Yule's process: mean n e^(a t), variance n e^(a t) (e^(a t) - 1), a little less with steps that are not short."""
    prey, predators = runs([40, 0], [0.6, 0.01, 0.01, 0.5], 8000, round(2 / step), step)
    growth = np.exp(0.6 * 2)
    assert prey.mean() == pytest.approx(40 * growth, rel=0.005)
    assert prey.var() == pytest.approx(40 * growth * (growth - 1), rel=accuracy)
    assert (predators == 0).all()  # none are born of none


@pytest.mark.parametrize(("step", "accuracy"), [(0.1, 0.1), (0.02, 0.04)])
def test_predators_alone_are_a_death_process(step, accuracy):
    """Each lives on with probability e^(-c t), so the number is binomial."""
    prey, predators = runs([0, 60], [0.6, 0.01, 0.01, 0.5], 8000, round(2 / step), step)
    lives = np.exp(-0.5 * 2)
    assert predators.mean() == pytest.approx(60 * lives, rel=0.005)
    assert predators.var() == pytest.approx(60 * lives * (1 - lives), rel=accuracy)
    assert (prey == 0).all()


def exact(rng, begin, rates, years):
    """Gillespie's algorithm: one event after the other."""
    (x, y), t = begin, 0.0
    while True:
        hazards = [rate * size for rate, size in zip(rates, (x, x * y, x * y, y), strict=True)]
        t += rng.exponential(1 / sum(hazards)) if any(hazards) else np.inf
        if t > years:
            return x, y
        event = np.searchsorted(np.cumsum(hazards), rng.random() * sum(hazards))
        x, y = x + (1, -1, 0, 0)[event], y + (0, 0, 1, -1)[event]


def test_both_together_follow_the_exact_simulation():
    rng = np.random.default_rng(1)
    few = RATES * (1, 5, 5, 1)  # two animals per thousand, for more chance and less work
    true = np.array([exact(rng, (40, 8), few.tolist(), 3.0) for _ in range(150)]).T
    leapt = runs((40, 8), few, 4000, 30, 0.1)
    for species in range(2):
        assert ks_2samp(true[species], leapt[species]).pvalue > 0.01
    error = true.std(1) / 150**0.5
    assert (abs(true.mean(1) - leapt.mean(1)) < 3.5 * error).all()


def test_many_animals_follow_the_differential_equations():
    """Steps of a tenth of a year cost little accuracy over 20 years; at rates of the beginning cycles would widen."""
    from scipy.integrate import solve_ivp

    a, b, d, c = RATES
    flow = lambda t, s: (s[0] * (a - b * s[1]), s[1] * (d * s[0] - c))  # noqa: E731
    end = solve_ivp(flow, (0, 20), (300.0, 60.0), rtol=1e-8).y[:, -1]
    thousand = 1000  # times as many animals, so that chance hardly matters
    mean = runs((300 * thousand, 60 * thousand), RATES / (1, thousand, thousand, 1), 20, 200, 0.1).mean(1) / thousand
    np.testing.assert_allclose(mean, end, rtol=0.1)


@pytest.fixture
def dm(monkeypatch):
    monkeypatch.setattr(datamodules.lotka_volterra, "TOGETHER", 64)  # blocks of four batches
    return LotkaVolterra()


def test_trajectories_live_below_the_ceiling(dm):
    thousands = dm.trajectories(np.random.default_rng(0), 300)
    assert thousands.shape == (300, 201, 2) and thousands.dtype == np.float32
    assert thousands.min() > 0 and thousands.max() <= 150
    start = np.log(thousands[:, 0])
    assert abs(np.corrcoef(start.T)[0, 1]) < 0.15
    # the record lies within: its peaks of 77 and 59 thousand, and its means of 34 and 20
    assert all((thousands.max(1) > peak).mean(0)[s] > 0.1 for s, peak in enumerate((77.4, 59.4)))
    assert all(np.quantile(thousands.mean(1)[:, s], 0.1) < m < np.quantile(thousands.mean(1)[:, s], 0.9)
               for s, m in enumerate((34.1, 20.2)))  # fmt: skip


def test_a_batch_depends_on_its_number_only(dm):
    batches = [dm.make_batch("train", index) for index in range(6)]
    for index in (5, 0, 3):
        again = LotkaVolterra().make_batch("train", index).check()
        assert torch.equal(again.yt, batches[index].yt) and torch.equal(dm.make_batch("train", index).xc, again.xc)
    firsts = {float(batch.yt[0, 0, 0]) for batch in batches}
    assert len(firsts) == 6


def test_sizes_and_times(dm):
    for index in range(30):
        batch = dm.make_batch("train", index)
        nc, nt = batch.xc.shape[1], batch.xt.shape[1]
        assert 3 <= nc <= 15 and 6 <= nt <= min(18, 21 - nc) and batch.yt.shape == (16, nt, 2)
        years = (torch.cat([batch.xc, batch.xt], 1)[..., 0].double() + 2) * 5
        steps = (years * 10).round()
        assert (years * 10 - steps).abs().max() < 1e-4 and steps.min() >= 0 and steps.max() <= 200
        assert all(len(row.unique()) == nc + nt for row in steps)
    ragged = LotkaVolterra(ragged=True).make_batch("train", 0).check()
    assert ragged.mask_c is not None and not ragged.yc[~ragged.mask_c].any()


def test_what_is_seen_has_log_normal_errors(dm):
    fixed = {"num_context": (200, 200), "num_target": (1, 1), "max_points": None}
    exactly, noisy = (
        LotkaVolterra(noise=(sd, sd), **fixed).make_batch("train", 0).yc.double() * 25 + 30 for sd in (0.0, 0.2)
    )
    error = (noisy.log() - exactly.log()).flatten().numpy()
    assert kstest(error / 0.2, "norm").pvalue > 0.01
    assert exactly.min() > 0
    assert Scaling.make(dm.scaling, 1, 2).y(torch.full((1, 2), 55.0)).tolist() == [[1.0, 1.0]]


def test_plot_tasks(dm):
    tasks = dm.plot_tasks(3)
    assert [task.batch.xc.shape[1] for task in tasks] == [6, 9, 12]
    for task, again in zip(tasks, dm.plot_tasks(3), strict=True):
        batch = task.batch.check()
        assert torch.equal(batch.yt, again.batch.yt) and task.kind == "curve" and task.truth.shape == batch.yt.shape
        assert batch.xt[0, 0] == -2 and batch.xt[0, -1] == 2 and batch.xt.shape[1] == 201


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"growth": (0.0, 1.0)}, "expected growth"),
        ({"start": (2.0, 1.0)}, "expected start"),
        ({"noise": (-0.1, 0.1)}, "expected noise"),
        ({"animals": 0.0}, "expected animals > 0"),
        ({"step": float("nan")}, "expected step > 0"),
        ({"step": 2.0}, "number of steps"),
        ({"step": 0.3}, "a step that divides 20 years, got 0.3"),
    ],
)
def test_bad_settings_are_typed_errors(settings, message):
    with pytest.raises(ConfigError, match=message):
        LotkaVolterra(**settings)


def test_worlds_without_survivors_are_a_typed_error():
    with pytest.raises(ConfigError, match=r"both species live and stay below 1\.0 thousand, got 0 among"):
        LotkaVolterra(ceiling=1.0, step=1.0).make_batch("train", 0)
