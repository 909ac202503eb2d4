"""Callbacks that make training fail; a test switches them on with `--trainer.callbacks+=`."""

import os
import signal
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer


class Spoil(Callback):
    """Makes a weight infinite, or only its gradient, before a step.

    Args:
        step: which one.
        rank: of the process that does it.
        what: "weight" or "gradient".
    """

    def __init__(self, step: int, rank: int = 0, what: str = "weight"):
        self.step, self.rank, self.what = step, rank, what

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if self.what == "weight" and self.is_time(trainer):
            with torch.no_grad():
                pl_module.net.head.network[0].weight[0, 0] = torch.inf

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.what == "gradient" and self.is_time(trainer):
            pl_module.net.head.network[0].weight.grad[0, 0] = torch.nan

    def is_time(self, trainer: Trainer) -> bool:
        return trainer.global_step == self.step and trainer.global_rank == self.rank


class Signal(Callback):
    """Sends this process a signal while it trains, or validates, after so many steps.

    Args:
        number: the signal.
        step: steps taken before it comes.
        rank: of the process that gets it.
        validating: whether to wait for a validation.
    """

    def __init__(self, number: int, step: int, rank: int = 0, validating: bool = False):
        self.number, self.step, self.rank, self.validating = number, step, rank, validating

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        self.send(trainer, self.validating)

    def on_validation_batch_start(self, trainer: Trainer, *_: Any) -> None:
        self.send(trainer, not self.validating)

    def send(self, trainer: Trainer, later: bool) -> None:
        if not later and trainer.global_step == self.step and trainer.global_rank == self.rank:
            os.kill(os.getpid(), signal.Signals(self.number))


class FillDisk(Callback):
    """Lets a file be written to a device that is always full, from a step on.

    Args:
        step: which one.
        name: the file, in the run folder.
    """

    def __init__(self, step: int, name: str):
        self.step, self.name = step, name

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            path = Path(trainer.default_root_dir, f"{self.name}.{os.getpid()}.part")
            path.parent.mkdir(exist_ok=True)
            path.symlink_to("/dev/full")
