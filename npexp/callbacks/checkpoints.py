"""The two checkpoints of a run, `checkpoints/best.ckpt` and `checkpoints/last.ckpt`.

A run killed at any moment leaves whole files, and a history that reaches up to its newest checkpoint.
"""

import io
import sys
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from npexp.errors import UnknownNameError
from npexp.files import whole_file
from npexp.loggers import MetricsFile


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints whole or not at all.

    Lightning's own writer moves them over from the temporary folder; where that is another file system, the move is a
    copy, which a kill leaves half done.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Writes a checkpoint.

        Raises:
            StorageError: it cannot be written.
        """
        if "://" in str(path):  # a store that is no file system has its own ways
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        content = io.BytesIO()
        torch.save(checkpoint, content)
        with whole_file(path, "wb") as file:
            file.write(content.getbuffer())


class RunCheckpoint(ModelCheckpoint):
    """What both checkpoints share: how files are written, and the metrics before them.

    Args:
        filename: without the suffix.
        **kwargs: see `ModelCheckpoint`.
    """

    def __init__(self, filename: str, **kwargs: Any):
        super().__init__(filename=filename, save_on_train_epoch_end=False, enable_version_counter=False, **kwargs)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Clears away what a killed run was writing."""
        super().setup(trainer, pl_module, stage)
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # not one that the user has chosen
            trainer.strategy.checkpoint_io = WholeCheckpointIO()
        if stage == "fit" and trainer.is_global_zero:
            for folder in (Path(self.dirpath), Path(trainer.default_root_dir)):
                for part in folder.glob("*.[0-9]*.part"):
                    part.unlink()

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        if trainer.is_global_zero:
            # First, as a resumed run cannot make up for what was logged before its checkpoint.
            for logger in trainer.loggers:
                logger.write() if isinstance(logger, MetricsFile) else logger.save()
        super()._save_checkpoint(trainer, filepath)


class BestCheckpoint(RunCheckpoint):
    """Keeps the weights of the best validation.

    Args:
        monitor: the validation metric that decides.
        mode: whether more or less of it is better.
    """

    def __init__(self, monitor: str = "val/loglik_joint", mode: Literal["max", "min"] = "max"):
        super().__init__("best", monitor=monitor, mode=mode)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves the state if it is the best so far.

        Raises:
            UnknownNameError: validation has no such metric.
        """
        if self.monitor not in trainer.callback_metrics and not trainer.sanity_checking:
            known = [name for name in trainer.callback_metrics if name.startswith("val/")]
            raise UnknownNameError("metric for best.monitor", self.monitor, known)
        super().on_validation_end(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Says so when the run leaves no best checkpoint, because nothing was validated."""
        super().on_train_end(trainer, pl_module)
        if trainer.is_global_zero and not self.best_model_path and not trainer.fast_dev_run:
            print(
                "npexp: warning: there is no best.ckpt, for the run was never validated (trainer.limit_val_batches, "
                "trainer.val_check_interval); test it with --ckpt_path last",
                file=sys.stderr,
            )


class LastCheckpoint(RunCheckpoint):
    """Keeps the newest state of a run, for resuming: every so many steps, after each validation and at the end.

    When a validation follows the step, the state is saved after it: its result is then part of the state, and a
    resumed run knows the best score the interrupted one had reached.

    Args:
        every_n_train_steps: steps between two checkpoints.
    """

    def __init__(self, every_n_train_steps: int = 1000):
        super().__init__("last", every_n_train_steps=every_n_train_steps)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves when it is time and no validation comes between."""
        due = trainer.global_step % self._every_n_train_steps == 0 or trainer.global_step == trainer.max_steps
        if due and not validates_after(trainer, batch_idx):
            log_now(trainer)
            self.save(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves what validation has changed: scores, and rates that depend on them."""
        self.save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves the state of a run that ended for another reason than its number of steps."""
        self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        """Writes `last.ckpt`, unless it holds this step already."""
        if not self._should_skip_saving_checkpoint(trainer):
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))


def log_now(trainer: Trainer) -> None:
    """Logs the step just taken in the metrics file, which Lightning does only after the callbacks."""
    connector, step = trainer._logger_connector, trainer.fit_loop.epoch_loop._batches_that_stepped
    if connector.should_update_logs:
        metrics = connector.metrics["log"].items()  # on all processes, which may have to add up
        row = {"epoch": float(trainer.current_epoch), **{name: float(value) for name, value in metrics}}
        for logger in trainer.loggers:
            if isinstance(logger, MetricsFile):
                logger.log_metrics(row, step)


def validates_after(trainer: Trainer, batch_idx: int) -> bool:
    """Whether the trainer validates right after this training batch."""
    every = trainer.val_check_batch
    if not trainer.enable_validation or every == float("inf"):
        return False
    epochs = trainer.check_val_every_n_epoch
    if epochs is None:
        # Validation counted in steps runs through the epochs.
        return (trainer.fit_loop.total_batch_idx + 1) % every == 0
    return (trainer.current_epoch + 1) % epochs == 0 and (batch_idx + 1) % every == 0
