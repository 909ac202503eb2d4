"""A sweep killed at random moments, again and again: no trial is lost or doubled, and each ends as its own fit does."""

import os
import random
import signal
import sqlite3
import time
from collections import Counter, defaultdict
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from optuna.trial import TrialState

from npexp.sweep.stale import GRACE, INTERRUPTED, RETRIES, dropped, earlier
from npexp.sweep.study import COUNTED, load
from tests.faults.conftest import Folder, running
from tests.faults.outcome import keep, parse_all, weights_hash

KILLS, TRIALS = 20, 6
RATE, RATES = "model.optimizer.init_args.lr", (5e-4, 1e-3, 2e-3)
STEPS, VALIDATION, CHECKPOINT = 300, 50, 10  # steps of a trial, and between two validations and checkpoints
SETTINGS = {
    "trainer.max_steps": STEPS,
    "trainer.val_check_interval": VALIDATION,
    "last.every_n_train_steps": CHECKPOINT,
}
SWEEP = {
    "name": "killed",
    "configs": ["tiny.yaml"],
    "overrides": SETTINGS,
    "metrics": ["val/loglik_joint"],
    "directions": ["maximize"],
    "space": {RATE: {"class_path": "CategoricalDistribution", "init_args": {"choices": list(RATES)}}},
    "enqueue": [{RATE: rate} for rate in RATES],
    "pruner": {"class_path": "NopPruner"},
}
LIMIT = 600  # seconds for a sweep to end
pytestmark = [
    pytest.mark.faults,
    pytest.mark.filterwarnings("ignore:.*PEP 484 type hint.* deprecated by PEP 585"),
]


