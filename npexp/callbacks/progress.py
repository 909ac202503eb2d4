"""A progress bar over the whole run, counted in steps."""

import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column


class RunProgress(ProgressBar):
    """Shows steps done, time left and the newest loss, and below it the batches of a validation or test.

    Lightning's own bar starts again with every epoch, and an epoch is no unit of a run on endless tasks.

    Args:
        seconds: least time between two updates; reading a loss makes a GPU wait.
    """

    def __init__(self, seconds: float = 0.25):
        super().__init__()
        self.seconds = seconds
        self._enabled = True
        self._bars: Progress | None = None
        self._run: TaskID | None = None
        self._part: TaskID | None = None
        self._shown = 0.0
        self._loss = float("nan")

    def disable(self) -> None:
        """Called by Lightning on all processes but the first."""
        self._enabled = False

    def enable(self) -> None:
        """The opposite of `disable`."""
        self._enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Opens the bar of the run."""
        steps = trainer.estimated_stepping_batches
        total = None if steps == float("inf") else int(steps)
        self._run = self._open("fit", total, completed=trainer.global_step)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Moves it."""
        done = trainer.global_step == trainer.max_steps
        if self._run is not None and (done or time.monotonic() - self._shown > self.seconds):
            self._shown = time.monotonic()
            self._loss = outputs["loss"].item() * trainer.accumulate_grad_batches  # this process's newest micro-batch
            self._bars.update(self._run, completed=trainer.global_step, news=self._news(trainer, pl_module))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Opens the bar of a validation."""
        self._part = self._open("validate", sum_of(trainer.num_val_batches))

    def on_validation_batch_end(self, *_: Any, **__: Any) -> None:
        """Moves it."""
        self._advance()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Closes it."""
        self._close()
        if self._run is not None:
            self._bars.update(self._run, news=self._news(trainer, pl_module))

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Opens the bar of a test."""
        self._part = self._open("test", sum_of(trainer.num_test_batches))

    def on_test_batch_end(self, *_: Any, **__: Any) -> None:
        """Moves it."""
        self._advance()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Closes it."""
        self._close()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leaves the last state on the screen."""
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Gives the terminal back."""
        self._stop()

    def _open(self, name: str, total: int | None, completed: int = 0) -> TaskID | None:
        if not self._enabled:
            return None
        if self._bars is None:
            self._bars = Progress(
                TextColumn("{task.description:<8}"),
                BarColumn(bar_width=20),
                MofNCompleteColumn(table_column=Column(no_wrap=True, min_width=11)),
                TimeRemainingColumn(compact=True, elapsed_when_finished=True),
                TextColumn("{task.fields[news]}"),
            )
            self._bars.start()
        return self._bars.add_task(name, total=total, completed=completed, news="")

    def _advance(self) -> None:
        if self._part is not None:
            self._bars.advance(self._part)

    def _close(self) -> None:
        if self._part is not None:
            self._bars.remove_task(self._part)
        self._part = None

    def _stop(self) -> None:
        if self._bars is not None:
            self._bars.stop()
        self._bars = self._run = self._part = None

    def _news(self, trainer: Trainer, pl_module: LightningModule) -> str:
        metrics = {"loss": self._loss, **self.get_metrics(trainer, pl_module)}
        return "  ".join(f"{k.rpartition('/')[2]} {v:.3f}" for k, v in metrics.items() if isinstance(v, float))


def sum_of(batches: int | float | list[int | float]) -> int | None:
    """All batches of all loaders, or None when nobody knows."""
    total = sum(batches) if isinstance(batches, list) else batches
    return None if total == float("inf") else int(total)
