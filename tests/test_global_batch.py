"""The same global batch gives the same run on any number of processes: forked gloo processes against one."""

import functools
import os

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.nn.functional import dropout

import npexp
from npexp.callbacks.clock import RunClock, accumulation
from npexp.callbacks.measurements import Measurements
from npexp.callbacks.seeding import StepSeed
from npexp.errors import ConfigError
from npexp.loggers import MetricsFile
from npexp.run_files import read_rows
from npexp.schedules import WarmupCosine

MICRO_BATCHES = 4

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:.*overridden `on_before_batch_transfer`.*"),
    pytest.mark.filterwarnings("ignore:.*sync_dist=True.*"),
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval.*"),
    pytest.mark.filterwarnings("ignore:.*dirpath has changed.*"),
]


def noisy():
    """A model with latent draws and dropout."""
    torch.manual_seed(0)
    net = npexp.build("np", dx=1, dy=1, dz=8)
    layer = next(m for m in net.modules() if isinstance(m, torch.nn.Linear))
    layer.register_forward_hook(lambda layer, _, out: dropout(out, 0.1, layer.training))
    return net


def located():
    """A model that looks at the inputs of the first batches."""
    torch.manual_seed(0)
    return npexp.build("rmnp", dx=1, dy=1, num_features=8, dz=8, num_layers=1, dim_feedforward=8, num_priors=2)


def module(net):
    """A model whose rate rises and falls."""
    schedule = functools.partial(WarmupCosine, warmup=0.3, total_steps=9)
    optimizer = functools.partial(torch.optim.Adam, lr=1e-2)
    objective = "elbo" if net.traits["latent"] else "loglik"
    return npexp.NPModule(net, objective=objective, optimizer=optimizer, lr_scheduler=schedule)


def fit(folder, processes, steps=9, checkpoint=None, net=noisy, **settings):
    """Trains with four micro-batches per step; gives metrics by step, and the weights."""
    data = npexp.build_data(
        "gp_rbf",
        batch_size=2,
        steps_per_epoch=4,
        num_val_batches=5,
        num_test_batches=4,
        test_kernels={},
        cache_dir=str(folder),
    )
    run = folder / f"{processes}_{steps}_{checkpoint.stem if checkpoint else 'new'}"
    trainer = Trainer(
        accelerator="cpu",
        strategy="ddp_fork" if processes > 1 else "auto",
        devices=processes,
        accumulate_grad_batches=MICRO_BATCHES // processes,
        max_steps=steps,
        val_check_interval=3,
        check_val_every_n_epoch=None,
        gradient_clip_val=0.5,
        log_every_n_steps=1,
        logger=MetricsFile(run / "metrics.csv"),
        callbacks=[
            StepSeed(1),
            Measurements(),
            RunClock(),
            ModelCheckpoint(run, "{step}", monitor=None, every_n_train_steps=2, save_top_k=-1),
        ],
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        **settings,
    )
    model, make_batch = module(net()), data.make_batch

    def noted(split, index):
        (folder / f"{split}_{index}_{os.getpid()}").touch()
        return make_batch(split, index)

    data.make_batch = noted
    trainer.fit(model, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    rows = read_rows(run / "metrics.csv")
    return {s: {k: v for k, v in r.items() if "perf" not in k} for s, r in rows.items()}, model.state_dict()


def assert_close(one, two, tolerance):
    """Two runs have the same curves and weights; the first gives the steps."""
    (rows, weights), (others, other_weights) = one, two
    for step, row in rows.items():
        assert row.keys() == others[step].keys(), step
        assert others[step] == pytest.approx(row, rel=tolerance, abs=tolerance), step
    for key, value in weights.items():
        torch.testing.assert_close(other_weights[key], value, rtol=tolerance, atol=tolerance)


@pytest.mark.slow
def test_processes_and_restarts_do_not_change_the_run(tmp_path):
    one = fit(tmp_path, 1)
    rows, _ = one
    assert list(rows) == list(range(9)) and [s for s, r in rows.items() if "val/rmse" in r] == [2, 5, 8]
    assert (
        rows[0]["train/learning_rate"] == pytest.approx(1e-2 / 3) and len({r["train/kl"] for r in rows.values()}) == 9
    )
    for processes in (2, 4):
        assert_close(one, fit(tmp_path, processes), 1e-5)
    # In mid-epoch, at the end of an epoch, after a validation.
    for step, before, after in ((2, 1, 2), (4, 4, 1), (6, 2, 1)):
        rest, weights = fit(tmp_path, after, checkpoint=tmp_path / f"{before}_9_new/step={step}.ckpt")
        assert min(rest) == step
        assert_close((rest, weights), one, 1e-5)


def test_what_is_found_once_is_found_by_one_process_or_by_all_alike(tmp_path):
    """The domain of the inputs is the same for all; the evaluation tasks are made by one process, before the others."""
    two = fit(tmp_path, 2, steps=2, net=located)
    assert [len(list(tmp_path.glob(f"val_{i}_*"))) for i in range(5)] == [1] * 5
    one = fit(tmp_path, 1, steps=2, net=located)
    assert len(list(tmp_path.glob("val_*"))) == 5, "the cache was not used"
    for key in ("net.domain.centre", "net.domain.unit"):
        assert torch.equal(one[1][key], two[1][key]), key
    assert_close(one, two, 1e-4)


def test_mixed_precision(tmp_path):
    settings = {"steps": 3, "precision": "bf16-mixed"}
    one, two = (fit(tmp_path, processes, **settings) for processes in (1, 2))
    assert_close(one, two, 2e-3)  # a bfloat16 has 8 bits
    full, _ = fit(tmp_path, 4, steps=3)
    assert 1e-5 < max(abs(row["train/loss"] - full[step]["train/loss"]) for step, row in one[0].items()) < 0.1


def test_epochs_end_with_a_step(tmp_path):
    with pytest.raises(ConfigError, match="whole steps, each 4 batches per process, got 6 batches"):
        fit(tmp_path, 1, limit_train_batches=6)


def test_accumulation():
    assert accumulation(64, 16, 1) == 4 and accumulation(64, 16, 2, given=2) == 2 and accumulation(64, 16, 4) == 1
    with pytest.raises(ConfigError, match=r"a multiple of 48, .* on 3 processes, got 64"):
        accumulation(64, 16, 3)
    with pytest.raises(ConfigError, match="got 8"):
        accumulation(8, 16, 1)
    with pytest.raises(ConfigError, match="accumulate_grad_batches=3, and 4 by global_batch_size=64"):
        accumulation(64, 16, 1, given=3)
