"""The training side of a sweep: reports each validation, stops when it is told to, and says how it ended."""

import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from npexp.errors import LostProcessError
from npexp.exchange import FAILURE, REPORTS, RESULT, STOP, reports, write
from npexp.memory import peak_memory
from npexp.processes import lost_contact


class Trial(Callback):
    """Exchanges files with the worker of a sweep, see `npexp.exchange`; with any number of processes.

    Seconds are those of training alone, without validation, and go on where an interrupted run was. Memory is the
    largest peak of all processes.

    Args:
        folder: the run folder.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.stopped = False
        self._last: dict[str, Any] | None = None  # the newest report that this run goes on from
        self._seconds = 0.0
        self._since: float | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Cuts off the half line that a killed run may have left."""
        path = self.folder / REPORTS
        if trainer.is_global_zero and path.exists():
            whole, newline, _ = path.read_bytes().rpartition(b"\n")
            with path.open("r+b") as file:
                file.truncate(len(whole + newline))
        self._last = next(reversed(reports(self.folder)), None)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Goes on from the report of the checkpoint, or an earlier one; later ones are about to be written again."""
        known = [report for report in reports(self.folder) if report["step"] <= trainer.global_step]
        self._last = known[-1] if known else None
        self._seconds = self._last["seconds"] if self._last else 0.0

    def on_train_batch_start(self, *_: Any) -> None:
        """Starts the clock where it does not run."""
        if self._since is None:
            self._since = time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Looks from time to time whether to stop: the next validation may be far."""
        if trainer.global_step % trainer.log_every_n_steps == 0:
            self._obey(trainer)

    def on_validation_start(self, *_: Any) -> None:
        """Stops the clock."""
        self._pause()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reports, and looks whether to stop."""
        if trainer.sanity_checking:
            return
        self._report(trainer, pl_module)
        self._obey(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops the clock."""
        self._pause()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the result, when all checkpoints are there."""
        seconds = self._seconds or (self._last["seconds"] if self._last else 0.0)
        peak = self._peak(trainer, pl_module)
        if not trainer.is_global_zero:
            return
        finished = 0 < trainer.max_steps <= trainer.global_step
        result = {
            **(self._last["metrics"] if self._last else {}),
            "parameters": sum(p.numel() for p in pl_module.parameters()),
            "steps": trainer.global_step,
            "perf/train_seconds": seconds,
            "perf/peak_memory_mb": peak,
            "stopped": self.stopped and not finished,
        }
        write(self.folder / RESULT, result)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Says what went wrong, so that the worker need not read it out of a traceback.

        Of several processes the first to fail is the one with the reason.
        """
        path = self.folder / FAILURE
        if isinstance(exception, Exception) and self.folder.is_dir() and not path.exists():
            kind = LostProcessError if lost_contact(exception) else type(exception)
            write(path, {"kind": kind.__name__, "why": " ".join(str(exception).split())[:500]})

    def _report(self, trainer: Trainer, pl_module: LightningModule) -> None:
        values = {name: float(value) for name, value in trainer.callback_metrics.items() if value.numel() == 1}
        self._last = {
            "step": trainer.global_step,
            "seconds": self._seconds,
            "peak": self._peak(trainer, pl_module),
            "metrics": {name: value if math.isfinite(value) else None for name, value in values.items()},
        }
        if trainer.is_global_zero:
            with (self.folder / REPORTS).open("a") as file:
                file.write(json.dumps(self._last) + "\n")

    def _obey(self, trainer: Trainer) -> None:
        # The first process alone looks, so that all of them stop after the same step.
        if trainer.strategy.broadcast(trainer.is_global_zero and (self.folder / STOP).exists()):
            self.stopped = trainer.should_stop = True

    def _pause(self) -> None:
        if self._since is not None:
            self._seconds, self._since = self._seconds + time.perf_counter() - self._since, None

    def _peak(self, trainer: Trainer, pl_module: LightningModule) -> float | None:
        peak = peak_memory(pl_module.device)
        before = self._last["peak"] if self._last else None
        if peak is None:
            return before
        here = torch.tensor(peak / 2**20, device=pl_module.device)
        return max(float(trainer.strategy.reduce(here, reduce_op="max")), before or 0.0)
