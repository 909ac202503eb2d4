"""A worker of a sweep: trials one after the other on its share of the machine, until the study has enough.

`python -m npexp.sweep.worker` reads what to do, the fields of `Task`, as JSON from its standard input: a storage's URL
may hold a password, which has no place in a list of processes.
"""

import json
import math
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.study import MaxTrialsCallback
from optuna.trial import FrozenTrial, Trial, TrialState

from npexp.config import words
from npexp.errors import ConfigError, NPError, UnknownNameError
from npexp.exchange import end_with_worker
from npexp.sweep import trial as trials
from npexp.sweep.slots import Slot
from npexp.sweep.stale import (
    FOLDER,
    INTERRUPTED,
    INTERVAL,
    LEASE,
    TWICE,
    WHY,
    dropped,
    elder,
    lost_its_worker,
    put_back,
    reap,
    signature,
)
from npexp.sweep.storage import Unreachable, has_heartbeat, quiet, reaching
from npexp.sweep.study import COUNTED, Sweep, counted, load, parse, suggest_all
from npexp.sweep.table import number, short, state

PATIENCE = 3  # failures in a row after which something is wrong with the sweep, not with its settings
WALL = 1e9  # by how much a trial that ran out of memory counts as beyond what there is: more than any other
TAKEN = "npexp: another worker has taken this one's trial over, for the storage had not heard of it for minutes"


class Failed(Exception):
    """A trial has failed; the sweep goes on."""


class Interrupted(Exception):
    """The worker was told to stop; the trial goes on another time."""


class Task(NamedTuple):
    """What a worker is to do.

    Args:
        study: its name.
        storage: its URL.
        runs_dir: the folder of all runs.
        trials: how many the study is to have.
        first: whether this is the first worker of a new study.
        slot: the fields of `npexp.sweep.slots.Slot`.
        command: what a trial executes, before its arguments.
        poll: seconds between two looks at a trial.
    """

    study: str
    storage: str
    runs_dir: str
    trials: int
    first: bool = True
    slot: Sequence[Any] = ()
    command: Sequence[str] = trials.FIT
    poll: float = 0.5


