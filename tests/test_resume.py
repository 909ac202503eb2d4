"""A run killed at any moment and resumed ends bit for bit where the unbroken one does, with every option on."""

import os
import signal
import subprocess
import sys
import time

import torch

from npexp.run_files import read_rows
from tests.faults.outcome import parse_all

STEPS = 45  # of 60: no validation is better enough than the first, so the second after it ends the run
LIMIT = 180  # seconds
WORDS = [
    "fit",
    *("--config", "experiment/gp_rbf_np"),  # its latent draws would show a lost random state
    *("--config", "trainer/ema", "--config", "trainer/early_stopping"),
    *("--trainer.callbacks.patience=2", "--trainer.callbacks.min_delta=10", "--model.lr_scheduler.warmup=0.3"),
    *("--data.batch_size=4", "--global_batch_size=8", "--trainer.gradient_clip_val=0.2"),
    *("--trainer.accelerator=cpu", "--trainer.max_steps=60", "--trainer.val_check_interval=15"),
    *("--trainer.enable_progress_bar=false", "--trainer.log_every_n_steps=1", "--last.every_n_train_steps=7"),
    *("--figures.num_tasks=0", "--data.num_val_batches=2", "--data.steps_per_epoch=25", "--model.net.dz=16"),
]
PARTS = "state_dict", "optimizer_states", "lr_schedulers", "global_step"


def start(folder, *words):
    env = {**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(folder / "cache")}
    command = [sys.executable, "-m", "npexp", *WORDS, "--runs_dir", str(folder / "runs"), *words]
    return subprocess.Popen(command, env=env, cwd=folder, stdout=subprocess.DEVNULL)


def assert_equal(one, two):
    """Nested state dictionaries hold the same, to the last bit."""
    assert type(one) is type(two)
    if isinstance(one, dict):
        assert one.keys() == two.keys()
        for key in one:
            assert_equal(one[key], two[key])
    elif isinstance(one, (list, tuple)):
        for a, b in zip(one, two, strict=True):
            assert_equal(a, b)
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, two)
    else:
        assert one == two


def logged(folder):
    """The rows of a run's metrics by step, less what no two runs share."""
    rows = read_rows(folder / "metrics.csv")
    return {step: {k: v for k, v in row.items() if not k.startswith("perf/")} for step, row in rows.items()}


def test_killed_and_resumed_equals_unbroken(tmp_path):
    unbroken = start(tmp_path, "--name", "unbroken")
    killed = start(tmp_path, "--name", "killed")
    last = tmp_path / "runs/killed/0/checkpoints/last.ckpt"
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline and killed.poll() is None:
        if last.is_file() and torch.load(last, weights_only=True)["global_step"] >= 21:
            break
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait(LIMIT) == -signal.SIGKILL, "the run ended before it could be killed"
    at = torch.load(last, weights_only=True)["global_step"]
    assert 21 <= at < STEPS, at
    assert parse_all(last.parents[1]) >= 4, "checkpoints, metrics, configuration, events"

    assert start(tmp_path, "--name", "killed", "--ckpt_path", "last").wait(LIMIT) == 0
    assert unbroken.wait(LIMIT) == 0
    one, two = tmp_path / "runs/unbroken/0", tmp_path / "runs/killed/0"
    assert max(logged(one)) == STEPS - 1, "not stopped early"
    for name in ("last", "best"):
        a, b = (torch.load(run / f"checkpoints/{name}.ckpt", weights_only=True) for run in (one, two))
        for part in ("current_model_state", "averaging_state", *PARTS):
            assert_equal(a[part], b[part])
        (stopping,) = (key for key in a["callbacks"] if "EarlyStop" in key)
        assert_equal(a["callbacks"][stopping], b["callbacks"][stopping])
    assert [p.name for p in (tmp_path / "runs/killed").iterdir()] == ["0"], "resumed somewhere else"
    assert not list(two.rglob("*.part"))
    assert logged(two) == logged(one)  # history kept, nothing twice, no other value
