"""Stops a run that has left the numbers, before a checkpoint could hold what it has become."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from npexp.batch import TaskBatch
from npexp.callbacks.seeding import batch_number
from npexp.errors import DivergenceError
from npexp.files import shown
from npexp.module import NPModule, logs_now, scales
from npexp.resume import go_on
from npexp.run_files import write_json
from npexp.watch import first_bad, watch

RECORD = "diverged.json"  # in the run folder: which step it was, for `npexp replay`

NEVER = torch.iinfo(torch.int64).max  # no step is


class Divergence(Callback):
    """Raises once a loss or a gradient is NaN or infinite.

    On the CPU every step is looked at before it is taken. A GPU is not made to wait: it keeps to itself which step was
    the first bad one, and is asked with each logged step and before each checkpoint.

    A loss that is not finite makes the gradient so as well, and processes average their gradients: all of them see the
    same and stop at the same step. Only float16 has gradients that overflow and are skipped in the ordinary course of
    things; there the loss alone decides.

    Args:
        deferred: whether to look now and then only; None does so on a GPU.

    Raises:
        DivergenceError: by the hooks.
    """

    def __init__(self, deferred: bool | None = None):
        self.deferred = deferred
        self._batch: TaskBatch | None = None  # the newest
        self._micro_batches: list[tuple[int, int, TaskBatch]] = []  # of the current step: number, seed, tasks
        self._losses: list[Tensor] = []
        self._first: Tensor | None = None  # bad step, on the device

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forgets what an earlier attempt has left."""
        if trainer.is_global_zero:
            record(trainer).unlink(missing_ok=True)
        self._micro_batches, self._losses = [], []
        deferred = pl_module.device.type != "cpu" if self.deferred is None else self.deferred
        self._first = torch.full((), NEVER, device=pl_module.device) if deferred else None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Remembers the micro-batch."""
        self._batch = batch if self._first is None else None

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Has a loss that is not finite spoil the gradient; that of any other is multiplied by exactly one."""
        value = loss.detach()
        if self._batch is not None:
            self._micro_batches.append((batch_number(trainer), torch.initial_seed(), self._batch))
        if scales(trainer):
            self._losses.append(value)
        else:
            loss.register_hook(lambda gradient: gradient + 0.0 * value)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Looks at the step that is about to be taken; clipping needs the norm of the gradient anyway."""
        total = torch.stack(self._losses).sum() if scales(trainer) else pl_module.gradient_norm()
        if self._first is None:
            if not total.isfinite():
                self._stop(trainer, pl_module)
        else:
            self._first = torch.where(total.isfinite(), self._first, self._first.clamp(max=trainer.global_step))
            if logs_now(trainer):
                self._read(trainer)
        self._micro_batches, self._losses = [], []

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Looks before a checkpoint is written."""
        if self._first is not None:
            self._read(trainer)

    def _read(self, trainer: Trainer) -> None:
        """Raises where a step was bad since the flag was set up; costs a wait for the device."""
        step = int(trainer.strategy.reduce(self._first, reduce_op="min"))
        if step != NEVER:
            raise_from(trainer, {"step": step, "batch": None, "seed": None, "tensors": []})

    def _stop(self, trainer: Trainer, module: NPModule) -> None:
        """Says what is wrong with the current step, in the same words on all processes."""
        here = None
        for number, seed, batch in self._micro_batches:
            if bad := first_bad(watch(module, batch, seed)):
                here = {"batch": number, "seed": seed, "tensors": bad}
                break
        found = [here]
        if trainer.world_size > 1:
            found = [None] * trainer.world_size
            torch.distributed.all_gather_object(found, here)
        told = next((f for f in found if f is not None), None)
        if told is None:  # computed again, every micro-batch is fine: something has changed the gradients since
            bad = [
                name for name, p in module.net.named_parameters() if p.grad is not None and not p.grad.isfinite().all()
            ]
            number, seed, _ = self._micro_batches[-1]
            tensors = [f"gradient of {bad[0]} (first of {len(bad)})" if bad else "the norm of the gradient"]
            told = {"batch": number, "seed": seed, "tensors": tensors}
        raise_from(trainer, {"step": trainer.global_step, **told})


def record(trainer: Trainer) -> Path:
    """Where a run notes its bad step."""
    return Path(trainer.default_root_dir) / RECORD


def raise_from(trainer: Trainer, found: dict[str, Any]) -> None:
    """Notes the bad step in the run folder and raises.

    Args:
        trainer: whose run it is.
        found: `step`, and where they are known `batch`, `seed` and `tensors`.
    """
    run, step = record(trainer).parent, found["step"]
    if trainer.is_global_zero:
        write_json(record(trainer), found)
    where = f"step {step}" if found["batch"] is None else f"step {step}, batch {found['batch']}, seed {found['seed']}"
    what = ", ".join(found["tensors"]) or "a loss or a gradient"
    error = DivergenceError(
        f"training diverged at {where}; not finite: {what}. Look at it with npexp replay {shown(run)}, then "
        f"{go_on(run)} with a lower --model.optimizer.init_args.lr or --trainer.gradient_clip_val"
    )
    error.status = DivergenceError.status if trainer.is_global_zero else 0  # all raise it, the first one tells
    raise error
