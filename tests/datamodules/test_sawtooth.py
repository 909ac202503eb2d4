"""Sawtooth and square waves: what they look like, and how they are seen."""

import numpy as np
import pytest
import torch
from scipy.signal import sawtooth, square
from scipy.stats import kstest

from datamodules import Sawtooth
from npexp.errors import ConfigError, UnknownNameError


def test_default_sizes_are_those_of_the_tnp_suite():
    dm = Sawtooth()
    for index in range(100):
        batch = dm.make_batch("train", index).check()
        nc, nt = batch.xc.shape[1], batch.xt.shape[1]
        assert batch.xc.shape == (16, nc, 1) and batch.xc.dtype == torch.float32
        assert 3 <= nc <= 46 and 3 <= nt <= 49 - nc
        assert batch.xc.abs().max() <= 2 and batch.xt.abs().max() <= 2
        assert max(batch.yc.abs().max(), batch.yt.abs().max()) < 1 + 6 * 0.02


def dense(**settings):
    """Many tasks with many points each, without noise unless asked for: inputs and outputs, `[b, n]`."""
    fixed = {"noise": 0.0, "num_context": (100, 100), "num_target": (1, 1), "max_points": None, "batch_size": 400}
    batch = Sawtooth(**{**fixed, **settings}).make_batch("train", 0)
    return batch.xc[..., 0].double().numpy(), batch.yc[..., 0].double().numpy()


def test_functions_are_those_of_scipy():
    frequency, amplitude = 1.7, 0.6
    x, y = dense(frequency=(frequency, frequency), amplitude=(amplitude, amplitude))
    phases, rising = [], 0
    for points, values in zip(x, y, strict=True):
        turns = [np.exp(2j * np.pi * ((values / amplitude + 1) / 2 - d * frequency * points)).mean() for d in (1, -1)]
        direction = 1 if abs(turns[0]) > abs(turns[1]) else -1
        phase = np.angle(max(turns, key=abs)) / (2 * np.pi)
        expected = amplitude * sawtooth(2 * np.pi * (direction * frequency * points + phase))
        assert (abs(values - expected) < 1e-4).mean() > 0.98  # rounding puts a point on a jump to either side of it
        phases.append(phase % 1)
        rising += direction == 1
    assert kstest(phases, "uniform").pvalue > 0.01
    assert abs(rising / 400 - 0.5) < 0.1


def test_square_waves_are_those_of_scipy():
    frequency, amplitude = 1.3, 0.8
    x, y = dense(waves=["square"], frequency=(frequency, frequency), amplitude=(amplitude, amplitude))
    np.testing.assert_allclose(abs(y), amplitude, rtol=1e-6)
    phases = np.linspace(0, 1, 400, endpoint=False)
    for points, values in zip(x[:20], y[:20], strict=True):
        waves = amplitude * square(2 * np.pi * (frequency * points + phases[:, None]))
        assert (abs(waves - values) < 1e-4).mean(1).max() > 0.97  # up to a grid of phases; a direction is a phase here


def test_mixed_waves_are_either():
    y = dense(waves=["sawtooth", "square"], amplitude=(1.0, 1.0))[1]
    flat = (abs(abs(y) - 1) < 1e-6).all(1)
    assert abs(flat.mean() - 0.5) < 0.1
    lines = dense(waves=["sawtooth"], amplitude=(1.0, 1.0))[1]
    np.testing.assert_array_equal(y[~flat], lines[~flat])  # the same functions, had all been of this form


def test_amplitudes_and_frequencies_fill_their_ranges():
    x, y = dense(frequency=(2.0, 2.0))
    assert kstest(abs(y).max(1), "uniform", (0.2, 0.8)).pvalue > 0.01
    x, y = dense(amplitude=(1.0, 1.0))
    order = x.argsort(1)
    slopes = np.diff(np.take_along_axis(y, order, 1), axis=1) / np.diff(np.take_along_axis(x, order, 1), axis=1)
    assert kstest(np.median(abs(slopes), 1) / 2, "uniform", (0.5, 2.0)).pvalue > 0.01  # the slope is 2 a f


def test_noise():
    error = dense(noise=0.3)[1] - dense()[1]
    assert error.std() == pytest.approx(0.3, rel=0.02) and abs(error.mean()) < 0.01
    assert kstest(error.ravel() / 0.3, "norm").pvalue > 0.01


def test_plot_tasks():
    tasks = Sawtooth().plot_tasks(3)
    assert [task.batch.xc.shape[1] for task in tasks] == [14, 24, 35]
    for task, again in zip(tasks, Sawtooth().plot_tasks(3), strict=True):
        batch = task.batch.check()
        assert torch.equal(batch.yt, again.batch.yt)
        assert task.kind == "curve" and task.mean is None and task.truth.shape == batch.yt.shape
        assert batch.xt[0, 0] == -2 and batch.xt[0, -1] == 2
        assert (batch.yt - task.truth).std() == pytest.approx(0.02, rel=0.2)


@pytest.mark.parametrize(
    "settings",
    [
        {"frequency": (0.0, 1.0)},
        {"amplitude": (1.0, 0.5)},
        {"noise": -0.1},
        {"input_range": (2.0, -2.0)},
        {"waves": []},
    ],
)
def test_bad_settings_are_typed_errors(settings):
    with pytest.raises(ConfigError, match=r"expected .* got"):
        Sawtooth(**settings)


def test_unknown_waves_are_typed_errors():
    with pytest.raises(UnknownNameError, match="unknown wave 'squares'; did you mean 'square'"):
        Sawtooth(waves=["sawtooth", "squares"])
