"""The callback that puts figures of predictions on the board."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from npexp.batch import TaskBatch
from npexp.callbacks.figures import Panel, curve_figure, image_figure
from npexp.callbacks.parity import Parity, parities, parity_figure
from npexp.columns import Columns
from npexp.likelihoods import Predictive
from npexp.scaling import Scaling


class Figures(Callback):
    """Puts figures of the same few validation tasks on the board after each validation, one per kind of task.

    Args:
        num_tasks: tasks in the figures; 0 for no figure.
    """

    def __init__(self, num_tasks: int = 6):
        self.num_tasks = num_tasks
        self._tasks: list[Any] | None = None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws, on the first process only."""
        boards = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        if not (trainer.is_global_zero and boards and self.num_tasks) or trainer.sanity_checking:
            return
        if self._tasks is None:
            self._tasks = trainer.datamodule.plot_tasks(self.num_tasks)
        kinds = {
            "curve": (predict_panel, curve_figure),
            "image": (predict_panel, image_figure),
            "parity": (predict_parities, parity_figure),
        }
        for kind, (predicted, draw) in kinds.items():
            panels = [predicted(trainer, pl_module, task) for task in self._tasks if task.kind == kind]
            if panels:
                figure = draw(panels)
                for board in boards:
                    board.experiment.add_figure(f"predictions/{kind}", figure, trainer.global_step)


def predict_panel(trainer: Trainer, pl_module: LightningModule, task: Any) -> Panel:
    """A curve or an image for figures: one of the datamodule's `PlotTask`s, and what is predicted for it."""
    law = _predict(trainer, pl_module, task.batch)
    return Panel(task.batch, law.mean, law.stddev, task.truth, task.mean, task.stddev, task.image_shape)


def predict_parities(trainer: Trainer, pl_module: LightningModule, task: Any) -> list[Parity]:
    """Outputs of one of the datamodule's `PlotTask`s, observed and predicted, in raw units where the module knows."""
    scaling = None if pl_module.scaling is None else Scaling(**pl_module.scaling)
    columns = None if pl_module.columns is None else Columns.make(pl_module.columns)
    return parities(task.batch, _predict(trainer, pl_module, task.batch), scaling, columns)


def _predict(trainer: Trainer, pl_module: LightningModule, batch: TaskBatch) -> Predictive:
    """What the module's `net`, in eval mode, predicts in the precision of the run.

    The batch comes from none of the trainer's loaders, so the trainer has not converted it.
    """
    batch = TaskBatch(*(v if v is None else v.to(pl_module.device) for v in batch))
    batch = trainer.precision_plugin.convert_input(batch)
    with torch.no_grad(), trainer.precision_plugin.forward_context():
        return pl_module.net(batch.xc, batch.yc, batch.xt, batch.mask_c, batch.mask_t)
