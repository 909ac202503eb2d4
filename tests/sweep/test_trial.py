"""The process of one trial, and what is made of its end."""

import os
import subprocess
import sys

import pytest

from npexp.exchange import FAILURE, REPORTS, RESULT, STOP, TRIAL, end_with_worker, read, reports, write
from npexp.sweep.slots import Slot
from npexp.sweep.trial import DIVERGED, DONE, FAILED, NO_MEMORY, STOPPED, explain, place, run
from tests.sweep.fakes import FAKE


def start(folder, listen=lambda report: False, tick=lambda: None, **given):
    """A fake trial in `folder/0`."""
    words = [f"--{key}={value}" for key, value in {"x": 2.0, **given}.items()]
    place = [f"--runs_dir={folder.parent}", f"--name={folder.name}", "--version=0"]
    return run([*FAKE, *words, *place], folder / "0", Slot(), listen, tick, 0.02)


def test_every_report_is_heard_once_and_the_result_read(tmp_path):
    heard = []
    outcome = start(tmp_path / "a", lambda report: heard.append(report["step"]))
    assert heard == [1, 2, 3, 4]
    assert outcome.status == DONE and outcome.why == outcome.log == ""
    assert outcome.result == {"val/score": 2.0, "parameters": 20.0, "perf/peak_memory_mb": 200.0, "steps": 4}
    heard.clear()
    again = start(tmp_path / "a", lambda report: heard.append(report["step"]))  # its worker was killed before it told
    assert again == outcome and heard == [1, 2, 3, 4]
    assert len((tmp_path / "a/attempts.jsonl").read_text().splitlines()) == 1


def test_a_trial_stops_when_it_is_told_to(tmp_path):
    outcome = start(tmp_path / "a", lambda report: report["step"] == 1, does="waits to be stopped", x=-1.0)
    assert outcome.status == STOPPED and outcome.result["steps"] < 4


def test_what_interrupts_the_wait_ends_the_trial(tmp_path):
    class Enough(Exception):
        pass

    def tick():
        if reports(tmp_path / "a/0"):
            raise Enough

    with pytest.raises(Enough):
        start(tmp_path / "a", tick=tick, does="waits")
    pid = int((tmp_path / "a/attempts.jsonl").read_text()[1:].split(",")[0])
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize(
    ("does", "status", "why"),
    [
        ("fails", FAILED, "ValueError: no luck"),
        ("needs memory", NO_MEMORY, "can't allocate memory"),
        ("is killed", NO_MEMORY, "ended by the system"),
        ("diverges", DIVERGED, "DivergenceError: training diverged at step 3"),
    ],
)
def test_ends_are_told_apart(tmp_path, does, status, why):
    outcome = start(tmp_path / "a", does=does)
    assert outcome.status == status and why in outcome.why and outcome.result == {}


CUDA = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."
LATER = "RuntimeError: [/pytorch/third_party/gloo] Connection closed by peer"


@pytest.mark.parametrize(
    ("status", "failure", "log", "expected", "why"),
    [
        (1, None, f"[rank1]: {CUDA}\n[rank0]: {LATER}\n", NO_MEMORY, CUDA),
        (1, {"kind": "OutOfMemoryError", "why": "CUDA out of memory."}, LATER, NO_MEMORY, "CUDA out of memory."),
        (1, {"kind": "RuntimeError", "why": "DefaultCPUAllocator: can't allocate memory"}, "", NO_MEMORY, "can't"),
        (1, None, "numpy._core._exceptions._ArrayMemoryError: Unable to allocate 8.00 GiB", NO_MEMORY, "8.00 GiB"),
        (-6, None, "terminate called after throwing an instance of 'std::bad_alloc'", NO_MEMORY, "bad_alloc"),
        (-9, None, "", NO_MEMORY, "ended by the system"),
        (4, {"kind": "LostProcessError", "why": "Connection closed by peer"}, LATER, NO_MEMORY, "LostProcessError"),
        (
            -9,
            {"kind": "KeyError", "why": "'dz'"},
            "",
            FAILED,
            "KeyError: 'dz'",
        ),  # Lightning has killed the first process
        (1, {"kind": "KeyError", "why": "'dz'"}, "warning: almost out of memory", FAILED, "KeyError"),
        (2, None, "model with 3 parameters\nnpexp: unknown option 'a'\n\n", FAILED, "npexp: unknown option 'a'"),
        (7, None, "", FAILED, "ended with status 7"),
    ],
)
def test_reasons(status, failure, log, expected, why):
    outcome = explain(status, failure, log)
    assert outcome.status == expected and why in outcome.why and outcome.log == log


def test_a_trial_goes_on_where_it_has_a_checkpoint_and_starts_anew_where_not(tmp_path):
    folder = tmp_path / "trial_0003" / "0"
    assert place(folder) == (folder, [])
    folder.mkdir(parents=True)
    assert place(folder) == (folder, [])
    (folder / "config.yaml").touch()
    assert place(folder) == (tmp_path / "trial_0003" / "1", [])
    write(folder / "checkpoints/last.ckpt", {})
    assert place(folder) == (folder, [f"--ckpt_path={folder / 'checkpoints/last.ckpt'}"])


def test_half_a_line_is_no_report(tmp_path):
    assert reports(tmp_path) == []
    (tmp_path / REPORTS).write_text('{"step": 1}\n{"step": 2')
    assert reports(tmp_path) == [{"step": 1}]
    assert read(tmp_path / RESULT) is None
    assert len({REPORTS, RESULT, STOP, FAILURE}) == 4


def test_a_trial_knows_nothing_of_the_launcher_of_its_worker(monkeypatch):
    for name in ("LOCAL_RANK", "RANK", "WORLD_SIZE", "MASTER_PORT", "SLURM_NTASKS", "PL_GLOBAL_SEED"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("RANKING", "kept")
    found = Slot(("GPU-a", "GPU-b"), 2, 3).environment()
    assert not {"LOCAL_RANK", "RANK", "WORLD_SIZE", "MASTER_PORT", "SLURM_NTASKS", "PL_GLOBAL_SEED"} & found.keys()
    assert [found[key] for key in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "RANKING")] == [
        "GPU-a,GPU-b",
        "3",
        "kept",
    ]
    assert found[TRIAL] == str(os.getpid())
    assert Slot(("GPU-a", "GPU-b"), 2).settings() == {"trainer.devices": 2, "trainer.strategy": "ddp"}
    assert Slot().settings() == {}


@pytest.mark.skipif(sys.platform != "linux", reason="the system can do that on Linux only")
def test_a_trial_whose_worker_is_gone_ends_at_once():
    code = f"from npexp.exchange import {end_with_worker.__name__} as end; end(); print('on')"
    for worker, status in ((os.getpid(), 0), (1, 1)):
        env = {**os.environ, TRIAL: str(worker)}
        assert (
            subprocess.run([sys.executable, "-c", code], env=env, timeout=60, capture_output=True).returncode == status
        )
