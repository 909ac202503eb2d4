"""A sweep as a user runs it: `npexp fit` on two processes per trial, one of two pruned, and nothing left behind."""

import os
import subprocess
import sys

import pytest
import yaml
from optuna.trial import TrialState

from npexp.exchange import REPORTS, reports
from npexp.sweep.study import load

RATE = "model.optimizer.init_args.lr"
SWEEP = {
    "name": "real",
    "configs": ["experiment/gp_rbf_cnp"],
    "overrides": {
        "trainer.max_steps": 100,
        "trainer.val_check_interval": 5,
        "trainer.log_every_n_steps": 5,
        "trainer.accelerator": "cpu",
        "data.num_val_batches": 2,
        "figures.num_tasks": 0,
    },
    "metrics": ["val/loglik_joint"],
    "directions": ["maximize"],
    "space": {RATE: {"class_path": "FloatDistribution", "init_args": {"low": 1e-7, "high": 1e-2, "log": True}}},
    "enqueue": [{RATE: 1e-3}, {RATE: 1e-7}],
    "pruner": {"class_path": "ThresholdPruner", "init_args": {"lower": -1.03, "n_warmup_steps": 40}},
    "constraints": {"perf/peak_memory_mb": 1e6},
    "trials": 2,
}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_trials_train_on_two_processes_and_a_hopeless_one_is_stopped(tmp_path):
    (tmp_path / "real.yaml").write_text(yaml.safe_dump(SWEEP))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    words = ["sweep", "--config", "real.yaml", "--devices-per-trial", "2"]
    done = subprocess.run(
        [sys.executable, "-m", "npexp", *words],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    trials = load("real", f"sqlite:///{tmp_path}/runs/real/study.db").trials
    assert [trial.state for trial in trials] == [TrialState.COMPLETE, TrialState.PRUNED]
    for trial in trials:
        folder = tmp_path / "runs" / trial.user_attrs["folder"]
        heard = {report["step"]: report["metrics"]["val/loglik_joint"] for report in reports(folder)}
        assert trial.intermediate_values == heard
        config = yaml.safe_load((folder / "config.yaml").read_text())
        assert config["model"]["optimizer"]["init_args"]["lr"] == trial.params[RATE]
        assert config["trainer"]["strategy"] == "ddp" and int(config["trainer"]["devices"]) == 2
        assert trial.user_attrs["metrics"]["parameters"] == 116354
        assert trial.constraints == {"perf/peak_memory_mb": trial.user_attrs["peak_memory_mb"] - 1e6}
        assert not [name for name in os.listdir(folder.parent) if name not in ("0", "output.log")]
    assert trials[0].value == max(trials[0].intermediate_values.values()) and len(trials[0].intermediate_values) == 20
    assert trials[1].user_attrs["metrics"]["steps"] < 100 and trials[1].last_step < 100
    assert (tmp_path / "runs" / trials[1].user_attrs["folder"] / REPORTS).exists()
    assert "trial 1: pruned at step" in done.stdout and "npexp sweep best real" in done.stdout
    left = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, timeout=60).stdout
    assert str(tmp_path) not in left
