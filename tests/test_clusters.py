"""Settings of many processes that cannot work are refused in one line; the job script does what it says."""

import subprocess
import sys
from pathlib import Path

import pytest

from npexp.cli import main

# Lightning's types for optimisers and schedules are of the kind that beartype calls old.
pytestmark = pytest.mark.filterwarnings("ignore:.*PEP 484 type hint.* deprecated by PEP 585")
SCRIPT = Path(__file__).parents[1] / "examples/slurm_submit.sh"
CPU = ["--trainer.accelerator=cpu", "--trainer.devices=2"]


@pytest.mark.parametrize(
    "words, expected",
    [
        (["--config", "trainer/fsdp", *CPU], "`fsdp` requires a GPU accelerator"),
        (["--config", "trainer/slurm", *CPU], "is not set: trainer/slurm is for jobs started with srun"),
        (
            ["--global_batch_size=24"],
            "global_batch_size to be a multiple of 16, data.batch_size=16 on 1 process, got 24",
        ),
        (["--global_batch_size=0"], "got 0"),
        (["--global_batch_size=64", "--trainer.accumulate_grad_batches=3"], "leave one of them out"),
    ],
)
def test_refusals(tmp_path, monkeypatch, capsys, words, expected):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["npexp"])
    assert main(["fit", "--config", "experiment/gp_rbf_cnp", "--trainer.accelerator=cpu", *words]) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("npexp: ") and expected in said and "\n" not in said
    assert not list(tmp_path.glob("runs/gp_rbf_cnp/*")), "a refused run uses up no version"


@pytest.mark.parametrize("has_checkpoint, restarts, status", [(False, 0, 0), (True, 1, 143), (False, 2, 0)])
def test_the_job_script(tmp_path, monkeypatch, has_checkpoint, restarts, status):
    """With stand-ins for SLURM's commands: it resumes from a checkpoint, and comes again when it was stopped."""
    for name, code in {"srun": status, "scontrol": 0}.items():
        (tmp_path / name).write_text(f'#!/bin/sh\necho {name} "$@" >> said\nexit {code}\n')
        (tmp_path / name).chmod(0o755)
    checkpoint = tmp_path / "runs/mine/0/checkpoints/last.ckpt"
    if restarts:
        checkpoint.parents[1].mkdir(parents=True)
    if has_checkpoint:
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.touch()
    variables = {"SLURM_JOB_NAME": "mine", "SLURM_NNODES": "2", "SLURM_NTASKS_PER_NODE": "4", "SLURM_JOB_ID": "7"}
    variables["SLURM_RESTART_COUNT"] = str(restarts)
    for key, value in variables.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    done = subprocess.run(["bash", SCRIPT, "--config", "experiment/x"], cwd=tmp_path, timeout=60, check=False)
    assert done.returncode == status
    assert [p.name for p in tmp_path.glob("runs/mine/*")] == (
        ["0"] if has_checkpoint else ["stopped-7-2"] if restarts else []  # out of the way of the new run
    )
    started, *after = (tmp_path / "said").read_text().splitlines()
    assert started == (
        "srun --kill-on-bad-exit=1 npexp fit --config experiment/x --config trainer/slurm --trainer.num_nodes=2 "
        "--trainer.devices=4 --trainer.enable_progress_bar=false --name mine --version 0"
        f"{' --ckpt_path last' if has_checkpoint else ''}"
    )
    assert after == (["scontrol requeue 7"] if status else [])
