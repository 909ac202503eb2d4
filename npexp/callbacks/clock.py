"""Everything in a run is counted in training steps, however many processes and batches a step is made of."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from npexp.errors import ConfigError
from npexp.schedules import WarmupCosine

COUNTERS = "epoch_loop.batch_progress", "epoch_loop.automatic_optimization.optim_progress"


def accumulation(global_batch_size: int, batch_size: int, processes: int, given: int = 1) -> int:
    """Micro-batches that each process adds up before a step is taken.

    Args:
        global_batch_size: tasks per training step, over all processes.
        batch_size: tasks in a micro-batch.
        processes: how many share the work.
        given: what the trainer was told, where 1 is nothing.

    Raises:
        ConfigError: it is no whole number, or none at all, or the trainer was told another.
    """
    per_process, rest = divmod(global_batch_size, batch_size * processes)
    if rest or per_process < 1:
        raise ConfigError(
            f"expected global_batch_size to be a multiple of {batch_size * processes}, data.batch_size={batch_size} on "
            f"{processes} process{'es' if processes > 1 else ''}, got {global_batch_size}: change one of them"
        )
    if given not in (1, per_process):
        raise ConfigError(
            f"expected one number of batches per step, got trainer.accumulate_grad_batches={given}, and {per_process} "
            f"by global_batch_size={global_batch_size}: leave one of them out"
        )
    return per_process


class RunClock(Callback):
    """Keeps schedules, validations and logged steps in line with the run, also when resumed with other settings."""

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Counts this process's batches anew from the steps taken, as many processes may have shared them before.

        A step that was not finished is taken again: its gradients are in no checkpoint.
        """
        batches, optimizer = (checkpoint["loops"]["fit_loop"][name] for name in COUNTERS)
        for span, taken in optimizer["optimizer"]["step"].items():
            count, ready = batches[span], taken["completed"] * trainer.accumulate_grad_batches
            if count["ready"] != ready:
                # A checkpoint written between a step and its last hooks has one batch still to be completed.
                left = count["processed"] - count["completed"]
                count.update(ready=ready, started=ready, processed=ready, completed=ready - left)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tells each `WarmupCosine` without a length how long the run is, and validation when it is due.

        Raises:
            ConfigError: the run has no end, or an epoch ends in the middle of a step.
        """
        for entry in trainer.lr_scheduler_configs:
            if isinstance(entry.scheduler, WarmupCosine) and entry.scheduler.total_steps is None:
                steps = trainer.estimated_stepping_batches
                if steps == float("inf"):
                    raise ConfigError("WarmupCosine needs a run of known length: set trainer.max_steps")
                entry.scheduler.set_length(int(steps))
        per_step, batches = trainer.accumulate_grad_batches, trainer.num_training_batches
        if per_step == 1:
            return
        if batches != float("inf") and batches % per_step:
            raise ConfigError(
                f"expected an epoch of whole steps, each {per_step} batches per process, got {batches} batches: change "
                "trainer.limit_train_batches"
            )
        if isinstance(trainer.val_check_interval, int):  # of batches, says Lightning; of steps, say we
            trainer.val_check_batch = trainer.val_check_interval * per_step

    def on_train_batch_start(self, trainer: Trainer, *_: object) -> None:
        """Corrects the step that metrics are logged under.

        Lightning counts it apart from `global_step`, and one short after resuming from a checkpoint that was saved
        by a validation when the resumed run validates at other steps.
        """
        trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step
