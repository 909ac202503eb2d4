"""Trials whose worker is gone: found, told to have failed, and queued again to go on from their last checkpoint.

Optuna's heartbeat does that in a database. Two things it does not: it waits for a minute although the worker was on
this machine and is seen to be gone, and journal files and gRPC proxies have none. There the worker signs a lease.
"""

import os
import socket
import time
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState

INTERVAL, GRACE = 20, 120  # seconds between two signs of life, and until a worker without any counts as gone
PAUSE = 10  # seconds after which nobody is about to queue again what has failed
RETRIES = 1  # of a trial whose worker was killed: it may have been the trial's fault
FOLDER, WORKER, LEASE, WHY = "folder", "worker", "lease", "why"  # user attributes of a trial
INTERRUPTED = "interrupted, and queued again"  # why a trial failed that is to go on; one that was killed says nothing
TWICE = "queued twice"  # why a copy is dropped
AGAIN = "interrupted"  # system attribute: numbers of the interrupted trials that a trial goes on with; Optuna's own ...
RETRIED = "retry_history"  # ... of the killed ones


def signature() -> dict[str, Any]:
    """Who works on a trial, for its user attributes."""
    return {WORKER: f"{socket.gethostname()}:{os.getpid()}", LEASE: [_machine(), time.time()]}


def reap(study: optuna.Study, beats: bool) -> None:
    """Queues again what workers that are gone were working on; safe while others do the same.

    Args:
        study: the study.
        beats: whether its storage has heartbeats.
    """
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if is_stale(trial, beats, time.time()):
            with suppress(UpdateFinishedTrialError, ValueError):  # another worker was faster
                requeue(study, study.tell(trial.number, state=TrialState.FAIL))
    for trial in orphans(study.get_trials(), time.time()):
        (put_back if trial.user_attrs.get(WHY) == INTERRUPTED else requeue)(study, trial)


def lost_its_worker(trial: FrozenTrial) -> bool:
    """Whether a trial ended with its worker, by a kill or an interruption, and not by itself."""
    return trial.state == TrialState.FAIL and trial.user_attrs.get(WHY, INTERRUPTED) == INTERRUPTED


def dropped(trial: FrozenTrial) -> bool:
    """Whether a trial was not tried, since it was a second copy."""
    return trial.user_attrs.get(WHY, "").startswith(TWICE)


def earlier(trial: FrozenTrial) -> list[int]:
    """The numbers of the trials that a trial goes on with, killed or interrupted ones, the last one last."""
    return sorted(trial.system_attrs.get(RETRIED, []) + trial.system_attrs.get(AGAIN, []))


def orphans(trials: Sequence[FrozenTrial], now: float) -> list[FrozenTrial]:
    """Trials that are to go on and are not queued: whoever told that they had failed was killed before it could.

    Two processes may find the same one at the same moment, or the teller may only have been slow. Then it is queued
    twice, and `elder` has the second copy dropped.

    Args:
        trials: all trials of a study.
        now: seconds since the epoch.
    """
    again = {number for trial in trials for number in earlier(trial)}
    ended = [trial for trial in trials if lost_its_worker(trial) and trial.number not in again]
    return [trial for trial in ended if now - trial.datetime_complete.timestamp() > PAUSE]


def elder(trials: Sequence[FrozenTrial], number: int) -> int | None:
    """The first trial that goes on with the same one as this trial, where that was queued twice; None without one.

    A storage numbers trials one after the other, so all processes agree on which copy is the first.

    Args:
        trials: all trials of a study.
        number: of a trial that has just begun.
    """
    before = {trial.number: earlier(trial) for trial in trials}
    same = [other for other, numbers in before.items() if numbers and numbers[-1:] == before[number][-1:]]
    return min(same) if same and min(same) < number else None


def is_stale(trial: FrozenTrial, beats: bool, now: float) -> bool:
    """Whether a running trial's worker is gone.

    Args:
        trial: the trial.
        beats: whether the storage has heartbeats, which then decide on workers of other machines.
        now: seconds since the epoch.
    """
    if LEASE not in trial.user_attrs:  # it takes a moment to sign
        return trial.datetime_start is not None and now - trial.datetime_start.timestamp() > GRACE
    machine, signed = trial.user_attrs[LEASE]
    if machine == _machine() and not _alive(int(trial.user_attrs[WORKER].rpartition(":")[2])):
        return True
    return not beats and now - signed > GRACE


def requeue(study: optuna.Study, trial: FrozenTrial) -> None:
    """Queues a trial whose worker was killed again, `RETRIES` times; it goes on in the same folder."""
    trial.user_attrs = _kept(trial)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        RetryHeartbeatStaleTrialCallback(max_retry=RETRIES)(study, trial)


def put_back(study: optuna.Study, trial: FrozenTrial) -> None:
    """Queues a trial that its user has interrupted again, as often as that happens."""
    study.add_trial(
        optuna.create_trial(
            state=TrialState.WAITING,
            params=trial.params,
            distributions=trial.distributions,
            user_attrs=_kept(trial),
            system_attrs={**trial.system_attrs, AGAIN: [*trial.system_attrs.get(AGAIN, []), trial.number]},
        )
    )


def _kept(trial: FrozenTrial) -> dict[str, Any]:
    # The old worker's signature would make the new trial look abandoned until the new worker has signed.
    return {key: value for key, value in trial.user_attrs.items() if key == FOLDER}


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"  # dead, not waited for
    except ProcessLookupError:
        return False
    except OSError:
        return True  # of another user, or a system that says no more


def _machine() -> str:
    """What process numbers are unique in: this start of the machine, and the container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()