class Killed(Folder):
    """A working folder in which sweeps are started and killed.

    Args:
        path: of the folder.
        workers: of the sweep.
        seed: of when, and whom, to kill.
    """

    def __init__(self, path, workers, seed):
        super().__init__(path)
        (path / "killed.yaml").write_text(yaml.safe_dump(SWEEP))
        self.words = ["--config", "killed.yaml", f"--trials={TRIALS}", f"--workers={workers}"]
        self.study, self.draw = path / "runs/killed", random.Random(seed)

    def start(self):
        return running(self, *self.words, command="sweep")

    def trials(self):
        return load("killed", f"sqlite:///{self.study}/study.db").trials

    def runs(self):
        return [path for path in self.study.glob("trial_*/*") if path.is_dir()]

    def moment(self, process):
        """Waits for a random moment: any, or one while a trial trains; or until the sweep ends."""
        deadline = time.monotonic() + LIMIT
        if self.draw.random() < 0.5:
            until = time.monotonic() + self.draw.uniform(0.0, 12.0)
            while time.monotonic() < until and process.poll() is None:
                time.sleep(0.01)
            return
        saved, count = newest(self.study), self.draw.randint(1, STEPS // CHECKPOINT)
        while count > 0 and process.poll() is None:
            assert time.monotonic() < deadline, self.said()
            if newest(self.study) != saved:
                saved, count = newest(self.study), count - 1
            time.sleep(0.01)
        time.sleep(self.draw.uniform(0.0, 0.05))

    def kill(self, process):
        """Kills a worker, or the command, or all processes that there are, and waits for what has to end with them.

        Returns:
            Whom, and whether a trial was running.
        """
        family = descendants(process.pid)
        workers = [pid for pid in family if "npexp.sweep.worker" in command(pid)]
        training = any("--version=" in command(pid) for pid in family)
        whom = self.draw.choice(["a worker", "the command", "all"] if workers else ["the command", "all"])
        if whom == "a worker":
            hit = [self.draw.choice(workers)]
            doomed = [*hit, *descendants(hit[0])]
        else:
            doomed = [process.pid, *(pid for pid in family if "--print_config" not in command(pid))]
            hit = doomed if whom == "all" else [process.pid]
        for pid in hit:
            with suppress(ProcessLookupError):  # it has ended with the one before it
                os.kill(pid, signal.SIGKILL)
        if whom != "a worker":
            assert process.wait(timeout=60) in (-signal.SIGKILL, 0), self.said()  # 0: it was just ending
        deadline = time.monotonic() + 60
        while any(command(pid) for pid in doomed):
            assert time.monotonic() < deadline, f"{whom}: a process lives on"
            time.sleep(0.01)
        return whom, training


def newest(study):
    """When the checkpoints of its trials were written last."""
    return {path: path.stat().st_mtime_ns for path in study.glob("trial_*/*/checkpoints/last.ckpt")}


def descendants(pid):
    """All processes that this one has started, and those that they have; first the older ones."""
    try:
        children = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []
    return [*children, *(further for child in children for further in descendants(child))]


def command(pid):
    """What a process executes; nothing once it has ended, waited for or not."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def kill_again_and_again(folder, workers):
    """Kills a sweep, starts it again, and so on, until it is done.

    Returns:
        What was counted.
    """
    whom, commands, during_training, files, left = Counter(), 0, 0, 0, KILLS
    for _ in range(2 * KILLS + 10):
        commands += 1
        with folder.start() as process:
            while left and process.poll() is None:
                folder.moment(process)
                if process.poll() is None:
                    who, training = folder.kill(process)
                    whom[who], during_training, left = whom[who] + 1, during_training + training, left - 1
            status = process.wait(timeout=LIMIT)
        files += sum(parse_all(run) for run in folder.runs())
        if (folder.study / "study.db").is_file():
            with sqlite3.connect(folder.study / "study.db") as database:
                assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            database.close()
        if status == 0:
            if sum(trial.state in COUNTED for trial in folder.trials()) >= TRIALS:
                break
            time.sleep(GRACE)  # a trial whose worker was killed before it had signed is taken for alive so long
        else:
            assert status in (-signal.SIGKILL, 1), folder.said()  # 1: more workers were killed than are replaced
    return {
        "workers": workers,
        "kills": sum(whom.values()),
        "of": dict(sorted(whom.items())),
        "while_training": during_training,
        "commands": commands,
        "files_read": files,
        **judge(folder.trials()),
    }


def judge(trials):
    """What became of each setting: it, or after a kill its one retry, has a result, or waits for a study that wants
    more trials; or both were killed. Copies of what two processes have queued again are dropped, not tried."""
    copies = [trial for trial in trials if dropped(trial)]
    tries = defaultdict(list)
    for trial in (trial for trial in trials if trial not in copies):
        tries[min([*earlier(trial), trial.number])].append(trial)
    lost, doubled, given_up, waiting, after_a_kill = 0, 0, 0, 0, 0
    for same in tries.values():
        attempts = [trial for trial in same if trial.user_attrs.get("why") != INTERRUPTED]
        if not attempts:  # interrupted, and never queued again
            lost += 1
            continue
        *before, last = (trial.state for trial in attempts)
        whole = set(before) <= {TrialState.FAIL} and len({str(trial.params) for trial in attempts if trial.params}) <= 1
        doubled += not whole or len(attempts) > 1 + RETRIES
        killed_twice = last == TrialState.FAIL and len(attempts) == 1 + RETRIES
        lost += last not in (TrialState.COMPLETE, TrialState.WAITING) and not killed_twice
        given_up += killed_twice
        waiting += last == TrialState.WAITING
        after_a_kill += len(attempts) > 1 and last == TrialState.COMPLETE
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    doubled += len(complete) - len({trial.user_attrs["folder"] for trial in complete})
    return {
        "complete": len(complete),
        "after_a_kill": after_a_kill,
        "killed_trials": sum(trial.state == TrialState.FAIL for trial in trials) - len(copies),
        "given_up": given_up,
        "waiting": waiting,
        "dropped": len(copies),
        "lost": lost,
        "doubled": doubled,
    }


def unbroken(path, rate):
    """The weights of a fit with such a rate that nobody disturbs."""
    folder = Folder(path)
    words = {**SETTINGS, RATE: rate}
    assert folder.fit(*(f"--{key}={value}" for key, value in words.items()), f"--name=rate_{rate}") == 0
    return weights_hash(path / f"runs/rate_{rate}/0")


@pytest.mark.timeout(5400)
@pytest.mark.parametrize("workers", [1, 2])
def test_a_sweep_killed_many_times(here, workers):
    folder = Killed(here.path / "killed", workers, seed=workers)
    found = kill_again_and_again(folder, workers)
    expected = {rate: unbroken(here.path, rate) for rate in RATES}
    complete = [trial for trial in folder.trials() if trial.state == TrialState.COMPLETE]
    values, wrong = defaultdict(set), 0
    for trial in complete:
        run = folder.path / "runs" / trial.user_attrs["folder"]
        wrong += weights_hash(run) != expected[trial.params[RATE]]
        values[trial.params[RATE]].add(trial.value)
        assert sorted(trial.intermediate_values) == list(range(VALIDATION, STEPS + 1, VALIDATION))
        assert not list(run.rglob("*.part"))
    found |= {"other_weights": wrong, "weights": {str(rate): digest for rate, digest in expected.items()}}
    keep(f"sweep with {workers}", found)
    assert found["lost"] == found["doubled"] == found["other_weights"] == 0, found
    assert TRIALS <= found["complete"] < TRIALS + workers  # of workers that finish together, each sees one missing
    assert all(len(same) == 1 for same in values.values())
