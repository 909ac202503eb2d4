"""A run killed at any moment and resumed ends bit for bit where the unbroken one does."""

import os
import signal
import subprocess
import sys
import time

import torch

from npexp.loggers import read_rows

STEPS = 40
WORDS = [
    "fit",
    *("--config", "experiment/gp_rbf_np"),  # its latent draws would show a lost random state
    *("--trainer.accelerator=cpu", f"--trainer.max_steps={STEPS}", "--trainer.val_check_interval=15"),
    *("--trainer.enable_progress_bar=false", "--trainer.log_every_n_steps=1", "--last.every_n_train_steps=7"),
    *("--figures.num_tasks=0", "--data.num_val_batches=2", "--data.steps_per_epoch=25", "--model.net.dz=16"),
]


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
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and killed.poll() is None:
        if last.is_file() and torch.load(last, weights_only=True)["global_step"] >= 21:
            break
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL, "the run ended before it could be killed"
    at = torch.load(last, weights_only=True)["global_step"]
    assert 21 <= at < STEPS, at

    assert start(tmp_path, "--name", "killed", "--ckpt_path", "last").wait() == 0
    assert unbroken.wait() == 0
    one, two = tmp_path / "runs/unbroken/0", tmp_path / "runs/killed/0"
    for name in ("last", "best"):
        a, b = (torch.load(run / f"checkpoints/{name}.ckpt", weights_only=True) for run in (one, two))
        for part in ("state_dict", "optimizer_states", "lr_schedulers", "global_step"):
            assert_equal(a[part], b[part])
    assert [p.name for p in (tmp_path / "runs/killed").iterdir()] == ["0"], "resumed somewhere else"
    assert logged(two) == logged(one)  # history kept, nothing twice, no other value
