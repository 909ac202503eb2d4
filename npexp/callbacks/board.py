"""The callback that puts figures of predictions on the board."""

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from npexp.callbacks.figures import curve_figure, image_figure
from npexp.callbacks.panels import predicted
from npexp.callbacks.parity import parity_figure
from npexp.files import whole_file
from npexp.run_files import FIGURES

DRAW = {"curve": curve_figure, "image": image_figure, "parity": parity_figure}


class Figures(Callback):
    """Puts figures of the same few validation tasks on the board after each validation, one per kind of task.

    The newest are in the run folder, too: `figures/predictions-<kind>.png`.

    Args:
        num_tasks: tasks in the figures; 0 for no figure.
    """

    def __init__(self, num_tasks: int = 6):
        self.num_tasks = num_tasks
        self._tasks: list[Any] | None = None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Predicts in every process, and draws in the first one."""
        boards = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        if not (boards and self.num_tasks) or trainer.sanity_checking:
            return
        if self._tasks is None:
            self._tasks = trainer.datamodule.plot_tasks(self.num_tasks)
        examples = [predicted(trainer, pl_module, task) for task in self._tasks]
        if not trainer.is_global_zero:
            return
        for kind, draw in DRAW.items():
            chosen = [example for example, task in zip(examples, self._tasks, strict=True) if task.kind == kind]
            if chosen:
                figure = draw(chosen)
                for board in boards:
                    board.experiment.add_figure(f"predictions/{kind}", figure, trainer.global_step)
                with whole_file(Path(trainer.default_root_dir) / FIGURES / f"predictions-{kind}.png", "wb") as file:
                    figure.savefig(file, format="png", dpi=150)
