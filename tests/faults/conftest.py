"""A tiny experiment, run in this process or in others of its own."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch

from npexp.cli import main
from npexp.run_files import read_rows

ROOT = Path(__file__).parents[2]
TINY = """
name: tiny
trainer:
  accelerator: cpu
  max_steps: 12
  val_check_interval: 5
  log_every_n_steps: 1
  enable_progress_bar: false
model:
  net: {class_path: npexp.models.NP, init_args: {dz: 8}}   # its latent draws would show a lost random state
data:
  class_path: datamodules.GPData
  init_args:
    kernel: {class_path: datamodules.RBF}
    batch_size: 2
    steps_per_epoch: 7
    num_val_batches: 2
    num_test_batches: 2
    cache_dir: cache
last: {every_n_train_steps: 4}
figures: {num_tasks: 0}
"""


class Folder:
    """A working folder with the experiment `tiny` in it."""

    def __init__(self, path):
        path.mkdir(exist_ok=True)
        self.path, self.run = path, path / "runs/tiny/0"
        (path / "tiny.yaml").write_text(TINY)

    def fit(self, *words, sabotage=None, **settings):
        """The exit status of `npexp fit` in this process."""
        layers = ["--config", "tiny.yaml"]
        return self.npexp("fit", *layers, *words, *sabotaged(sabotage, settings))

    def npexp(self, *words):
        """The exit status of a command in this process; the parser, and signals, leave by SystemExit."""
        try:
            return main(list(words))
        except SystemExit as stop:
            return stop.code

    def checkpoint(self, name="last"):
        return torch.load(self.run / f"checkpoints/{name}.ckpt", weights_only=True)

    def steps(self, name="last"):
        return self.checkpoint(name)["global_step"]

    def weights(self):
        return self.checkpoint()["state_dict"]

    def said(self):
        """What its processes wrote as errors."""
        return (self.path / "said.txt").read_text()

    def rows(self):
        """The rows of metrics.csv, less what no two runs share."""
        rows = read_rows(self.run / "metrics.csv")
        return {step: {k: v for k, v in row.items() if not k.startswith("perf/")} for step, row in rows.items()}


def sabotaged(name, settings):
    """The words that switch a callback of `tests.faults.sabotage` on."""
    if name is None:
        return []
    options = [f"--trainer.callbacks.{key}={value}" for key, value in settings.items()]
    return [f"--trainer.callbacks+=tests.faults.sabotage.{name}", *options]


def same(one, two):
    """Whether two state dictionaries hold the same, to the last bit."""
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["npexp"])
    return Folder(tmp_path)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The same experiment, trained without a fault."""
    with pytest.MonkeyPatch.context() as patch:
        path = tmp_path_factory.mktemp("unbroken")
        patch.chdir(path)
        patch.setattr(sys, "argv", ["npexp"])
        folder = Folder(path)
        assert folder.fit() == 0
        return folder


@contextmanager
def running(folder, *words, processes=1, command="fit"):
    """A command in a folder with processes of its own, which are killed where they still live at the end."""
    ddp = [] if processes == 1 else ["--trainer.strategy=ddp", f"--trainer.devices={processes}"]
    search = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    with (folder.path / "said.txt").open("w") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "npexp", command, *words, *ddp],
            cwd=folder.path,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": search},
            stdout=subprocess.DEVNULL,
            stderr=said,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def gone(process, limit=60.0):
    """Whether all processes of a run end within so many seconds."""
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        process.poll()
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def saves(folder, count, process, limit=120.0):
    """Waits until `last.ckpt` has been written so many times."""
    path, seen, deadline = folder.run / "checkpoints/last.ckpt", set(), time.monotonic() + limit
    before = path.stat().st_mtime_ns if path.is_file() else None
    while len(seen - {before}) < count:
        assert time.monotonic() < deadline and process.poll() is None, folder.said()
        if path.is_file():
            seen.add(path.stat().st_mtime_ns)
        time.sleep(0.001)
