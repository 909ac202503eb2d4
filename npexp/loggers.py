"""Where a run's numbers go: `metrics.csv` and TensorBoard events, both continued when the run is.

A resumed run repeats the steps between its checkpoint and the moment it stopped. What was logged in between is
dropped, so that each step stands once in the file and once on the board.
"""

import csv
import math
import threading
import time
from argparse import Namespace
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from tensorboard.summary.writer import event_file_writer
from torch.utils.tensorboard.summary import hparams

from npexp.files import whole_file, writing
from npexp.run_files import read_rows


class MetricsFile(Logger):
    """A CSV file with one row per step and one column per metric.

    The file is written whole, at most every few seconds and before each checkpoint. A cell is empty where a metric was
    not logged at that step.

    Args:
        path: the file.
        resume_step: steps taken by the checkpoint that training continues from; rows after it are dropped. None
            starts a new file.
        seconds: least time between two writes.

    Raises:
        DataError: there is a file, and it cannot be read.
        StorageError: when it cannot be written.
    """

    def __init__(self, path: str | Path, resume_step: int | None = None, seconds: float = 10.0):
        super().__init__()
        self.path = Path(path)
        self.seconds = seconds
        self._written = -math.inf
        self._rows: dict[int, dict[str, Any]] = {}
        if resume_step is not None and self.path.is_file():
            # A row is named by the batches before it: the last one that the checkpoint knows is resume_step - 1.
            self._rows = {step: row for step, row in read_rows(self.path).items() if step < resume_step}

    @property
    def name(self) -> str:
        """Unused: the file's place is fixed."""
        return ""

    @property
    def version(self) -> str:
        """Unused: the file's place is fixed."""
        return ""

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: `config.yaml` holds them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Adds values to the row of a step."""
        row = self._rows.setdefault(int(step or 0), {})
        row.update({k: float(v) for k, v in metrics.items() if k != "epoch"})
        if "epoch" in metrics:
            row["epoch"] = int(metrics["epoch"])
        self.save()

    @rank_zero_only
    def save(self) -> None:
        """Writes the file if it is time; Lightning asks for it after every row."""
        if time.monotonic() - self._written > self.seconds:
            self.write()

    @rank_zero_only
    def write(self) -> None:
        """Writes the file."""
        if not self._rows:
            return
        columns = ["step", "epoch", *sorted({k for row in self._rows.values() for k in row} - {"epoch"})]
        with whole_file(self.path, newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows({"step": step, **self._rows[step]} for step in sorted(self._rows))
        self._written = time.monotonic()

    def finalize(self, status: str) -> None:
        """Writes the file."""
        self.write()


class Board(TensorBoardLogger):
    """TensorBoard events in the run folder.

    Args:
        save_dir: the folder of all runs.
        name: the run's name.
        version: the run's version.
        resume_step: steps taken by the checkpoint that training continues from; events after it are hidden.
        at_step: logs everything at this step; for tests, whose own counter starts at zero.
    """

    def __init__(
        self, save_dir: str | Path, name: str, version: int, resume_step: int | None = None, at_step: int | None = None
    ):
        super().__init__(
            str(save_dir), name=name, version=str(version), default_hp_metric=False, purge_step=resume_step
        )
        _quieten_writers()
        self.resumed = resume_step is not None
        self.at_step = at_step

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Writes scalars."""
        with writing(self.log_dir):
            super().log_metrics(metrics, step if self.at_step is None else self.at_step)

    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, metrics: dict[str, Any] | None = None, step: int | None = None
    ) -> None:
        """Writes a row of the HParams table; without metrics there is none, so Lightning's own call writes nothing.

        What the table's columns are is left to TensorBoard: it shows the settings of all runs, those that differ first.
        PyTorch would have it take the columns of whatever run it reads first.
        """
        if metrics:
            self.log_metrics(metrics, step)
            _, start, end = hparams(dict(params), metrics)
            for summary in (start, end):
                self.experiment._get_file_writer().add_summary(summary, step)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Closes the file; of a run that failed, for which the disk may be too full, writes what can be written."""
        if status != "failed":
            with writing(self.log_dir):
                super().finalize(status)
        elif self._experiment is not None:
            with suppress(OSError):
                self.experiment.flush()

    @rank_zero_only
    def save(self) -> None:
        """Writes what is waiting, and no `hparams.yaml`: `config.yaml` holds more."""
        with writing(self.log_dir):
            self.experiment.flush()


@cache
def _quieten_writers() -> None:
    """Has TensorBoard's threads end without a traceback: the next call of their board raises what has ended them."""
    before = threading.excepthook

    def hook(args: threading.ExceptHookArgs) -> None:
        if type(args.thread).__module__ != event_file_writer.__name__:
            before(args)

    threading.excepthook = hook
