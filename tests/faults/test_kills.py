"""A fit killed at random moments, again and again, ends where the unbroken one does; `test_resume` kills one once."""

import os
import random
import signal
import time

import pytest

from tests.faults.conftest import Folder, gone, running, saves
from tests.faults.outcome import keep, parse_all, weights_hash

KILLS = 20
LIMIT = 300  # seconds for a run to end


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
        "same_weights": weights_hash(folder.run) == weights_hash(whole.run),
        "weights": weights_hash(folder.run),
    }


@pytest.mark.faults
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("processes", [1, 2])
def test_killed_many_times(tmp_path, processes):
    found = kill_again_and_again(tmp_path, KILLS, processes)
    keep(f"fit on {processes}", found)
    assert found["same_weights"] and found["wrong_rows"] == 0, found
