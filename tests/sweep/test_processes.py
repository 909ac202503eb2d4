"""Workers as processes of their own: several at once, killed, interrupted; on every kind of storage."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

import pytest
import yaml
from optuna.trial import TrialState

from npexp.errors import ConfigError, NPError
from npexp.sweep.command import sweep
from npexp.sweep.storage import Unreachable, open_storage
from npexp.sweep.study import load, open_study
from tests.sweep.fakes import FAKE, attempts, content, queue
from tests.sweep.servers import grpc_proxy, postgres

COMPLETE, FAIL = TrialState.COMPLETE, TrialState.FAIL
pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def storage(request, tmp_path):
    """The URL of a storage of that kind."""
    if request.param == "postgresql":
        with postgres() as url:
            yield url
    elif request.param == "grpc":
        with grpc_proxy(open_storage(f"journal:{tmp_path / 'behind.journal'}")) as url:
            yield url
    else:
        yield {"sqlite": f"sqlite:///{tmp_path / 's.db'}", "journal": f"journal:{tmp_path / 's.journal'}"}[
            request.param
        ]


def words(folder, url=None, workers=1, **changes):
    """Arguments of `npexp sweep` for a sweep over fake trials."""
    (folder / "fake.yaml").write_text(yaml.safe_dump(content(**changes)))
    extra = [] if url is None else [f"--storage={url}"]
    return [f"--config={folder / 'fake.yaml'}", f"--runs_dir={folder / 'runs'}", f"--workers={workers}", *extra]


def start(*args, **kwargs):
    """`npexp sweep` over fake trials as a process."""
    given = words(*args, **kwargs)
    code = "import sys; from npexp import cli; from npexp.sweep import command; sweep = command.sweep; "
    code += f"command.sweep = lambda words: sweep(words, {FAKE}); sys.exit(cli.main(['sweep', *{given}]))"
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(found, what):
    """What `found` returns once it is something; it may fail before."""
    for _ in range(6000):
        with suppress(FileNotFoundError, NPError, KeyError, IndexError, json.JSONDecodeError):
            if value := found():
                return value
        time.sleep(0.01)
    raise TimeoutError(what)


def gone(pid):
    """Whether a process has ended."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return " Z " in file.read()
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.mark.parametrize("storage", ["sqlite", "journal", "postgresql", "grpc"], indirect=True)
def test_two_workers_neither_lose_nor_double_a_trial(tmp_path, storage, capfd):
    assert sweep(words(tmp_path, storage, workers=2, trials=6, enqueue=queue(1.0, 2.0)), FAKE) == 0
    trials = load("fake", storage).trials
    assert 6 <= len(trials) <= 7  # two that finish at the same moment both see one missing
    assert {trial.state for trial in trials} == {COMPLETE}
    assert [trial.params["x"] for trial in trials[:2]] == [1.0, 2.0]
    assert [trial.user_attrs["folder"] for trial in trials] == [f"fake/trial_{i:04d}/0" for i in range(len(trials))]
    for trial in trials:
        ((_, given),) = attempts(tmp_path, trial.number)
        assert float(given["x"]) == trial.params["x"]
    said = capfd.readouterr().out.splitlines()
    assert sum(line.startswith("trial ") for line in said) == len(trials)
    assert sweep(words(tmp_path, storage, workers=2, trials=6, enqueue=queue(1.0, 2.0)), FAKE) == 0
    assert len(load("fake", storage).trials) == len(trials)


