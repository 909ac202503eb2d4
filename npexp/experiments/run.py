"""Cells of a table, worked on one after the other: trained, tested, and what came out kept with the results."""

import csv
import fcntl
import shutil
import statistics
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from npexp.config import flatten, read_config, words
from npexp.exchange import RESULT
from npexp.experiments.plan import Cell, contradictions
from npexp.files import whole_file, writing
from npexp.run_files import METRICS, RESULTS
from npexp.sweep.slots import Slot
from npexp.sweep.trial import DONE, FIT, run

TEST = (sys.executable, "-m", "npexp", "test")
QUIET = {"trainer.enable_progress_bar": False}
POLL = 1.0  # seconds between two looks at a training
GRACE = 120.0  # seconds for its last step, a validation where one is due, and a checkpoint
KEPT_ROWS = 100  # of training metrics; those of validations are kept all
RATE = "perf/tasks_per_second"
LOG = "output.log"


class Stopped(Exception):
    """The command is to end; the cell goes on another time."""


class Bench:
    """Where cells are worked on.

    Args:
        results: the folder of all results.
        runs: the folder of all runs, relative to the working directory, so that no result holds a path of its own.
        slot: what a training may use.
        say: is given a line for each thing that happens.
        fit: what a training executes, before its arguments.
        test: what a test executes.
    """

    def __init__(
        self,
        results: Path,
        runs: Path,
        slot: Slot,
        say: Callable[[str], None],
        fit: Sequence[str] = FIT,
        test: Sequence[str] = TEST,
    ):
        self.results, self.runs, self.slot, self.say = results, runs, slot, say
        self.fit, self.test = fit, test

    def done(self, cell: Cell) -> bool:
        """Whether a cell's result is there."""
        return (self.results / cell.place / RESULTS).is_file()

    def state(self, cell: Cell) -> str:
        """A cell in a word or two: done, trained, its steps so far, or not begun."""
        if self.done(cell):
            differs = contradictions(cell, flatten(read_config(self.results / cell.place / "config.yaml")))
            return f"done, but with {', '.join(differs)}" if differs else "done"
        folder = self.runs / cell.place
        if (folder / RESULT).is_file():
            return "trained"
        return f"{last_step(folder):,} steps" if (folder / METRICS).is_file() else "not begun"

    def busy(self, cell: Cell) -> bool:
        """Whether a command works on a cell at this moment."""
        path = self._lock(cell)
        if not path.is_file():
            return False
        with path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def work(self, cell: Cell, stop: threading.Event) -> bool:
        """Trains and tests a cell, unless another command does; whether its result is there.

        Args:
            cell: the cell.
            stop: set to end soon: after a checkpoint, from which the training goes on another time.
        """
        folder = self.runs / cell.place
        with locked(self._lock(cell)) as free:
            if not free:
                self.say(f"{cell}: another command works on it")
                return False
            if self.done(cell):
                if (state := self.state(cell)) != DONE:
                    self.say(f"{cell}: {state}: delete {self.results / cell.place} and {folder} to have it done again")
                return True
            try:
                why = self._train(cell, folder, stop) or self._measure(cell, folder, stop)
            except Stopped:
                self.say(f"{cell}: interrupted: {self.state(cell)}")
                return False
            if why:
                self.say(f"{cell}: failed: {why}; see {folder.parent / LOG}")
                return False
            keep(folder, self.results / cell.place)
        self.say(f"{cell}: done")
        return True

    def _lock(self, cell: Cell) -> Path:
        folder = self.runs / cell.place
        return folder.with_name(f"{folder.name}.lock")

    def _train(self, cell: Cell, folder: Path, stop: threading.Event) -> str:
        """Trains, from the last checkpoint where there is one; what went wrong."""
        if (folder / RESULT).is_file():
            return ""
        checkpoint = folder / "checkpoints" / "last.ckpt"
        start = [f"--ckpt_path={checkpoint}"] if checkpoint.is_file() else []
        if not start and folder.is_dir():
            shutil.rmtree(folder)  # it was killed before its first checkpoint
        self.say(f"{cell}: trains{' on from its last checkpoint' if start else ''}")
        names = [f"--runs_dir={self.runs}", f"--name={cell.table}/{cell.row}", f"--version={cell.seed}"]
        layers = [word for name in cell.configs for word in ("--config", name)]
        settings = {**QUIET, "figures.num_tasks": 0, **self.slot.settings(), **cell.fit, "seed_everything": cell.seed}

        def tick() -> None:
            if stop.is_set():
                raise Stopped

        command = [*self.fit, *layers, *words(settings), *names, *start]
        outcome = run(command, folder, self.slot, lambda report: False, tick, POLL, GRACE)
        return "" if outcome.status == DONE else outcome.why.removeprefix("npexp: ")

    def _measure(self, cell: Cell, folder: Path, stop: threading.Event) -> str:
        """Tests the best checkpoint; what went wrong."""
        if stop.is_set():
            raise Stopped
        self.say(f"{cell}: is tested")
        command = [*self.test, f"--ckpt_path={folder}", f"--runs_dir={self.runs}", *words({**QUIET, **cell.test})]
        with (folder.parent / LOG).open("ab") as log:
            start = log.tell()
            with subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.slot.environment(),
                start_new_session=True,  # Ctrl-C is for this process: a test that ends by it would count as failed
            ) as process:
                while process.poll() is None:
                    if stop.wait(POLL / 10):
                        process.kill()
                        raise Stopped
        if process.returncode == 0:
            return ""
        with (folder.parent / LOG).open("rb") as log:
            log.seek(start)
            return (log.read().decode(errors="replace").strip().splitlines() or ["no word"])[-1].removeprefix("npexp: ")


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Holds a lock that ends with this process; whether it was free."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def last_step(folder: Path) -> int:
    """Training steps that a run has logged."""
    path = folder / METRICS
    lines = path.read_text().splitlines() if path.is_file() else []
    return int(lines[-1].partition(",")[0]) + 1 if len(lines) > 1 else 0


def keep(run: Path, place: Path) -> None:
    """Copies what results need from a run folder: the scores, the configuration and some rows of the curves.

    Speed varies with what else the machine does, so that rows left out would change the time of training: its harmonic
    mean over all rows stands in the last one instead.

    Args:
        run: the run folder.
        place: where to; the scores come last, for they say that a cell is done.
    """
    with writing(place):
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(run / "config.yaml", place)
    with (run / METRICS).open(newline="") as file:
        reader = csv.DictReader(file)
        columns, rows = reader.fieldnames or [], list(reader)
    rates = [float(row[RATE]) for row in rows if row.get(RATE)]
    stride = max(1, len(rows) // KEPT_ROWS)
    chosen = [row | {RATE: ""} for i, row in enumerate(rows[:-1]) if i % stride == 0 or row.get("val/loglik_joint")]
    chosen += [row | {RATE: statistics.harmonic_mean(rates) if rates else ""} for row in rows[-1:]]
    with whole_file(place / METRICS, newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys([*columns, RATE])), lineterminator="\n")
        writer.writeheader()
        writer.writerows(chosen)
    with whole_file(place / RESULTS) as file:
        file.write((run / RESULTS).read_text())
