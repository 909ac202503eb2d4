"""Speed, peak memory, gradient norm and learning rate of a training run."""

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import FSDPStrategy
from torch.optim import Optimizer

from npexp.batch import TaskBatch
from npexp.memory import peak_memory, reset_peak_memory
from npexp.module import logs_now


class Measurements(Callback):
    """Logs `perf/tasks_per_second`, `perf/peak_memory_mb`, `train/gradient_norm` and `train/learning_rate`.

    The gradient norm is the one before clipping. Speed counts training steps only, over all processes. Memory is the
    peak since training began: what PyTorch allocated on a GPU, the whole process on a Linux CPU, nothing elsewhere.
    """

    def __init__(self) -> None:
        self._tasks = 0
        self._since: float | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the measurement of memory."""
        reset_peak_memory(pl_module.device)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves validation, and the figures and checkpoints that follow it, out of the time."""
        self._since = None

    def on_train_batch_start(self, *_: Any) -> None:
        """Starts the clock where it does not run."""
        if self._since is None:
            self._tasks, self._since = 0, time.perf_counter()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Logs the gradient norm and the learning rate of the step about to be taken."""
        if not logs_now(trainer):
            return
        norm = pl_module.gradient_norm()
        if isinstance(trainer.strategy, FSDPStrategy):  # each process has its share of the gradient
            norm = trainer.strategy.reduce(norm.square(), reduce_op="sum").sqrt()
        pl_module.log("train/gradient_norm", norm)
        pl_module.log("train/learning_rate", optimizer.param_groups[0]["lr"])

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: TaskBatch, batch_idx: int
    ) -> None:
        """Counts the tasks, and logs speed and memory when it is time."""
        self._tasks += batch.num_tasks
        # The counters have moved on: the step just taken is the one that Lightning is about to log.
        if trainer.fit_loop._should_accumulate() or trainer.global_step % trainer.log_every_n_steps:
            return
        rate = self._tasks / (time.perf_counter() - self._since)
        pl_module.log("perf/tasks_per_second", rate, sync_dist=True, reduce_fx="sum")
        peak = peak_memory(pl_module.device)
        if peak is not None:
            pl_module.log("perf/peak_memory_mb", peak / 2**20, sync_dist=True, reduce_fx="max")
        self._since = None
