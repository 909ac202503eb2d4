"""Early stopping that a restart does not undo."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping


class EarlyStop(EarlyStopping):
    """Lightning's `EarlyStopping`, with a patience that is a setting of each start and holds from its first step.

    Lightning would take the patience from the checkpoint, and train a run that was killed after its last validation,
    or had ended, until the next one.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over the best score and the validations since."""
        super().load_state_dict({**state_dict, "patience": self.patience})

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops at once if patience has run out."""
        trainer.should_stop = trainer.should_stop or self.wait_count >= self.patience
