"""Two gloo processes give the numbers of one, whoever starts them: Lightning, torchrun or SLURM."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch

from npexp.cli import main
from npexp.run_files import read_arrays, read_rows

LAYERS = ["--config", "experiment/gp_rbf_cnp", "--data.num_val_batches=2", "--data.num_test_batches=7"]
STEPS = ["--trainer.max_steps=4", "--trainer.log_every_n_steps=1", "--figures.num_tasks=0", "--model.net.dz=16"]
FIT = ["fit", *LAYERS, *STEPS, "--data.batch_size=8", "--global_batch_size=16", "--version=0"]
DDP = ["--config", "trainer/ddp", "--trainer.devices=2"]
QUIET = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
LIMIT = 200  # seconds
FIT_AND_TEST = """
import json, sys
from npexp.cli import main
for words in map(json.loads, sys.argv[1:]):
    sys.argv = ["npexp"]
    assert main(words) == 0
"""


def start(folder, *words, **variables):
    """Starts Python in a folder, with further environment variables."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(folder / "cache"), **variables}
    return subprocess.Popen(
        [sys.executable, *words], env=env, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def end(*processes):
    """Waits for them, and kills whatever does not end in time."""
    try:
        for process in processes:
            _, said = process.communicate(timeout=LIMIT)
            assert process.returncode == 0, said[-3000:]
    finally:
        for process in processes:
            process.kill()


def free_port():
    """A port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


def losses(folder, name):
    """A run's loss and learning rate by step."""
    rows = read_rows(folder / f"runs/{name}/0/metrics.csv")
    return [rows[step][key] for step in range(4) for key in ("train/loss", "train/learning_rate")]


def measured(folder):
    """What the test of the run torchrun has left: means, and the scores of each task."""
    run = folder / "runs/torchrun/0"
    return json.loads((run / "test_metrics.json").read_text()), read_arrays(run / "test_tasks.npz")


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """Runs npexp in this process, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["npexp"])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield lambda *words: main([*words, *QUIET])
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*PEP 484 type hint.* deprecated by PEP 585")  # Lightning's types
def test_who_starts_how_many_processes_changes_nothing(tmp_path, alone, untyped):
    assert alone(*FIT, "--name=one") == 0
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={free_port()}"]
    (tmp_path / "both.py").write_text(FIT_AND_TEST)
    test = ["test", *LAYERS, "--name=torchrun"]
    both = [json.dumps([*words, "--name=torchrun", *DDP, *QUIET]) for words in (FIT, test)]
    end(start(tmp_path, *torchrun, "both.py", *both))
    together = measured(tmp_path)
    slurm = {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "1", "SLURM_NODEID": "0"}
    slurm |= {
        "SLURM_JOB_ID": "1234",
        "SLURM_JOB_NAME": "fit",
        "SLURM_NODELIST": "localhost",
        "MASTER_PORT": free_port(),
    }
    words = ["-m", "npexp", *FIT, "--name=slurm", "--config", "trainer/slurm", "--trainer.devices=2", *QUIET]
    end(*(start(tmp_path, *words, **slurm, SLURM_PROCID=str(i), SLURM_LOCALID=str(i)) for i in range(2)))
    for name in ("torchrun", "slurm"):
        assert losses(tmp_path, name) == pytest.approx(losses(tmp_path, "one"), rel=1e-5)
        assert (tmp_path / f"runs/{name}/0/checkpoints/best.ckpt").is_file()

    assert alone(*test) == 0
    results, tasks = zip(together, measured(tmp_path), strict=True)
    numbers = [{k: v for k, v in r.items() if "/" in k} for r in results]
    assert numbers[0].keys() == numbers[1].keys() and len(numbers[0]) > 50
    for key, value in numbers[0].items():
        assert value == pytest.approx(numbers[1][key], rel=1e-6, abs=1e-7), key
    assert tasks[0]["test/batch"].tolist() == [batch for batch in range(7) for _ in range(16)]
    for key, values in tasks[0].items():
        np.testing.assert_allclose(values, tasks[1][key], rtol=1e-5, atol=1e-6, err_msg=key)
