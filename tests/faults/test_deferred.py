"""What a GPU does, tried on the CPU: bad steps are flagged on the device and told of later."""

import math

import pytest
import torch
from lightning.pytorch import Trainer

import npexp
from npexp.callbacks.checkpoints import LastCheckpoint
from npexp.callbacks.divergence import Divergence
from npexp.callbacks.measurements import Measurements
from npexp.callbacks.seeding import StepSeed
from npexp.errors import DivergenceError
from tests.faults.sabotage import Spoil

LOWER = "--model.optimizer.init_args.lr or --trainer.gradient_clip_val"

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*", "ignore:.*isinstance.treespec, LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:.*overridden `on_before_batch_transfer`.*"),
]


@pytest.fixture
def data(tmp_path):
    return npexp.build_data("gp_rbf", num_val_batches=1, num_test_batches=1, cache_dir=str(tmp_path), test_kernels={})


def fit(data, folder, *callbacks, **settings):
    """Twelve steps of a CNP, and the trainer with them."""
    torch.manual_seed(0)
    trainer = Trainer(
        max_steps=12,
        default_root_dir=folder,
        callbacks=[StepSeed(), *callbacks],
        limit_val_batches=0,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **settings,
    )
    trainer.fit(npexp.NPModule(npexp.build("cnp", dx=1, dy=1, dz=8)), datamodule=data)
    return trainer


@pytest.mark.parametrize("what", ["weight", "gradient"])
def test_the_flag_is_read_with_each_logged_step(data, tmp_path, what):
    with pytest.raises(DivergenceError, match="at step 2; not finite: a loss or a gradient") as stopped:
        fit(data, tmp_path, Divergence(deferred=True), Spoil(2, what=what), log_every_n_steps=5)
    assert (tmp_path / "diverged.json").is_file() and stopped.value.status == 3


def test_the_flag_is_read_before_each_checkpoint(data, tmp_path):
    last = LastCheckpoint(every_n_train_steps=4)
    with pytest.raises(DivergenceError, match="at step 5;"):
        fit(data, tmp_path, Divergence(deferred=True), Spoil(5), last, log_every_n_steps=100)
    kept = torch.load(next(tmp_path.rglob("last.ckpt")), weights_only=True)
    assert kept["global_step"] == 4
    assert all(v.isfinite().all() for v in kept["state_dict"].values())


def test_an_infinite_loss_with_a_finite_gradient_stops_the_run(data, tmp_path, monkeypatch):
    loss = npexp.NPModule.loss

    def infinite(module, batch):
        found = loss(module, batch)
        return found._replace(total=found.total + math.inf)

    monkeypatch.setattr(npexp.NPModule, "loss", infinite)
    with pytest.raises(DivergenceError, match=r"at step 0, batch 0, seed \d+; not finite: loss total. Look") as stopped:
        fit(data, tmp_path, Divergence())
    assert str(stopped.value).endswith("then start the run again with a lower " + LOWER)  # there is no checkpoint


@pytest.mark.parametrize("deferred", [False, True])
def test_one_norm_serves_all_who_need_it(data, tmp_path, monkeypatch, deferred):
    norm, norms = torch.nn.utils.get_total_norm, []
    monkeypatch.setattr(torch.nn.utils, "get_total_norm", lambda *a, **k: norms.append(norm(*a, **k)) or norms[-1])
    callbacks = Divergence(deferred=deferred), Measurements()
    fit(data, tmp_path, *callbacks, gradient_clip_val=1.0, log_every_n_steps=1)
    assert len(norms) == len(set(norms)) == 12  # one for each step


def test_looking_changes_nothing(data, tmp_path):
    callbacks = {"plain": [], "now": [Divergence()], "later": [Divergence(deferred=True)]}
    runs = [fit(data, tmp_path / name, *found, log_every_n_steps=5) for name, found in callbacks.items()]
    plain, now, later = (run.model.state_dict() for run in runs)
    for name, value in plain.items():
        assert torch.equal(value, now[name]) and torch.equal(value, later[name])
