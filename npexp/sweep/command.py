"""`npexp sweep`: what is asked for, the workers that do it, and what came out. Reading studies is `reading.py`."""

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from npexp.commands import Parser
from npexp.errors import ConfigError, NPError, StorageError, UnknownNameError, at_least
from npexp.files import shown
from npexp.processes import hearing
from npexp.sweep.slots import Slot, gpus, share

READING = ("status", "best", "export", "plot")
FINAL = NPError.status, StorageError.status  # of a worker that another one could not do better
RESTARTS = 3  # of a worker that the system or somebody has killed
CHECK_TIMEOUT = 300  # seconds for reading the configuration of a trial once
END_TIMEOUT = 30  # seconds that workers have to queue their trials again


def sweep(words: Sequence[str], command: Sequence[str] | None = None) -> int:
    """Runs a sweep, or reads one.

    Args:
        words: the arguments.
        command: what a trial executes, before its arguments; None is `npexp fit`.

    Returns:
        0; 1 when workers were lost and trials are missing; 2 after a mistake; 4 when the storage was out of reach; 130
        when interrupted.
    """
    if words and words[0] in READING:
        return getattr(import_module("npexp.sweep.reading"), words[0])(words[1:])
    if words and not words[0].startswith("-"):
        raise UnknownNameError("command of npexp sweep", words[0], READING)
    args = _parser().read(words)
    from npexp.sweep import storage, study, trial
    from npexp.sweep.stale import reap

    storage.quiet()
    plan, content = study.read(args.config)
    name, home = args.study or plan.name, Path(args.runs_dir).resolve()
    total = plan.trials if args.trials is None else args.trials
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ConfigError(f"expected --study to be a name such as 'latents', got '{name}'")
    for option, value in (("workers", args.workers), ("devices-per-trial", args.devices_per_trial), ("trials", total)):
        at_least(f"--{option}", value, 1)
    slots = share(args.workers, args.devices_per_trial, gpus() if uses_gpus(plan) else [])
    url = args.storage or storage.default_url(home, name)
    opened, new = study.open_study(name, url, content)
    with storage.reaching(url):
        missing = total - len(opened.get_trials(deepcopy=False, states=study.COUNTED))
    status = 0
    if missing > 0:
        command = tuple(command or trial.FIT)
        if new or missing == total:
            check([*command, *_trial_words(plan, slots[0])], name)
        with storage.reaching(url):
            study.enqueue(opened, plan)
        print(f"study {name}: {missing} of {total} trials to go; runs in {shown(home / name)}", flush=True)
        common = {"study": name, "storage": url, "runs_dir": str(home), "trials": total, "command": command}
        tasks = [{**common, "slot": slot, "first": new and i == 0} for i, slot in enumerate(slots[:missing])]

        def revive() -> None:
            with storage.reaching(url):
                reap(opened, storage.has_heartbeat(url))

        status = supervise(tasks, revive)
    with storage.reaching(url):
        return _report(opened, args, url, status, total)


def supervise(tasks: Sequence[dict[str, Any]], revive: Callable[[], None]) -> int:
    """Runs workers until all have ended; one that was killed is started again.

    Args:
        tasks: the fields of `npexp.sweep.worker.Task`, one per worker.
        revive: queues again what killed workers were working on.

    Returns:
        0; 1 when a worker was lost; 2 when one gave up and 4 when one lost the storage, which both end the others; 130
        when interrupted.
    """
    revive()
    running = {i: _start(task) for i, task in enumerate(tasks)}
    restarts, status = 0, 0
    try:
        with hearing(signal.default_int_handler):
            while running:
                for i, worker in list(running.items()):
                    try:
                        code = worker.wait(0.2 / len(running))
                    except subprocess.TimeoutExpired:
                        continue
                    del running[i]
                    if code < 0 and restarts < RESTARTS:
                        restarts += 1
                        print(f"npexp: worker {i} was killed (signal {-code}); another one goes on", file=sys.stderr)
                        revive()
                        running[i] = _start({**tasks[i], "first": False})
                    elif code:
                        status = max(status, code if code in FINAL else 1)
                if status in FINAL:
                    break
    except KeyboardInterrupt:
        status = 130
    finally:
        _end(list(running.values()))
    return status


