"""Two gloo processes give the numbers of one."""

import json
import os
import subprocess
import sys

import pytest


def npexp(folder, *words):
    env = {**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(folder / "cache")}
    result = subprocess.run(
        [sys.executable, "-m", "npexp", *words, "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"],
        env=env,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-3000:]


@pytest.mark.slow
def test_test_metrics_do_not_depend_on_the_number_of_processes(tmp_path):
    layers = ["--config", "experiment/gp_rbf_cnp", "--data.num_val_batches=2", "--data.num_test_batches=7"]
    ddp = ["--config", "trainer/ddp", "--trainer.devices=2"]
    npexp(tmp_path, "fit", *layers, *ddp, "--trainer.max_steps=4", "--figures.num_tasks=0")
    assert [p.name for p in (tmp_path / "runs/gp_rbf_cnp").iterdir()] == ["0"], "a folder per process"
    results = []
    for extra in ([], ddp):
        npexp(tmp_path, "test", *layers, *extra)
        results.append(json.loads((tmp_path / "runs/gp_rbf_cnp/0/test_metrics.json").read_text()))
    numbers = [{k: v for k, v in r.items() if "/" in k} for r in results]
    assert numbers[0].keys() == numbers[1].keys() and len(numbers[0]) > 50
    for key, value in numbers[0].items():
        assert value == pytest.approx(numbers[1][key], rel=1e-6, abs=1e-7), key
