"""A run on two processes ends as one: whichever dies or diverges, none waits and none is left behind."""

import logging
import os
import signal
from pathlib import Path

import pytest
import torch

from npexp.errors import DivergenceError, LostProcessError
from npexp.processes import OBSERVER, announce_losses, lost_contact
from tests.faults.conftest import Folder, gone, running, sabotaged, same, saves

LIMIT = 180  # seconds for a run to end


def children(process):
    """The processes that this one has started."""
    listed = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(pid) for pid in listed]


@pytest.mark.slow
def test_the_others_end_with_a_lost_process(tmp_path):
    folder = Folder(tmp_path)
    layers = ["--config", "tiny.yaml", "--config", "trainer/ema"]  # which copies the module beside its processes
    with running(folder, *layers, "--trainer.max_steps=100000", processes=2) as process:
        saves(folder, 2, process)
        (other,) = children(process)
        os.kill(other, signal.SIGKILL)
        assert gone(process)
    assert process.returncode == LostProcessError.status == 4
    ours = [line for line in folder.said().splitlines() if line.startswith("npexp: ")]
    assert (
        len(ours) == 1
        and "a process of this run has died" in ours[0]
        and ours[0].endswith("npexp fit --ckpt_path runs/tiny/0")
    )
    assert folder.steps() >= 4


@pytest.mark.faults
def test_nobody_is_left_when_the_first_process_is_killed(tmp_path):
    folder = Folder(tmp_path)
    with running(folder, "--config", "tiny.yaml", "--trainer.max_steps=100000", processes=2) as process:
        saves(folder, 2, process)
        process.kill()
        assert gone(process)
    assert folder.steps() >= 4


@pytest.mark.faults
def test_all_stop_where_one_diverges(tmp_path):
    folder = Folder(tmp_path)
    with running(folder, "--config", "tiny.yaml", *sabotaged("Spoil", {"step": 6, "rank": 1}), processes=2) as process:
        assert process.wait(timeout=LIMIT) == DivergenceError.status
        assert gone(process)
    said = folder.said()
    assert said.count("npexp: ") == 1 and "diverged at step 6, batch 13, seed" in said  # 6 x 2 + 1
    assert "weight head.network.0.weight" in said
    assert folder.steps() == 5


@pytest.mark.faults
@pytest.mark.parametrize("step", [2, 6])  # in the middle and at the end of an epoch
def test_a_signal_to_the_first_process_stops_all(tmp_path, step):
    folder, whole = Folder(tmp_path / "one"), Folder(tmp_path / "two")
    with running(whole, "--config", "tiny.yaml", processes=2) as unbroken:
        ask = sabotaged("Signal", {"number": 15, "step": step})
        with running(folder, "--config", "tiny.yaml", *ask, processes=2) as process:
            assert process.wait(timeout=LIMIT) == 143
            assert gone(process) and f"stopped after {step + 1} steps" in folder.said()
        assert folder.steps() == step + 1
        with running(folder, "--ckpt_path", "runs/tiny", "--trainer.callbacks=null", processes=2) as process:
            assert process.wait(timeout=LIMIT) == 0
        assert unbroken.wait(timeout=LIMIT) == 0
    assert same(folder.weights(), whole.weights())
    assert folder.rows() == whole.rows()


def test_what_is_a_lost_process():
    gloo = RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer")
    assert lost_contact(gloo) and lost_contact(torch.distributed.DistBackendError("NCCL"))
    assert not lost_contact(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_lightnings_observer_speaks_our_words(capsys):
    logger = logging.getLogger(OBSERVER)
    before = logger.level
    announce_losses(lambda: "start it again")
    try:
        logger.info("[rank: 1] Child process with PID 1 terminated with code -9.")
        said = capsys.readouterr().err
        assert said.startswith("npexp: a process of this run has died") and said.endswith(" then start it again\n")
    finally:
        logger.setLevel(before)
        logger.filters.clear()
