"""The LightningModule from Python, without the command line."""

import copy
import functools
import math
import threading

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

import npexp
from npexp.errors import ConfigError, DataError

QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "use_distributed_sampler": False,
}


@pytest.fixture
def data(tmp_path):
    return npexp.build_data(
        "gp_rbf", num_val_batches=1, num_test_batches=3, cache_dir=str(tmp_path), steps_per_epoch=4, test_kernels={}
    )


def fit(module, data, steps=4, **settings):
    trainer = Trainer(max_steps=steps, **QUIET, enable_checkpointing=False, **settings)
    trainer.fit(module, datamodule=data)
    return trainer


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*", "ignore:.*isinstance.treespec, LeafSpec.*")
@pytest.mark.filterwarnings("ignore:.*overridden `on_before_batch_transfer`.*")
class TestModule:
    def test_a_checkpoint_loads_by_itself(self, data, tmp_path):
        module = npexp.NPModule(npexp.build("lbanp", dx=1, dy=1, num_latents=3, num_layers=1))
        fit(module, data).save_checkpoint(tmp_path / "model.ckpt")
        predictor = npexp.load_predictor(tmp_path / "model.ckpt")
        batch = data.make_batch("val", 0)
        with torch.no_grad():
            expected = module.eval()(batch)
        found = predictor.predict(predictor.condition(batch.xc, batch.yc), batch.xt)
        assert torch.equal(found.mean, expected.mean) and torch.equal(found.stddev, expected.stddev)

    def test_foreign_checkpoints_are_refused(self, data, tmp_path):
        for i, content in enumerate(({"state_dict": {}}, [1, 2])):
            torch.save(content, tmp_path / f"{i}.ckpt")
        (tmp_path / "2.ckpt").write_text("no checkpoint at all")
        for i in range(3):
            with pytest.raises(ConfigError, match="does not describe its model"):
                npexp.load_predictor(tmp_path / f"{i}.ckpt")

    def test_training_improves_the_score(self, data):
        module = npexp.NPModule(npexp.build("cnp", dx=1, dy=1, dz=32))
        trainer = fit(module, data, steps=1)
        (before,) = trainer.test(module, datamodule=data, verbose=False)
        (after,) = fit(module, data, steps=150).test(module, datamodule=data, verbose=False)
        assert after["test/loglik_joint"] > before["test/loglik_joint"] + 0.1

    def test_test_results_are_the_metric_of_the_predictions(self, data):
        module = npexp.NPModule(npexp.build("cnp", dx=1, dy=1))
        trainer = fit(module, data, steps=1)
        trainer.test(module, datamodule=data, verbose=False)
        scores = []
        for i in range(3):
            batch = data.make_batch("test", i)
            with torch.no_grad():
                log_prob = module(batch).joint_log_prob(batch.yt)
            scores.append(log_prob.double() / batch.yt.shape[1])
        assert module.test_results["test/loglik_joint"] == pytest.approx(float(torch.cat(scores).mean()), rel=1e-5)

    def test_bad_values_stop_the_run(self, data, monkeypatch):
        module = npexp.NPModule(npexp.build("cnp", dx=1, dy=1))
        good = data.make_batch

        def bad(split, index):
            batch = good(split, index)
            return batch._replace(yc=torch.full_like(batch.yc, torch.nan)) if split == "train" else batch

        monkeypatch.setattr(data, "make_batch", bad)
        with pytest.raises(DataError, match="context y holds NaN"):
            fit(module, data)


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*", "ignore:.*isinstance.treespec, LeafSpec.*")
@pytest.mark.filterwarnings("ignore:.*overridden `on_before_batch_transfer`.*")
@pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint.*")
def test_a_domain_is_found_once_and_for_all(tmp_path):
    """Inputs in [10, 14]: the same domain, and weights, with and without an interruption; a given one is kept."""
    data = npexp.build_data(
        "gp_rbf",
        context_range=(10.0, 14.0),
        num_val_batches=1,
        test_kernels={},
        cache_dir=str(tmp_path),
        steps_per_epoch=4,
    )

    def module(seed=0, **settings):
        torch.manual_seed(seed)
        small = {"num_features": 8, "dz": 8, "num_layers": 1, "dim_feedforward": 8, "num_priors": 2}
        return npexp.NPModule(npexp.build("rmnp", dx=1, dy=1, **small, **settings))

    unbroken = module()
    fit(unbroken, data, steps=4)
    seen = torch.cat([torch.cat([b.xc, b.xt], 1).flatten() for b in (data.make_batch("train", i) for i in range(8))])
    centre, unit = unbroken.net.domain.centre.item(), unbroken.net.domain.unit.item()
    assert centre == pytest.approx((seen.min() + seen.max()).item() / 2)
    assert unit == pytest.approx((seen.max() - seen.min()).item() / 4)
    assert 11.9 < centre < 12.1 and 0.95 < unit <= 1

    half = ModelCheckpoint(tmp_path / "runs", "half", every_n_train_steps=2)
    Trainer(max_steps=2, **QUIET, callbacks=[half]).fit(module(), datamodule=data)
    resumed = module(seed=1)
    trainer = Trainer(max_steps=4, **QUIET, enable_checkpointing=False)
    trainer.fit(resumed, datamodule=data, ckpt_path=tmp_path / "runs/half.ckpt")
    for key, value in unbroken.state_dict().items():
        assert torch.equal(resumed.state_dict()[key], value), key
    again = npexp.load_predictor(tmp_path / "runs/half.ckpt").model.domain
    assert (again.centre.item(), again.unit.item()) == (centre, unit)

    given = module(domain=(8.0, 16.0))
    fit(given, data, steps=1)
    assert (given.net.domain.centre.item(), given.net.domain.unit.item()) == (12.0, 2.0)


