"""Randomness and schedules that depend on the step alone, so that a resumed run continues exactly."""

from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from npexp.errors import ConfigError
from npexp.schedules import WarmupCosine


def mix(*words: int) -> int:
    """One 32-bit seed from several numbers, without the collisions of sums and shifts."""
    # 32 bits because PyTorch's CPU generator looks at no more of a seed. `datamodules.loader` has its own `mix`:
    # neither package may import the other.
    return int(np.random.SeedSequence(words).generate_state(1)[0])


class StepSeed(Callback):
    """Makes dropout and latent draws of each training batch a function of seed, step, batch and process.

    Generator states are in no checkpoint, and Lightning gives all processes the same one: without this a resumed run
    would draw other noise, and all processes the same.

    Args:
        seed: the seed of the run.
    """

    def __init__(self, seed: int = 0):
        self.seed = seed

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Seeds PyTorch's generators, on every device."""
        # The batch tells apart those whose gradients are accumulated into one step.
        torch.manual_seed(mix(self.seed, trainer.global_step, batch_idx, trainer.global_rank))


class RunClock(Callback):
    """Keeps schedules and logged steps in line with the run, also when it is resumed with other settings."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tells each `WarmupCosine` without a length how long the run is."""
        for entry in trainer.lr_scheduler_configs:
            if isinstance(entry.scheduler, WarmupCosine) and entry.scheduler.total_steps is None:
                steps = trainer.estimated_stepping_batches
                if steps == float("inf"):
                    raise ConfigError("WarmupCosine needs a run of known length: set trainer.max_steps")
                entry.scheduler.set_length(int(steps))

    def on_train_batch_start(self, trainer: Trainer, *_: object) -> None:
        """Corrects the step that metrics are logged under.

        Lightning counts it apart from `global_step`, and one short after resuming from a checkpoint that was saved
        by a validation when the resumed run validates at other steps.
        """
        trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step
