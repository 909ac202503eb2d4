"""Ends a run that is asked to end, so that it can be gone on with."""

import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException

from npexp.callbacks.checkpoints import LastCheckpoint, validates_after
from npexp.resume import go_on


class Interruption(Callback):
    """Ends a run at SIGTERM or Ctrl-C, once its step and its validation are done and `last.ckpt` is written.

    The exit status is 128 plus the signal, 143 and 130, as a shell counts. A second Ctrl-C ends it at once. With
    several processes it is the first that has to be told; it tells the others.

    Lightning's own handler is replaced: it ends the run without a checkpoint, also in the middle of a validation, and
    with status 0.
    """

    def __init__(self) -> None:
        self._asked: int | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listens, until Lightning gives the signals back."""
        if threading.current_thread() is threading.main_thread():  # others may not
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self._note)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Ends the run after this step, unless a validation comes first."""
        if self._asked is not None and not validates_after(trainer, batch_idx):
            self._tell(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ends the run after a validation."""
        self._tell(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Writes `last.ckpt` on the way out."""
        if not isinstance(exception, SIGTERMException):
            return
        if trainer.is_global_zero and trainer.world_size > 1:
            # The others ask the first process at the start of each step whether to end, and wait for its answer.
            with suppress(SIGTERMException):
                trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor()
        # As in the hook in which checkpoints are written: from there Lightning resumes in every part of an epoch. After
        # a validation the state has been saved already.
        progress = trainer.fit_loop.epoch_loop.batch_progress
        for count in (progress.current, progress.total):
            count.completed -= 1
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, LastCheckpoint):
                callback.save(trainer)
        if trainer.is_global_zero and self._asked is not None:
            exception.code = 128 + self._asked
            print(
                f"npexp: {signal.Signals(self._asked).name}: stopped after {trainer.global_step} steps; "
                f"{go_on(Path(trainer.default_root_dir))}",
                file=sys.stderr,
            )

    def _note(self, number: int, frame: Any) -> None:
        if number == self._asked == signal.SIGINT:
            raise KeyboardInterrupt
        self._asked = number

    def _tell(self, trainer: Trainer) -> None:
        if self._asked is not None and trainer.is_global_zero:
            trainer._signal_connector.received_sigterm = True