class Worker:
    """Works on a study.

    Args:
        task: what to do.

    Attributes:
        interrupted: set to stop soon; the trial that is being worked on is queued again.

    Raises:
        ConfigError: the storage has no such study.
        Unreachable: it cannot be reached.
    """

    def __init__(self, task: Task):
        self.task, self.slot = task, Slot(*task.slot)
        self.interrupted = False
        self.study = load(task.study, task.storage)
        self.sweep: Sweep = parse(self.study.user_attrs["sweep"], "sweep")
        self.study.sampler = self.sweep.make_sampler(task.first)
        self.study.pruner = self.sweep.make_pruner()
        self._failures = 0

    def work(self) -> None:
        """Works until the study has enough trials.

        Raises:
            ConfigError: three trials have failed in a row.
            UnknownNameError: trials do not measure what the sweep asks for.
        """
        enough = MaxTrialsCallback(self.task.trials, states=(*COUNTED, TrialState.RUNNING))
        if counted(self.study) < self.task.trials:
            try:
                self.study.optimize(self.objective, catch=(Failed, Interrupted), callbacks=[self.after, enough])
            except UnboundLocalError as error:  # Optuna's own, where the storage that has failed fails again
                failed = error.__context__ or error
                raise failed from failed.__cause__

    def objective(self, trial: Trial) -> list[float]:
        """Runs a trial; its values, one per metric."""
        for key, value in signature().items():
            trial.set_user_attr(key, value)
        if (first := elder(self.study.get_trials(deepcopy=False), trial.number)) is not None:
            trial.set_user_attr(WHY, f"{TWICE}: it is trial {first}")
            raise Failed
        home = Path(self.task.runs_dir)
        before = trial.user_attrs.get(FOLDER, f"{self.task.study}/trial_{trial.number:04d}/0")
        folder, resume = trials.place(home / before)
        trial.set_user_attr(FOLDER, folder.relative_to(home).as_posix())
        settings = suggest_all(trial, self.sweep.space)
        command = [*self.task.command, *fit_words(self.sweep, self.slot, settings), *resume]
        command += [f"--runs_dir={home}", f"--name={folder.relative_to(home).parent.as_posix()}"]
        seen: dict[int, float | None] = {}  # the metric by step
        started = signed = time.monotonic()

        def listen(report: dict[str, Any]) -> bool:
            name, step = self.sweep.metrics[0], report["step"]
            if name not in report["metrics"]:
                known = [key for key in report["metrics"] if key.startswith("val/")]
                raise UnknownNameError("metric of validation", name, known)
            if step in seen:  # a trial that goes on repeats what came after its last checkpoint
                return False
            seen[step] = report["metrics"][name]
            if seen[step] is None or len(self.sweep.metrics) > 1:
                return False
            trial.report(seen[step], step)
            return bool(trial.should_prune())  # some pruners answer in NumPy's words

        def tick() -> None:
            nonlocal signed
            if self.interrupted:
                trial.set_user_attr(WHY, INTERRUPTED)
                raise Interrupted
            if time.monotonic() - signed > INTERVAL:
                signed = time.monotonic()
                trial.set_user_attr(LEASE, signature()[LEASE])

        command.append(f"--version={folder.name}")
        try:
            outcome = trials.run(command, folder, self.slot, listen, tick, self.task.poll)
            trial.set_user_attr("seconds", time.monotonic() - started)
            return self._values(trial, outcome, list(seen.values()))
        except NPError as error:  # the sweep ends with it
            trial.set_user_attr(WHY, str(error))
            raise

    def _values(self, trial: Trial, outcome: trials.Outcome, seen: Sequence[float | None]) -> list[float]:
        """Tells the study about a trial that has ended."""
        if outcome.why:
            trial.set_user_attr(WHY, outcome.why)
        if outcome.status == trials.NO_MEMORY:
            trial.set_constraint("memory", WALL)
        if outcome.status in (trials.NO_MEMORY, trials.DIVERGED):
            raise optuna.TrialPruned  # a failure would be invisible to samplers, which would try it again and again
        if outcome.status == trials.FAILED:
            trial.set_user_attr("log", outcome.log)
            raise Failed
        if not seen:
            raise ConfigError("a trial has ended without a validation: see trainer.val_check_interval and max_steps")
        values = [value for value in seen if value is not None]
        if not values:
            raise optuna.TrialPruned  # it has never left NaN
        best = max if self.sweep.directions[0] == "maximize" else min
        result = {**outcome.result, self.sweep.metrics[0]: best(values)}
        trial.set_user_attr("metrics", result)
        if "perf/peak_memory_mb" in result:
            trial.set_user_attr("peak_memory_mb", result["perf/peak_memory_mb"])
        for name in (*self.sweep.metrics, *self.sweep.constraints):
            if name not in result:
                raise UnknownNameError("final number of a trial", name, result)
        for name, bound in self.sweep.constraints.items():
            trial.set_constraint(name, result[name] - bound)
        if outcome.status == trials.STOPPED:
            raise optuna.TrialPruned
        return [result[name] for name in self.sweep.metrics]

    def after(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Says what became of a trial, and whether to go on."""
        if self.interrupted:
            if lost_its_worker(trial):
                put_back(study, trial)
            study.stop()
            return
        print(line(trial, study), flush=True)
        if not dropped(trial):  # which says nothing about settings
            self._failures = self._failures + 1 if trial.state == TrialState.FAIL else 0
        if self._failures == PATIENCE:
            log = Path(self.task.runs_dir) / Path(trial.user_attrs[FOLDER]).parent / "output.log"
            why = trial.user_attrs[WHY]
            raise ConfigError(f"{PATIENCE} trials in a row have failed, the last with: {why}; see {log}")
        reap(study, has_heartbeat(self.task.storage))


def fit_words(sweep: Sweep, slot: Slot, settings: dict[str, Any]) -> list[str]:
    """The arguments of `npexp fit` for a setting: the sweep's own settings win over ours, the trial's over both."""
    ours: dict[str, Any] = {
        "trainer.enable_progress_bar": False,
        "best.monitor": sweep.metrics[0],
        "best.mode": sweep.directions[0][:3],
        **slot.settings(),
    }
    layers = [word for name in sweep.configs for word in ("--config", name)]
    return [*layers, *words({**ours, **sweep.overrides, **settings})]


def line(trial: FrozenTrial, study: optuna.Study) -> str:
    """A finished trial in one line, and the best so far."""
    names = study.metric_names or []
    became = state(trial)
    if became == "pruned" and trial.last_step is not None:
        became = f"pruned at step {trial.last_step}"
    values = " ".join(f"{name} {value:.5g}" for name, value in zip(names, trial.values or [], strict=False))
    setting = " ".join(f"{name}={number(trial.params[key])}" for key, name in short(trial.params).items())
    parts = [f"trial {trial.number}: {became}", values, setting, f"{trial.user_attrs.get('seconds', math.nan):.0f} s"]
    why = trial.user_attrs.get(WHY, "").split(". ")[0][:150]  # what is wrong; what to do about it is in the log
    return ", ".join(part for part in parts if part) + (f" ({why})" if why else "") + best_line(study)


def best_line(study: optuna.Study) -> str:
    """The best so far, after a semicolon; nothing while there is none."""
    if len(study.directions) > 1:
        front = len(study.best_trials)
        return f"; {front} on the Pareto front" if front else ""
    try:
        best = study.best_trial
    except ValueError:
        return ""
    return f"; best {best.value:.5g} by trial {best.number}"


def main() -> int:
    """Works on what standard input says.

    Returns:
        0; 2 after a mistake; 4, and not a word, when the storage is out of reach, for so it is to the other workers
        and to the command, which says it once; 130 when interrupted.
    """
    task = Task(**json.load(sys.stdin))
    end_with_worker()
    quiet()
    threading.excepthook = lambda args: None  # a heartbeat that fails: the worker notices by itself
    try:
        with reaching(task.storage):
            worker = Worker(task)
            signal.signal(signal.SIGTERM, lambda *_: setattr(worker, "interrupted", True))
            worker.work()
    except UpdateFinishedTrialError:
        print(TAKEN, file=sys.stderr, flush=True)
        return 2
    except Unreachable as error:
        return error.status
    except NPError as error:
        print(f"npexp: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        return 2
    return 130 if worker.interrupted else 0


if __name__ == "__main__":
    sys.exit(main())