def check(command: Sequence[str], name: str) -> None:
    """Has `npexp fit` read what the first trial will be given, before a sweep fails trial after trial.

    Raises:
        ConfigError: it refuses.
    """
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    try:
        done = subprocess.run(
            [*command, f"--name={name}", "--print_config"],
            capture_output=True,
            text=True,
            timeout=CHECK_TIMEOUT,
            env=environment,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired as error:
        raise ConfigError(f"npexp fit has not read its configuration after {CHECK_TIMEOUT} s: try it alone") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        raise ConfigError(f"npexp fit refuses the settings of a trial: {lines[-1].removeprefix('npexp: ')}")


def uses_gpus(plan: Any) -> bool:
    """Whether a sweep's trials would use a GPU if there were one."""
    from npexp.config import expand, read_config

    found = [(read_config(path).get("trainer") or {}).get("accelerator") for path in expand(plan.configs)]
    chosen = plan.overrides.get("trainer.accelerator") or next(filter(None, reversed(found)), "auto")
    return chosen != "cpu"


def _trial_words(plan: Any, slot: Slot) -> list[str]:
    from npexp.sweep.study import lowest
    from npexp.sweep.worker import fit_words

    return fit_words(plan, slot, lowest(plan))


def _report(opened: Any, args: argparse.Namespace, url: str, status: int, total: int) -> int:
    """Says where the study lies and how to go on; the exit status."""
    from npexp.sweep.storage import hidden
    from npexp.sweep.study import COUNTED, counted
    from npexp.sweep.worker import best_line

    name, extra = opened.study_name, f" --storage {hidden(url)}" if args.storage else ""
    left = total - len(opened.get_trials(deepcopy=False, states=COUNTED))
    if left > 0 and status == 0 and counted(opened) >= total:
        print(f"study {name}: other workers have the last {left} of {total} trials")
        return 0
    if left > 0:
        why = {StorageError.status: "the storage was out of reach: ", 130: "interrupted: "}.get(status, "")
        print(f"npexp: {why}{left} trials to go; the same command goes on", file=sys.stderr)
        return status or 1
    print(f"study {name}: {len(opened.trials)} trials in {hidden(url)}{best_line(opened)}")
    print(f"next: npexp sweep best {name}{extra}; npexp sweep plot {name}{extra} --out DIR")
    return status


def _start(task: dict[str, Any]) -> subprocess.Popen[str]:
    worker = subprocess.Popen(
        [sys.executable, "-m", "npexp.sweep.worker"],
        stdin=subprocess.PIPE,
        text=True,
        env=Slot(*task["slot"]).environment(),
        start_new_session=True,  # Ctrl-C is for this process, which tells them
    )
    with suppress(BrokenPipeError):  # it was killed already
        json.dump(task, worker.stdin)
        worker.stdin.close()
    return worker


def _end(workers: Sequence[subprocess.Popen[str]]) -> None:
    """Has workers queue their trials again and end."""
    for worker in workers:
        worker.terminate()
    for worker in workers:
        try:
            worker.wait(END_TIMEOUT)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            worker.kill()
            worker.wait()


def _parser() -> Parser:
    parser = Parser(
        "sweep",
        "Searches settings with Optuna: each trial is an npexp fit of its own, runs/STUDY/trial_0000/0. The same "
        "command goes on with what is there, up to --trials; several machines that give the same --storage share the "
        "work. npexp sweep status | best | export | plot STUDY reads a study.",
    )
    add = parser.add_argument
    add("--config", required=True, metavar="FILE", help="the sweep: a file, or the name of one in sweeps/")
    add("--trials", type=int, metavar="N", help="how many the study is to have, pruned ones included")
    add("--workers", type=int, default=1, metavar="W", help="trials at once on this machine; default: %(default)s")
    add("--devices-per-trial", type=int, default=1, metavar="K", help="GPUs, or processes on a CPU; %(default)s")
    add(
        "--storage",
        metavar="URL",
        help="sqlite:///FILE, postgresql://USER@HOST/DATABASE, journal:FILE on a shared disk or grpc://HOST:PORT; "
        "default: study.db beside the trials",
    )
    add("--study", metavar="NAME", help="default: the sweep's name")
    add("--runs_dir", default="runs", metavar="DIR", help="the folder of all runs; default: %(default)s")
    return parser
