"""Averaged weights and early stopping, as the layers in conf/trainer switch them on."""

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging

import npexp
from npexp.callbacks.checkpoints import BestCheckpoint, LastCheckpoint
from npexp.callbacks.early_stopping import EarlyStop
from npexp.config import find_config, read_config

QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "use_distributed_sampler": False,
    "check_val_every_n_epoch": None,
    "num_sanity_val_steps": 0,
}

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:.*overridden `on_before_batch_transfer`.*"),
    pytest.mark.filterwarnings("ignore:.*sync_dist=True.*"),
    pytest.mark.filterwarnings("ignore:.*Checkpoint directory.*exists.*"),
    pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint.*"),
]


def settings(layer):
    """What a layer gives to its one callback."""
    (callback,) = read_config(find_config(f"trainer/{layer}"))["trainer"]["callbacks+"]
    return callback["init_args"]


class Recorder(Callback):
    """Remembers the weights after each step, and those that each validation used."""

    def __init__(self):
        self.trained, self.validated = [], []

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.trained.append(copy(pl_module))

    def on_validation_batch_start(self, trainer, pl_module, *_):
        self.validated.append(copy(pl_module))


def copy(module):
    return {name: value.detach().clone() for name, value in module.net.state_dict().items()}


@pytest.fixture
def data(tmp_path):
    return npexp.build_data(
        "gp_rbf", num_val_batches=1, num_test_batches=1, cache_dir=str(tmp_path), test_kernels={}, steps_per_epoch=9
    )


def test_the_averaged_weights_are_validated_kept_tested_and_used(data, tmp_path):
    torch.manual_seed(0)
    module = npexp.NPModule(npexp.build("cnp", dx=1, dy=1, dz=8), optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
    module.net.register_buffer("places", torch.arange(99), persistent=False)  # as models on grids have
    recorder = Recorder()
    ema = EMAWeightAveraging(**{**settings("ema"), "decay": 0.7})
    best, last = BestCheckpoint(), LastCheckpoint()
    best.dirpath = last.dirpath = str(tmp_path)
    trainer = Trainer(max_steps=6, val_check_interval=6, callbacks=[ema, recorder, best, last], **QUIET)
    trainer.fit(module, datamodule=data)

    average = recorder.trained[0]
    for weights in recorder.trained[1:]:
        average = {name: 0.7 * average[name] + 0.3 * value for name, value in weights.items()}
    assert torch.equal(module.net.places, torch.arange(99))  # no average may round them
    found = {
        "validated": recorder.validated[-1],
        "best.ckpt": npexp.load_predictor(tmp_path / "best.ckpt").model.state_dict(),
        "last.ckpt": npexp.load_predictor(tmp_path / "last.ckpt").model.state_dict(),
        "tested": module.net.state_dict(),
    }
    moved = max((recorder.trained[-1][name] - value).abs().max() for name, value in average.items())
    assert moved > 1e-4  # the newest weights are others
    for place, weights in found.items():
        for name, value in average.items():
            torch.testing.assert_close(weights[name], value, rtol=1e-5, atol=1e-6, msg=f"{place}: {name}")
    test = Trainer(**QUIET).test(module, datamodule=data, ckpt_path=tmp_path / "best.ckpt", verbose=False)
    with torch.no_grad():
        model, batch = npexp.load_predictor(tmp_path / "best.ckpt").model, data.make_batch("test", 0)
        score = model(batch.xc, batch.yc, batch.xt, batch.mask_c, batch.mask_t).joint_log_prob(batch.yt, batch.mask_t)
    assert test[0]["test/loglik_joint"] == pytest.approx((score.double() / batch.yt.shape[1]).mean().item(), rel=1e-5)


def test_early_stopping_is_not_undone_by_a_restart(data, tmp_path):
    def fit(patience, checkpoint=None):
        module = npexp.NPModule(npexp.build("cnp", dx=1, dy=1, dz=8))
        stop = EarlyStop(**{**settings("early_stopping"), "patience": patience, "min_delta": 10.0})
        last = LastCheckpoint()
        last.dirpath = str(tmp_path)
        trainer = Trainer(max_steps=30, val_check_interval=2, callbacks=[stop, last], **QUIET)
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        return trainer.global_step

    # The first validation is the best for good: patience runs out so many validations later.
    assert fit(2) == 6
    assert fit(2, tmp_path / "last.ckpt") == 6
    assert fit(4, tmp_path / "last.ckpt") == 10
