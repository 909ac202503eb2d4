"""Learning-rate schedules that PyTorch does not have in one class."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from npexp.errors import ConfigError


class WarmupCosine(LRScheduler):
    """Linear warm-up to the optimiser's learning rate, then half a cosine down to zero. Steps once per batch.

    Use it for runs of known length, which is nearly always. Its length is a setting of the run rather than of the
    model: left at None it is the trainer's number of steps, also when a run is resumed with more of them.

    Args:
        optimizer: the optimiser whose learning rate is scheduled.
        warmup_steps: steps of the linear rise; 0 starts at the full rate.
        total_steps: steps until the rate is zero, warm-up included; None is the length of the run.

    Raises:
        ConfigError: the warm-up is negative, or as long as the whole schedule.
    """

    def __init__(self, optimizer: Optimizer, warmup_steps: int = 0, total_steps: int | None = None):
        if warmup_steps < 0:
            raise ConfigError(f"expected warmup_steps of 0 or more, got {warmup_steps}")
        self.warmup_steps = warmup_steps
        self.total_steps: int | None = None
        if total_steps is not None:
            self.set_length(total_steps)
        super().__init__(optimizer)

    def set_length(self, total_steps: int) -> None:
        """Sets the step at which the rate is zero."""
        if total_steps <= self.warmup_steps:
            raise ConfigError(
                f"a warm-up of {self.warmup_steps} steps leaves nothing of a run of {total_steps}: lower warmup_steps"
            )
        self.total_steps = total_steps

    def factor(self, step: int) -> float:
        """The share of the full learning rate at this step."""
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        if self.total_steps is None:
            if step == 0:
                return 1.0  # the same for every length, so the optimiser can be built before the length is known
            raise ConfigError("WarmupCosine does not know the length of the run: give total_steps")
        done = (step - self.warmup_steps) / (self.total_steps - self.warmup_steps)
        return 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))

    def get_lr(self) -> list[float]:
        """The learning rate of each parameter group at the current step."""
        return [base * self.factor(self.last_epoch) for base in self.base_lrs]

    def state_dict(self) -> dict:
        """The state without the settings: a resumed run follows those it is given now."""
        return {k: v for k, v in super().state_dict().items() if k not in ("total_steps", "warmup_steps")}
