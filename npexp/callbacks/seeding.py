"""Randomness that depends on the numbers of the batches alone, so that a resumed run continues exactly."""

from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from npexp.errors import ConfigError


def mix(*words: int) -> int:
    """One 32-bit seed from several numbers, without the collisions of sums and shifts."""
    # 32 bits because PyTorch's CPU generator looks at no more of a seed. `datamodules.loader` has its own `mix`:
    # neither package may import the other.
    return int(np.random.SeedSequence(words).generate_state(1)[0])


class StepSeed(Callback):
    """Makes dropout and latent draws of each micro-batch a function of the seed and of its number, see `batch_number`.

    Generator states are in no checkpoint, and Lightning gives all processes the same one: without this a resumed run
    would draw other noise, and all processes the same.

    Args:
        seed: the seed of the run.
    """

    def __init__(self, seed: int = 0):
        self.seed = seed

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Seeds PyTorch's generators, on every device."""
        torch.manual_seed(mix(self.seed, batch_number(trainer)))


def batch_number(trainer: Trainer) -> int:
    """The global number of the micro-batch that this process is training on: no other has it, on no process.

    Raises:
        ConfigError: the training loader does not number its batches.
    """
    number = getattr(trainer.train_dataloader, "number", None)
    if number is None:
        raise ConfigError(
            "expected a training loader with the `number` of its newest batch, got "
            f"{type(trainer.train_dataloader).__name__}: use datamodules.loader.train_loader"
        )
    return number
