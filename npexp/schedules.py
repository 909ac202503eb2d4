"""Learning-rate schedules that PyTorch does not have in one class."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from npexp.errors import ConfigError, at_least


class WarmupCosine(LRScheduler):
    """Linear warm-up to the optimiser's learning rate, then half a cosine down to zero. Steps once per batch.

    Use it for runs of known length, which is nearly always. Its length is a setting of the run rather than of the
    model: left at None it is the trainer's number of steps, also when a run is resumed with more of them.

    Args:
        optimizer: the optimiser whose learning rate is scheduled.
        warmup: share of the schedule for the linear rise; 0 starts at the full rate.
        total_steps: steps until the rate is zero, warm-up included; None is the length of the run.

    Raises:
        ConfigError: a share outside [0, 1), or a schedule without steps.
    """

    def __init__(self, optimizer: Optimizer, warmup: float = 0.0, total_steps: int | None = None):
        if not 0 <= warmup < 1:
            raise ConfigError(f"expected warmup as a share of the run, 0 <= warmup < 1, got {warmup}")
        self.warmup = warmup
        self.total_steps: int | None = None
        super().__init__(optimizer)
        if total_steps is not None:
            self.set_length(total_steps)

    def set_length(self, total_steps: int) -> None:
        """Sets the step at which the rate is zero."""
        self.total_steps = at_least("total_steps", total_steps, 1)
        if self.last_epoch == 0:  # the optimiser was built before the length was known
            for group, rate in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
                group["lr"] = rate

    def factor(self, step: int) -> float:
        """The share of the full learning rate at this step."""
        if self.total_steps is None:
            if step == 0:
                return 1.0
            raise ConfigError("WarmupCosine does not know the length of the run: give total_steps")
        rise = int(self.warmup * self.total_steps)
        if step < rise:
            return (step + 1) / (rise + 1)
        return 0.5 * (1 + math.cos(math.pi * min((step - rise) / (self.total_steps - rise), 1.0)))

    def get_lr(self) -> list[float]:
        """The learning rate of each parameter group at the current step."""
        return [base * self.factor(self.last_epoch) for base in self.base_lrs]

    def state_dict(self) -> dict:
        """The state without the settings: a resumed run follows those it is given now."""
        return {k: v for k, v in super().state_dict().items() if k not in ("total_steps", "warmup")}
