"""Callbacks that make training fail; a test switches them on with `--trainer.callbacks+=`."""

import errno
import os
import signal
import sys
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


class ReadOnly:
    """Has this process's system calls treat a folder as one on a disk that was mounted read-only.

    Python asks audit hooks before each of them, whichever library it is for. A hook stays; this one rests while no
    folder is set.

    Attributes:
        below: the folder; None for none.
        refused: how many attempts to write there were.
    """

    CHANGES = "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.truncate", "os.utime", "os.chmod"

    def __init__(self):
        self.below: str | None = None
        self.refused = 0
        sys.addaudithook(self.hook)

    def hook(self, event: str, args: tuple[Any, ...]) -> None:
        if self.below is None or not (event in self.CHANGES or (event == "open" and args[2] & os.O_ACCMODE)):
            return
        paths = [os.path.realpath(os.fsdecode(path)) for path in args[:2] if isinstance(path, (str, bytes, Path))]
        if any(path.startswith(self.below) for path in paths):
            self.refused += 1
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), paths[0])


class ReadOnlyDisk(Callback):
    """Makes the run folder read-only, from a step on.

    Args:
        step: which one.
    """

    disk: ReadOnly  # set by the test, which has to give the folder back

    def __init__(self, step: int):
        self.step = step

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            self.disk.below = os.path.realpath(trainer.default_root_dir)
