"""NPRegressor: scikit-learn's own checks, learning from tasks, checkpoints."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.model_selection import cross_val_predict
from sklearn.utils.estimator_checks import check_estimator

import npexp
from npexp.errors import ConfigError, DataError, DivergenceError, ShapeError
from npexp.sklearn import NPRegressor

SMALL = {
    "model_args": {"dz": 16, "depth_phi": 2},
    "steps": 40,
    "batch_size": 8,
    "max_points": 64,
    "learning_rate": 1e-2,
}


def sines(number, n, seed):
    """Tasks y = a sin(x + p) with a little noise."""
    rng = np.random.default_rng(seed)
    tasks = []
    for _ in range(number):
        x, a, p = rng.uniform(-3, 3, (n, 1)), rng.uniform(1, 2), rng.uniform(0, 2 * np.pi)
        tasks.append((x, a * np.sin(x[:, 0] + p) + 0.05 * rng.normal(size=n)))
    return tasks


@pytest.fixture(scope="module")
def learnt():
    """A regressor that has learnt from sines."""
    return NPRegressor(steps=300, learning_rate=5e-3, random_state=0).fit(sines(200, 20, seed=0))


@pytest.fixture
def checkpoint(tmp_path):
    """What `npexp fit` leaves behind for data in other units: plain data and weights."""
    torch.manual_seed(0)
    module = npexp.NPModule(npexp.build("cmanp", dx=2, dy=1, num_layers=1, dz=16, dim_feedforward=16))
    scaling = {"x_shift": [10.0, 0.0], "x_scale": [2.0, 1.0], "y_shift": [-5.0], "y_scale": [100.0]}
    content = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams), "scaling": scaling}
    torch.save(content, tmp_path / "model.ckpt")
    return tmp_path / "model.ckpt"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.DataConversionWarning", "ignore::FutureWarning")
def test_the_checks_of_scikit_learn(untyped):
    results = check_estimator(NPRegressor(**SMALL), on_fail=None, on_skip=None)
    assert {r["check_name"]: r["exception"] for r in results if r["status"] not in ("passed", "skipped")} == {}
    # one check wants another array library
    assert [r["check_name"] for r in results if r["status"] == "skipped"] == ["check_array_api_input"]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_learning_from_tasks_beats_a_gaussian_process_that_knows_no_other_task(learnt):
    kernel = ConstantKernel() * RBF() + WhiteKernel(0.01)
    errors = []
    for x, y in sines(50, 25, seed=1):
        (xc, yc), (xt, yt) = (x[:5], y[:5]), (x[5:], y[5:])
        gp = GaussianProcessRegressor(kernel, normalize_y=True).fit(xc, yc)
        errors.append([learnt.condition(xc, yc).predict(xt) - yt, gp.predict(xt) - yt, yc.mean() - yt])
    ours, gp, mean = np.sqrt(np.mean(np.square(errors), (0, 2)))
    assert ours < 0.8 * gp and ours < 0.5 * mean, (ours, gp, mean)  # 0.47, 0.73, 1.17
    x, y = sines(1, 200, seed=2)[0]
    few, many = (learnt.condition(x[:n], y[:n]).predict(x[100:], return_std=True)[1].mean() for n in (2, 100))
    assert many < few < 1.5


def test_before_a_condition_the_law_is_that_of_no_data():
    fitted = NPRegressor(**SMALL | {"steps": 1}, random_state=0).fit(sines(5, 6, seed=0))
    x = np.linspace(-1, 1, 4)[:, None]
    empty = fitted.predictor_.predict(fitted.predictor_.condition(np.zeros((0, 1)), np.zeros((0, 1))), x)
    np.testing.assert_array_equal(fitted.predict(x), empty.mean[0, :, 0])


def test_units_do_not_matter():
    x, y = sines(1, 40, seed=3)[0]
    settings = {**SMALL, "random_state": 0}
    mean, std = NPRegressor(**settings).fit(x, y).predict(x, return_std=True)
    mean2, std2 = NPRegressor(**settings).fit(1e4 + 10 * x, 1e3 * y - 5).predict(1e4 + 10 * x, return_std=True)
    np.testing.assert_allclose(mean2, 1e3 * mean - 5, rtol=1e-3, atol=1)  # float32 training amplifies rounding
    np.testing.assert_allclose(std2, 1e3 * std, rtol=1e-3)


def test_random_state_and_nothing_else_decides():
    x, y = sines(1, 20, seed=0)[0]
    before = torch.get_rng_state()
    a, b, c = (NPRegressor(**SMALL, random_state=seed).fit(x, y).predict(x) for seed in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert np.abs(a - c).max() > 1e-3
    assert torch.equal(torch.get_rng_state(), before)


def test_survives_pickling_and_cloning(learnt):
    x, y = sines(1, 10, seed=4)[0]
    expected = learnt.condition(x, y).predict(x)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(learnt)).predict(x), expected)
    assert clone(learnt).get_params() == learnt.get_params()
    with pytest.raises(NotFittedError):
        clone(learnt).predict(x)


@pytest.mark.parametrize("name", ["cnp", "np"])
def test_draws_have_the_moments_of_the_law_and_the_shapes_of_a_gaussian_process(name):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(12, 2)), rng.normal(size=(12, 3))
    small = {"np": {"dz": 16, "dim_latent": 4}, "cnp": {"dz": 16}}[name]
    fitted = NPRegressor(name, model_args=small, steps=20, random_state=0).fit(x, y)
    gp = GaussianProcessRegressor(optimizer=None).fit(x, y)
    for ours, theirs in [
        (fitted.predict(x), gp.predict(x)),
        (fitted.predict(x, return_std=True)[1], gp.predict(x, return_std=True)[1]),
        (fitted.sample_y(x, 7), gp.sample_y(x, 7)),
        (fitted.fit(x, y[:, 0]).sample_y(x, 7), gp.fit(x, y[:, 0]).sample_y(x, 7)),
    ]:
        assert ours.shape == theirs.shape
    mean, std = fitted.predict(x, return_std=True)
    draws = fitted.sample_y(x, 20_000, random_state=1)
    assert (np.abs(draws.mean(1) - mean) < 5 * std / 20_000**0.5).all()
    np.testing.assert_allclose(draws.std(1), std, rtol=0.05)
    np.testing.assert_array_equal(draws, fitted.sample_y(x, 20_000, random_state=1))
    assert not np.array_equal(draws[:, :7], fitted.sample_y(x, 7, random_state=2))


def test_a_checkpoint_is_conditioned_and_not_trained(checkpoint):
    rng = np.random.default_rng(0)
    x, y, xt = 10 + rng.normal(size=(30, 2)), rng.normal(size=30), 10 + rng.normal(size=(5, 2))
    predictor = npexp.load_predictor(checkpoint)
    expected = predictor.predict(predictor.condition(x, y), xt)
    for ours in (NPRegressor(ckpt=str(checkpoint)).fit(x, y), NPRegressor(ckpt=checkpoint).condition(x, y)):
        mean, std = ours.predict(xt, return_std=True)
        np.testing.assert_array_equal(mean, expected.mean[0, :, 0].double())
        np.testing.assert_array_equal(std, expected.stddev[0, :, 0].double())
    folds = cross_val_predict(NPRegressor(ckpt=str(checkpoint)), x, y, cv=3)
    np.testing.assert_array_equal(folds[:10], NPRegressor(ckpt=str(checkpoint)).fit(x[10:], y[10:]).predict(x[:10]))


def test_mistakes(checkpoint, untyped):
    x, y = sines(1, 20, seed=0)[0]
    with pytest.raises(ConfigError, match="tasks or a checkpoint, got both"):
        NPRegressor(ckpt=str(checkpoint)).fit([(x, y)])
    with pytest.raises(ShapeError, match=r"expected \[n, 2\]"):
        NPRegressor(ckpt=str(checkpoint)).fit(x, y)
    with pytest.raises(DataError, match="one or more tasks"):
        NPRegressor().fit([])
    with pytest.raises(DataError, match="same outputs"):
        NPRegressor().fit([(x, y), (x, np.stack([y, y], 1))])
    with pytest.raises(ValueError, match="2 features, but NPRegressor is expecting 1"):
        NPRegressor().fit([(x, y), (np.hstack([x, x]), y)])
    with pytest.raises(ConfigError, match="steps"):
        NPRegressor(steps=-1).fit(x, y)
    with pytest.raises(DivergenceError, match="lower learning_rate"):
        NPRegressor(learning_rate=1e30, steps=20).fit(x, y)
    with pytest.raises(NotFittedError):
        NPRegressor().condition(x, y)
