"""Tasks from Gaussian processes: sizes, the law of the samples, and the oracle that rides along."""

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from datamodules import RBF, GPData, Matern
from datamodules.oracle import factor, scores, whiten
from npexp.errors import ConfigError, UnknownNameError

FIXED = RBF((0.5, 0.5), (0.8, 0.8))


def test_default_sizes_are_the_published_protocol():
    dm = GPData(FIXED)
    seen = []
    for index in range(300):
        batch = dm.make_batch("train", index).check()
        assert batch.num_tasks == 16 and batch.mask_c is None and batch.xc.dtype == torch.float32
        nc, nt = batch.xc.shape[1], batch.xt.shape[1]
        assert 3 <= nc <= 46 and 3 <= nt <= 49 - nc
        assert batch.xc.abs().max() <= 2 and batch.xt.abs().max() <= 2
        seen.append((nc, nt))
    contexts = {nc for nc, _ in seen}
    assert min(contexts) <= 4 and max(contexts) >= 45
    assert any(nc + nt == 49 for nc, nt in seen)


def test_ragged_sizes_and_padding():
    dm = GPData(FIXED, ragged=True, num_context=(0, 9), num_target=(2, 6), max_points=12)
    for index in range(50):
        batch = dm.make_batch("train", index).check()
        assert len(set(batch.num_context.tolist())) > 1
        assert batch.num_context.max() <= 9 and batch.num_target.min() >= 2
        assert (batch.num_context + batch.num_target).max() <= 12
        for values, mask in ((batch.xc, batch.mask_c), (batch.yc, batch.mask_c), (batch.xt, batch.mask_t)):
            assert (values[~mask] == 0).all() and (values[mask] != 0).all()
        assert (batch.yt[~batch.mask_t] == 0).all() and (batch.oracle_marginal[~batch.mask_t] == 0).all()


def test_target_range_and_input_size():
    batch = GPData(FIXED, dx=3, context_range=(-1.0, 0.0), target_range=(1.0, 4.0)).make_batch("train", 0)
    assert batch.xc.shape[2] == 3
    assert batch.xc.min() >= -1 and batch.xc.max() <= 0 and batch.xt.min() >= 1 and batch.xt.max() <= 4


@pytest.mark.parametrize(
    ("settings", "nc", "nt", "values"),
    [
        ({}, [42] * 3, [6] * 3, [1.628124475, 0.122865714, -0.735084355, -0.070871837, 16.96961594, 2.886010885]),
        (
            {"ragged": True, "max_points": None},
            [42, 37, 8],
            [29, 34, 35],
            [1.542722821, 0.153936967, -1.574863911, -0.339353412, 80.12545776, 2.750295401],
        ),
    ],
    ids=["plain", "ragged"],
)
def test_tasks_are_those_of_committed_results(settings, nc, nt, values):
    """As made when the results were: whoever changes the stream of tasks raises `FORMAT` and makes them anew."""
    batch = GPData(RBF(), **settings).make_batch("test", 7)
    assert batch.num_context[:3].tolist() == nc and batch.num_target[:3].tolist() == nt
    first = [v[1].flatten()[0].item() for v in (batch.xc, batch.yc, batch.xt, batch.yt, *batch[-2:])]
    np.testing.assert_allclose(first, values, rtol=1e-5)


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_oracle_is_that_of_the_delivered_numbers(ragged, noise):
    dm = GPData(FIXED, noise=noise, ragged=ragged, num_context=(1, 6), num_target=(1, 4), max_points=None)
    for index in range(3):
        batch = dm.make_batch("train", index)
        for i in range(batch.num_tasks):
            c, t = slice(0, batch.num_context[i]), slice(0, batch.num_target[i])
            x = torch.cat([batch.xc[i, c], batch.xt[i, t]])[None].double()
            y = torch.cat([batch.yc[i, c], batch.yt[i, t]])[None, :, 0].double()
            chol = factor(FIXED, torch.zeros(1, 2, dtype=torch.float64), x, noise)
            exact = scores(chol, whiten(chol, y), int(batch.num_context[i]))
            tolerance = {"atol": 1e-4 if noise else 0.05, "rtol": 1e-4}  # without noise the rounding of y shows
            torch.testing.assert_close(batch.oracle_joint[i], exact.joint[0].float(), **tolerance)
            torch.testing.assert_close(batch.oracle_marginal[i, t], exact.marginal[0].float(), **tolerance)


@pytest.mark.parametrize("dx", [1, 2, 3])
def test_oracle_in_any_dimension_is_that_of_scipy(dx):
    dm = GPData(FIXED, dx=dx, noise=0.1, num_context=(12, 12), num_target=(3, 3), max_points=None)
    batch = dm.make_batch("train", 0)
    for task in range(4):
        x = torch.cat([batch.xc[task], batch.xt[task]]).double().numpy()
        y = torch.cat([batch.yc[task], batch.yt[task]]).double().numpy()[:, 0]
        distance = ((x[:, None] - x[None]) ** 2).sum(-1)
        full = 0.64 * np.exp(-0.5 * distance / 0.25) + 0.01 * np.eye(15)

        def log_density(rows, y=y, full=full):
            return multivariate_normal.logpdf(y[rows], np.zeros(len(rows)), full[np.ix_(rows, rows)])

        context = list(range(12))
        evidence = log_density(context)
        assert batch.oracle_joint[task].item() == pytest.approx(log_density(list(range(15))) - evidence, abs=1e-4)
        each = [log_density([*context, 12 + i]) - evidence for i in range(3)]
        np.testing.assert_allclose(batch.oracle_marginal[task], each, atol=1e-4)


