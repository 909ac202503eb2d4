"""Another learning rate for the rest of a run."""

from lightning.pytorch import Callback, LightningModule, Trainer


class NewRate(Callback):
    """Replaces the learning rate that a checkpoint has brought; its schedule goes on, in proportion.

    Args:
        lr: the optimiser's learning rate, where its schedule is at 1.
    """

    def __init__(self, lr: float):
        self.lr = lr

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Sets it in the optimisers and their schedules."""
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                group["lr"] *= self.lr / group.get("initial_lr", group["lr"])
                if "initial_lr" in group:
                    group["initial_lr"] = self.lr
        for entry in trainer.lr_scheduler_configs:
            if hasattr(entry.scheduler, "base_lrs"):
                entry.scheduler.base_lrs = [self.lr] * len(entry.scheduler.base_lrs)
