"""One trial: a process `npexp fit` of its own, watched through the files of `npexp.exchange` until it ends."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from npexp.exchange import FAILURE, RESULT, STOP, read, reports
from npexp.fresh import EXHAUSTED, KILLED
from npexp.sweep.slots import Slot

FIT = (sys.executable, "-m", "npexp", "fit")
DONE, STOPPED, NO_MEMORY, DIVERGED, FAILED = "done", "stopped", "out of memory", "diverged", "failed"
# A process that is lost without an error of its own has been killed, as Linux does when memory runs out.
KINDS = {
    "OutOfMemoryError": NO_MEMORY,
    "MemoryError": NO_MEMORY,
    "LostProcessError": NO_MEMORY,
    "DivergenceError": DIVERGED,
}
NUMPY_EXHAUSTED = re.compile(r"Unable to allocate|MemoryError|ALLOC_FAILED")
TAIL = 4000  # characters of the output that are kept of a failure


class Outcome(NamedTuple):
    """What became of a trial.

    Args:
        status: "done", "stopped", "out of memory", "diverged" or "failed".
        result: final numbers, when it is done or stopped; numbers that are not finite are left out.
        why: what went wrong, one line.
        log: the last of its output, when it failed.
    """

    status: str
    result: dict[str, float]
    why: str = ""
    log: str = ""


def place(folder: Path) -> tuple[Path, list[str]]:
    """Where a trial that was interrupted goes on, and the arguments for it.

    Args:
        folder: its run folder, which may not exist yet.

    Returns:
        The same folder from its last checkpoint; without one, the next version beside it.
    """
    checkpoint = folder / "checkpoints" / "last.ckpt"
    if checkpoint.is_file():
        return folder, [f"--ckpt_path={checkpoint.resolve()}"]
    while folder.is_dir() and any(folder.iterdir()):
        folder = folder.with_name(str(int(folder.name) + 1))
    return folder, []


def run(
    command: Sequence[str],
    folder: Path,
    slot: Slot,
    listen: Callable[[dict[str, Any]], bool],
    tick: Callable[[], None],
    poll: float,
    grace: float = 0.0,
) -> Outcome:
    """Runs a trial to its end; one that had ended before is only listened to.

    Args:
        command: the process, with all of its arguments.
        folder: its run folder.
        slot: what it may use.
        listen: called with each report; returns whether the trial is to stop.
        tick: called while waiting; what it raises ends the trial.
        poll: seconds between two looks.
        grace: seconds that a process has to write a last checkpoint when `tick` has ended it.
    """
    heard = 0

    def hear() -> None:
        nonlocal heard
        for report in reports(folder)[heard:]:
            heard += 1
            if listen(report) and not (folder / STOP).exists():
                (folder / STOP).touch()

    if result := read(folder / RESULT):  # its worker was killed before it could tell
        hear()
        return _finished(result)
    (folder / FAILURE).unlink(missing_ok=True)
    log = folder.parent / "output.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        start = output.tell()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=slot.environment(),
            start_new_session=True,  # a signal from the terminal is for the worker, which knows what to do
        )
    try:
        while True:
            with suppress(subprocess.TimeoutExpired):
                process.wait(poll)
            hear()
            if process.returncode is not None:
                break
            try:
                tick()
            except BaseException:
                if grace:
                    process.terminate()
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(grace)
                raise
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # further processes of a trial that has failed, too
        process.wait()
    result = read(folder / RESULT)
    if process.returncode == 0 and result:
        return _finished(result)
    with log.open("rb") as output:
        output.seek(max(start, output.seek(0, os.SEEK_END) - TAIL))
        return explain(process.returncode, read(folder / FAILURE), output.read().decode(errors="replace"))


def explain(status: int, failure: Mapping[str, str] | None, log: str) -> Outcome:
    """What became of a trial without a result.

    Args:
        status: of the process.
        failure: what it said itself, if it could.
        log: the last of its output.
    """
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    why = f"{failure['kind']}: {failure['why']}" if failure else (lines or [f"ended with status {status}"])[-1]
    kind = KINDS.get(failure["kind"] if failure else "", FAILED)
    if failure is None and status == KILLED:
        # Nobody else ends single trials: when memory runs out, Linux ends the process that takes most of it.
        return Outcome(NO_MEMORY, {}, "ended by the system", log)
    said = why if failure else log  # of several processes, the one that ran out need not be the last to speak
    if kind == FAILED and (EXHAUSTED.search(said) or NUMPY_EXHAUSTED.search(said)):
        kind = NO_MEMORY
        why = next(line for line in [why, *lines] if EXHAUSTED.search(line) or NUMPY_EXHAUSTED.search(line))
    return Outcome(kind, {}, why[:500], log)


def _finished(result: dict[str, Any]) -> Outcome:
    stopped = result.pop("stopped")
    return Outcome(STOPPED if stopped else DONE, {k: v for k, v in result.items() if v is not None})