def test_samples_have_the_covariance_of_their_law():
    dm = GPData(FIXED, noise=0.2, num_context=(1, 1), num_target=(1, 1), batch_size=20_000)
    batch = dm.make_batch("train", 0)
    x, y = torch.cat([batch.xc, batch.xt], 1)[..., 0], torch.cat([batch.yc, batch.yt], 1)[..., 0]
    assert (y.square().mean() - (0.64 + 0.04)).abs() < 0.03 and y.mean().abs() < 0.03
    distance, product = (x[:, 0] - x[:, 1]).abs(), y.prod(1)
    for low in np.arange(0, 2, 0.25):
        chosen = (distance >= low) & (distance < low + 0.25)
        expected = 0.64 * torch.exp(-distance[chosen].square() / 0.5).mean()
        assert (product[chosen].mean() - expected).abs() < 4 * product[chosen].std() / chosen.sum() ** 0.5


def test_test_sets_have_their_own_family():
    dm = GPData(FIXED, test_kernels={"loud": RBF((0.5, 0.5), (50.0, 50.0))})
    assert dm.test_names == ("test", "test_loud")
    assert dm.make_batch("test", 0).yt.abs().max() < 5 < dm.make_batch("test_loud", 0).yt.abs().max()
    assert dm.traits["test_sets"] == ["test", "test_loud"] and dm.traits["oracle"] is True


def test_a_test_set_does_not_depend_on_the_others():
    alone, accompanied = GPData(FIXED), GPData(FIXED, test_kernels={"rough": Matern(0.5)})
    torch.testing.assert_close(alone.make_batch("test", 3).yt, accompanied.make_batch("test", 3).yt, rtol=0, atol=0)


def test_ranges_move_and_stretch_all_inputs():
    dm = GPData(
        FIXED,
        dx=2,
        target_range=(2.0, 3.0),
        test_kernels={"rough": Matern(0.5)},
        test_ranges={"shift": (8.0, 12.0), "wide": [-4.0, 4.0]},
    )
    assert dm.test_names == ("test", "test_rough", "test_shift", "test_wide")
    for split, of_context, of_targets in (
        ("train", (-2, 2), (2, 3)),
        ("test", (-2, 2), (2, 3)),
        ("test_rough", (-2, 2), (2, 3)),
        ("test_shift", (8, 12), (8, 12)),
        ("test_wide", (-4, 4), (-4, 4)),
    ):
        batches = [dm.make_batch(split, i).check() for i in range(5)]
        for (low, high), x in ((of_context, [b.xc for b in batches]), (of_targets, [b.xt for b in batches])):
            values = torch.cat([v.flatten() for v in x])
            assert low <= values.min() < low + 0.05 * (high - low) and high >= values.max() > high - 0.05 * (high - low)
        assert dm.kernel_of(split) is (dm.test_kernels["rough"] if split == "test_rough" else FIXED)


@pytest.mark.parametrize("dx", [1, 2])
def test_plot_tasks(dx):
    dm = GPData(RBF((0.5, 1.0)), dx=dx, target_range=(-3.0, 1.0), noise=0.05)
    tasks = dm.plot_tasks(3)
    sizes = [task.batch.xc.shape[1] for task in tasks]
    assert sizes == sorted(set(sizes))
    for task, again in zip(tasks, dm.plot_tasks(3), strict=True):
        batch = task.batch.check()
        assert torch.equal(batch.yt, again.batch.yt)
        grid = batch.xt[0]
        assert grid.min() == -3 and grid.max() == 2
        assert task.kind == ("curve" if dx == 1 else "image")
        assert len(grid) == (200 if dx == 1 else np.prod(task.image_shape))
        assert task.truth.shape == task.mean.shape == task.stddev.shape == batch.yt.shape
        assert (task.stddev >= 0.05 * 0.999).all()
        assert ((batch.yt - task.mean) / task.stddev).square().mean() < 4
        assert (batch.yt - task.truth).std() == pytest.approx(0.05, rel=0.2)


def test_beyond_two_inputs_validation_tasks_are_drawn():
    dm = GPData(FIXED, dx=3)
    first, second = dm.plot_tasks(2)
    assert first.kind == second.kind == "parity"
    batch = dm.make_batch("val", dm.num_batches("val") // 2)
    assert torch.equal(second.batch.check().yt, batch.yt[:1]) and torch.equal(second.batch.xc, batch.xc[:1])


@pytest.mark.parametrize(
    "settings",
    [
        {"noise": -0.1},
        {"dx": 0},
        {"batch_size": 0},
        {"steps_per_epoch": 0},
        {"seed": -1},
        {"num_workers": -1},
        {"context_range": (2.0, -2.0)},
        {"target_range": (0.0, float("inf"))},
        {"num_context": (5, 3)},
        {"num_context": (-1, 3)},
        {"num_target": (0, 3)},
        {"max_points": 48},
        {"num_val_batches": 0},
        {"num_test_batches": 0},
        {"test_kernels": {"a b": RBF()}},
        {"test_ranges": {"a b": (0.0, 1.0)}},
        {"test_ranges": {"far": (1.0, 0.0)}},
        {"test_ranges": {"far": (1.0, float("nan"))}},
        {"test_ranges": {"far": (1.0, 2.0)}, "test_kernels": {"far": RBF()}},
    ],
)
def test_bad_settings_are_typed_errors(settings):
    with pytest.raises(ConfigError, match=r"expected .* got"):
        GPData(FIXED, **settings)


def test_unknown_batches_are_typed_errors():
    dm = GPData(FIXED, num_val_batches=2)
    with pytest.raises(UnknownNameError, match="did you mean 'test'"):
        dm.make_batch("tests", 0)
    for index in (-1, 2):
        with pytest.raises(ConfigError, match="expected 0 <= index < 2"):
            dm.make_batch("val", index)
