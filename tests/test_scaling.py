"""Raw units in, raw units out, and the checkpoint carries what it takes."""

import math

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from scipy import stats

import npexp
from datamodules import DigitsData
from npexp.errors import ConfigError
from npexp.scaling import Scaling
from tests.contracts.checks import tiny

SCALING = {"x_shift": [100.0, -3.0], "x_scale": [50.0, 0.1], "y_shift": [20.0, 0.0], "y_scale": [4.0, 1000.0]}
RNG = np.random.default_rng(0)
X, Y, XT, YT = (RNG.normal(size=(n, 2)) for n in (24, 24, 6, 6))


def raw(values, letter):
    return values * np.array(SCALING[f"{letter}_scale"]) + np.array(SCALING[f"{letter}_shift"])


@pytest.fixture(params=["cnp", "np", "lbanp", "cmanp"])
def pair(request):
    """A predictor in the model's units and one in raw units, with the same context and targets."""
    model = tiny(request.param)
    plain, scaled = npexp.Predictor(model), npexp.Predictor(model, scaling=SCALING)
    return (
        (plain, plain.condition(X, Y), plain.predict(plain.condition(X, Y), XT)),
        (scaled, scaled.condition(raw(X, "x"), raw(Y, "y")), None),
    )


def test_every_number_of_a_law_is_in_raw_units(pair):
    (_, _, plain), (predictor, state, _) = pair
    law, yt = predictor.predict(state, raw(XT, "x")), torch.tensor(YT)[None]
    raw_yt, scale = torch.tensor(raw(YT, "y"))[None], torch.tensor(SCALING["y_scale"])
    close = {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(law.mean, torch.tensor(raw(plain.mean.numpy(), "y")), **close)
    torch.testing.assert_close(law.stddev, plain.stddev * scale, **close)
    jacobian = math.log(4.0 * 1000.0)
    torch.testing.assert_close(law.joint_log_prob(raw_yt), plain.joint_log_prob(yt) - 6 * jacobian, **close)
    torch.testing.assert_close(law.marginal_log_prob(raw_yt), plain.marginal_log_prob(yt) - jacobian, **close)
    torch.testing.assert_close(law.cdf(raw_yt), plain.cdf(yt), **close)
    torch.testing.assert_close(law.crps(raw_yt), plain.crps(yt) * scale, **close)
    levels = torch.tensor([0.1, 0.5, 0.9])
    expected = torch.tensor(raw(plain.quantile(levels).numpy(), "y"))
    torch.testing.assert_close(law.quantile(levels), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(law.sample(5, seed=1), torch.tensor(raw(plain.sample(5, seed=1).numpy(), "y")), **close)


def test_the_density_is_that_of_the_raw_values():
    """Against SciPy, from raw mean and standard deviation alone."""
    predictor = npexp.Predictor(tiny("cnp"), scaling=SCALING)
    law = predictor.predict(predictor.condition(raw(X, "x"), raw(Y, "y")), raw(XT, "x"))
    expected = stats.norm.logpdf(raw(YT, "y"), law.mean[0].numpy(), law.stddev[0].numpy()).sum()
    assert float(law.joint_log_prob(torch.tensor(raw(YT, "y"))[None])) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("mode", ["joint", "autoregressive", "marginal"])
def test_draws_are_in_raw_units(pair, mode):
    (plain, a, _), (scaled, b, _) = pair
    torch.manual_seed(0)
    expected = plain.sample(a, XT, n=4, mode=mode)
    torch.manual_seed(0)
    found = scaled.sample(b, raw(XT, "x"), n=4, mode=mode)
    torch.testing.assert_close(found, torch.tensor(raw(expected.numpy(), "y")), rtol=1e-6, atol=1e-6)


def test_updates_removals_and_streams_are_in_raw_units():
    model = tiny("cmanp")
    plain, scaled = npexp.Predictor(model), npexp.Predictor(model, scaling=SCALING)
    expected = plain.predict(plain.condition(X[4:], Y[4:]), XT).mean
    x, y = raw(X, "x"), raw(Y, "y")
    state = scaled.condition((x[i : i + 5], y[i : i + 5]) for i in range(0, 20, 5))
    state = scaled.remove(scaled.update(state, x[20:], y[20:]), x[:4], y[:4])
    torch.testing.assert_close(scaled.predict(state, raw(XT, "x")).mean, torch.tensor(raw(expected.numpy(), "y")))


def test_inputs_are_scaled_before_they_are_rounded():
    """Seconds since 1970 have no fractions in float32."""
    model = npexp.build("cnp", dx=1, dy=1)
    now = {"x_shift": [1.7e9], "x_scale": [1.0], "y_shift": [0.0], "y_scale": [1.0]}
    plain, dated = npexp.Predictor(model), npexp.Predictor(model, scaling=now)
    x = np.linspace(-1, 1, 9)
    expected = plain.predict(plain.condition(x, x), x).mean
    torch.testing.assert_close(dated.predict(dated.condition(x + 1.7e9, x), x + 1.7e9).mean, expected)


def test_laws_without_other_units_pass_where_y_is_not_scaled():
    law = npexp.Predictor(tiny("cnp")).model(*(torch.tensor(v)[None] for v in (X, Y, XT)))
    assert Scaling.make(SCALING | {"y_shift": [0, 0], "y_scale": [1, 1]}, 2, 2).law(law) is law


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y_scale": [1.0, 0.0]}, "y_scale > 0"),
        ({"y_scale": [1.0, -2.0]}, "y_scale > 0"),
        ({"x_shift": [1.0]}, "x_shift to be 2 finite numbers"),
        ({"x_shift": [1.0, math.nan]}, "x_shift to be 2 finite numbers"),
        ({"x_shift": ["a", "b"]}, "x_shift to be 2 finite numbers"),
        ({"z": [1.0]}, "a dict of x_shift"),
    ],
)
def test_impossible_scalings_are_refused(change, message, untyped):
    with pytest.raises(ConfigError, match=message):
        npexp.Predictor(tiny("cnp"), scaling=SCALING | change)


