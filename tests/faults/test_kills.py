"""A fit killed at random moments, again and again, ends where the unbroken one does."""

import hashlib
import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from npexp.run_files import read_rows
from npexp.training_cli import steps_in
from tests.faults.conftest import Folder, gone, running, saves

FEW, MANY = 2, 20
RECORD = Path(__file__).parents[2] / "results/faults/kills.json"
LIMIT = 300  # seconds for a run to end


def weights_hash(folder):
    """SHA-256 of all weights, in order."""
    digest = hashlib.sha256()
    for name, value in sorted(folder.weights().items()):
        digest.update(name.encode() + value.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def parse_all(run):
    """Reads every file of a run in full, and returns how many there are; what a kill left half written has no name."""
    files = [p for p in run.rglob("*") if p.is_file() and p.suffix != ".part"]
    for path in files:
        if path.suffix == ".ckpt":
            steps_in(path)
        elif path.suffix == ".yaml":
            assert yaml.safe_load(path.read_text())["seed_everything"] == 0
        elif path.suffix == ".csv":
            assert read_rows(path)
        else:
            assert path.name.startswith("events."), path
            EventAccumulator(str(path)).Reload()
    return len(files)


def kill_again_and_again(tmp_path, kills, processes):
    """Kills a fit, resumes it, and so on; compares the end with a fit that nobody disturbed.

    Returns:
        What was counted.
    """
    draw = random.Random(f"{kills} {processes}")
    most = 6  # checkpoints between two kills
    steps = ["--trainer.max_steps", str(5 * most * (kills + 1)), "--last.every_n_train_steps=5"]
    whole, folder = Folder(tmp_path / "unbroken"), Folder(tmp_path / "killed")
    at, during_start, files = [], 0, 0
    words = ["--config", "tiny.yaml", *steps]
    with running(whole, *words, processes=processes) as unbroken:
        for kill in range(kills):
            with running(folder, *words, processes=processes) as process:
                if kill % 5 == 4:  # a start is a moment like any other
                    during_start += 1
                    time.sleep(draw.uniform(1.0, 8.0))
                else:
                    saves(folder, draw.randint(1, most), process)
                    time.sleep(draw.uniform(0.0, 0.05))
                os.killpg(process.pid, signal.SIGKILL)
                assert process.wait(timeout=LIMIT) == -signal.SIGKILL, "the run ended before it could be killed"
                assert gone(process)
            files += parse_all(folder.run)
            at.append(folder.steps())
            words = ["--ckpt_path", "runs/tiny"]
        with running(folder, *words, processes=processes) as last:
            assert last.wait(timeout=LIMIT) == 0
        assert unbroken.wait(timeout=LIMIT) == 0
    assert not list(folder.run.rglob("*.part"))
    assert [p.name for p in folder.run.parent.iterdir()] == ["0"], "resumed somewhere else"
    rows, expected = folder.rows(), whole.rows()
    wrong = sum(rows.get(step) != row for step, row in expected.items()) + len(rows.keys() - expected.keys())
    return {
        "processes": processes,
        "kills": kills,
        "during_start": during_start,
        "steps": folder.steps(),
        "newest_checkpoints": at,
        "files_read": files,
        "wrong_rows": wrong,
        "same_weights": weights_hash(folder) == weights_hash(whole),
        "weights": weights_hash(folder),
    }


def check(found):
    assert found["same_weights"] and found["wrong_rows"] == 0, found


@pytest.mark.slow
def test_killed_a_few_times(tmp_path):
    check(kill_again_and_again(tmp_path, FEW, processes=1))


@pytest.mark.faults
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("processes", [1, 2])
def test_killed_many_times(tmp_path, processes):
    found = kill_again_and_again(tmp_path, MANY, processes)
    kept = json.loads(RECORD.read_text()) if RECORD.is_file() else {}
    kept[f"fit on {processes}"] = found
    RECORD.parent.mkdir(exist_ok=True)
    RECORD.write_text(json.dumps(kept, indent=1) + "\n")
    check(found)