@pytest.mark.filterwarnings("ignore:Heartbeat of storage")
def test_two_workers_do_not_take_the_same_waiting_trial(tmp_path):
    url = f"sqlite:///{tmp_path / 's.db'}"  # with Optuna's own engine, 37 of 216 were taken twice
    study, _ = open_study("fake", url, content())
    for value in range(16):
        study.enqueue_trial({"x": value / 4})
    taken, together = [], threading.Barrier(2)

    def take(own):
        together.wait(timeout=60)
        taken.extend(own.ask().number for _ in range(8))

    workers = [threading.Thread(target=take, args=(load("fake", url),)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=120)
    assert sorted(taken) == list(range(16))


@pytest.mark.parametrize("storage", ["sqlite", "journal"], indirect=True)
def test_a_killed_worker_takes_its_trial_along_and_another_one_goes_on(tmp_path, storage):
    process = start(tmp_path, storage, trials=1, enqueue=queue(3.0), overrides={"does": "waits at first"})
    reports = tmp_path / "runs/fake/trial_0000/0/reports.jsonl"
    wait_for(lambda: reports.read_text(), "a report")
    (trial,) = load("fake", storage).trials
    (pid, _), *_ = attempts(tmp_path, 0)
    os.kill(int(trial.user_attrs["worker"].partition(":")[2]), signal.SIGKILL)
    wait_for(lambda: gone(pid), "the end of the trial")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "worker 0 was killed (signal 9); another one goes on" in err
    old, new = load("fake", storage).trials
    assert [old.state, new.state] == [FAIL, COMPLETE] and old.params == new.params == {"x": 3.0}
    assert old.user_attrs["folder"] == new.user_attrs["folder"]
    assert new.intermediate_values == {step: 0.75 * step for step in range(1, 5)} and new.value == 3.0
    assert ["ckpt_path" in given for _, given in attempts(tmp_path, 0)] == [False, True]
    assert "trial 1: complete, val/score 3" in out


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL], ids=lambda end: end.name)
def test_the_same_command_goes_on_after_it_was_ended(tmp_path, end):
    url = f"journal:{tmp_path / 's.journal'}"
    options = {"workers": 2, "trials": 2, "enqueue": queue(3.0, 4.0), "overrides": {"does": "waits at first"}}
    process = start(tmp_path, url, **options)
    for number in (0, 1):
        path = tmp_path / f"runs/fake/trial_{number:04d}/0/reports.jsonl"
        wait_for(lambda path=path: path.read_text(), "a report")
    process.send_signal(end)
    _, err = process.communicate(timeout=120)
    if end == signal.SIGKILL:
        assert process.returncode == -9
    else:
        assert process.returncode == 130
        assert err == "npexp: interrupted: 2 trials to go; the same command goes on\n"
    for number in (0, 1):
        ((pid, _),) = attempts(tmp_path, number)
        wait_for(lambda pid=pid: gone(pid), "the end of a trial")
    for trial in load("fake", url).trials[:2]:
        pid = int(trial.user_attrs["worker"].partition(":")[2])
        wait_for(lambda pid=pid: gone(pid), "the end of a worker")
    again = start(tmp_path, url, **options)
    out, err = again.communicate(timeout=120)
    assert again.returncode == 0, err
    trials = load("fake", url).trials
    # Two workers that look for work at the same moment may begin one trial too many.
    assert [trial.state for trial in trials] in ([FAIL, FAIL, *[COMPLETE] * n] for n in (2, 3))
    assert sorted(trial.value for trial in trials[2:4]) == [3.0, 4.0]
    assert all(["ckpt_path" in given for _, given in attempts(tmp_path, i)] == [False, True] for i in (0, 1))
    assert (
        f"study fake: {len(trials)} trials in {url}; best " in out and f"npexp sweep best fake --storage {url};" in out
    )


@pytest.mark.parametrize("server", ["grpc", pytest.param("postgresql", marks=pytest.mark.faults)])
def test_a_server_that_dies_ends_the_sweep_with_one_line_and_the_trials_go_on_later(tmp_path, server):
    behind = f"journal:{tmp_path / 'behind.journal'}"
    options = {"workers": 2, "trials": 2, "enqueue": queue(3.0, 4.0), "overrides": {"does": "waits at first"}}
    with grpc_proxy(open_storage(behind)) if server == "grpc" else postgres() as url:
        process = start(tmp_path, url, **options)
        for number in (0, 1):
            path = tmp_path / f"runs/fake/trial_{number:04d}/0/reports.jsonl"
            wait_for(lambda path=path: path.read_text(), "a report")
    _, err = process.communicate(timeout=120)
    assert process.returncode == Unreachable.status == 4
    assert err.startswith(f"npexp: cannot use the storage {url} (") and "onnect" in err
    assert err.endswith("check that its server runs or its folder can be written; the same command goes on\n")
    assert err.count("\n") == 1
    for number in (0, 1):
        ((pid, _),) = attempts(tmp_path, number)
        wait_for(lambda pid=pid: gone(pid), "the end of a trial")
    if server == "grpc":  # what it had told the journal is still there
        assert sweep(words(tmp_path, behind, **options), FAKE) == 0
        assert sorted(trial.value for trial in load("fake", behind).trials if trial.state == COMPLETE)[:2] == [3.0, 4.0]


def test_settings_that_fit_refuses_are_found_before_the_first_trial(tmp_path):
    with pytest.raises(ConfigError, match="npexp fit refuses the settings of a trial: unknown option 'unknown'"):
        sweep(words(tmp_path, overrides={"unknown": 1}, enqueue=queue(1.0)), FAKE)
    assert load("fake", f"sqlite:///{tmp_path / 'runs/fake/study.db'}").trials == []


def test_a_sweep_that_cannot_go_on_says_why(tmp_path, capfd):
    url = f"journal:{tmp_path / 's.journal'}"
    assert sweep(words(tmp_path, url, overrides={"does": "fails"}), FAKE) == 2
    said = capfd.readouterr()
    assert said.out.count("failed, ") == 3
    first, last = said.err.splitlines()
    assert first.startswith("npexp: 3 trials in a row have failed, the last with: ValueError: no luck; see ")
    assert last == "npexp: 3 trials to go; the same command goes on"