QUIET = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*", "ignore:.*isinstance.treespec, LeafSpec.*")
@pytest.mark.filterwarnings("ignore:.*overridden `on_before_batch_transfer`.*")
class TestCheckpoint:
    def fit(self, module, data, **settings):
        trainer = Trainer(
            **QUIET, max_steps=2, limit_val_batches=1, enable_checkpointing=False, use_distributed_sampler=False
        )
        trainer.fit(module, datamodule=data, **settings)
        return trainer

    def test_a_finished_run_takes_and_gives_raw_units(self, tmp_path):
        """Scans of digits: the loaded predictor scores grey levels 0 to 16 at rows and columns 0 to 7."""
        data, path = DigitsData(cache_dir=str(tmp_path), steps_per_epoch=2), tmp_path / "model.ckpt"
        module = npexp.NPModule(npexp.build("cnp", dx=2, dy=1, dz=8))
        self.fit(module, data).save_checkpoint(path)
        assert torch.load(path, weights_only=True)["scaling"] == data.scaling
        predictor, batch = npexp.load_predictor(path), data.make_batch("val", 0)
        rows, grey = ((v + 1) * 3.5 for v in (batch.xc, batch.xt)), [(v + 0.5) * 16 for v in (batch.yc, batch.yt)]
        xc, xt = (r.round() for r in rows)
        assert set(xc.unique().tolist()) <= set(range(8)) and set(grey[1].unique().tolist()) <= set(range(17))
        law = predictor.predict(predictor.condition(xc, grey[0]), xt)
        with torch.no_grad():
            expected = module.eval()(batch)
        torch.testing.assert_close(law.mean.float(), (expected.mean + 0.5) * 16, rtol=1e-5, atol=1e-4)
        scores = expected.joint_log_prob(batch.yt) - batch.yt.shape[1] * math.log(16)
        torch.testing.assert_close(law.joint_log_prob(grey[1]).float(), scores, rtol=1e-4, atol=1e-3)

    def test_it_survives_resuming_and_saving_again(self, tmp_path):
        data = DigitsData(cache_dir=str(tmp_path), steps_per_epoch=2)
        module = npexp.NPModule(npexp.build("cnp", dx=2, dy=1, dz=8))
        self.fit(module, data).save_checkpoint(tmp_path / "one.ckpt")
        again = npexp.NPModule(npexp.build("cnp", dx=2, dy=1, dz=8))
        trainer = Trainer(**QUIET, enable_checkpointing=False)
        trainer.validate(
            again, data.val_dataloader(), ckpt_path=tmp_path / "one.ckpt", verbose=False, weights_only=True
        )
        trainer.save_checkpoint(tmp_path / "two.ckpt")
        assert torch.load(tmp_path / "two.ckpt", weights_only=True)["scaling"] == data.scaling

    def test_a_wrong_scaling_stops_before_training(self, tmp_path):
        data = DigitsData(cache_dir=str(tmp_path))
        data.scaling = {**data.scaling, "y_scale": [0.0]}
        with pytest.raises(ConfigError, match="y_scale > 0"):
            self.fit(npexp.NPModule(npexp.build("cnp", dx=2, dy=1, dz=8)), data)