def test_a_copy_shares_what_makes_optimisers():
    """Averages of weights copy the module; the command line's optimiser knows all processes, which nobody can copy."""
    optimizer = functools.partial(torch.optim.Adam)
    optimizer.process = threading.Lock()
    one = npexp.NPModule(npexp.build("cnp", dx=1, dy=1, dz=8), optimizer=optimizer)
    two = copy.deepcopy(one)
    assert two.optimizer is one.optimizer and two.net is not one.net
    for (name, p), q in zip(one.named_parameters(), two.parameters(), strict=True):
        assert p is not q and torch.equal(p, q), name


def test_impossible_settings():
    with pytest.raises(ConfigError, match="use objective 'loglik'"):
        npexp.NPModule(npexp.build("cnp", dx=1, dy=1), objective="elbo")
    with pytest.raises(ConfigError, match="num_samples"):
        npexp.NPModule(npexp.build("np", dx=1, dy=1), num_samples=0)


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*", "ignore:.*isinstance.treespec, LeafSpec.*")
@pytest.mark.filterwarnings("ignore:.*overridden `on_before_batch_transfer`.*")
@pytest.mark.parametrize("algorithm, order", [("norm", 2.0), ("value", math.inf)])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_gradients_are_clipped_for_fused_optimisers(data, precision, algorithm, order):
    """A step of plain gradient descent at rate 1 is as long as the clipped gradient."""
    net = npexp.build("cnp", dx=1, dy=1, dz=8)
    before = [p.detach().clone() for p in net.parameters()]
    optimizer = functools.partial(torch.optim.SGD, lr=1.0, fused=True)
    clipping = {"gradient_clip_val": 1e-2, "gradient_clip_algorithm": algorithm}
    fit(npexp.NPModule(net, optimizer=optimizer), data, 1, precision=precision, **clipping)
    step = torch.cat([(p - old).detach().flatten() for p, old in zip(net.parameters(), before, strict=True)])
    assert step.norm(order).item() == pytest.approx(1e-2, rel=1e-3)
