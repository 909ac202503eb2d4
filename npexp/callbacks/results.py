"""What a run leaves to read: the board's overview, the table of a test and `test_metrics.json`."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from npexp.callbacks.examples import pack
from npexp.callbacks.panels import predicted
from npexp.loggers import Board
from npexp.metrics.scores import LEVELS
from npexp.run_files import EXAMPLES, RESULTS, TASKS, write_arrays, write_json
from npexp.tables import plus_minus

LAYOUT = {
    "Neural Process": {
        "joint log-likelihood": ["Multiline", ["(train|val)/loglik_joint$"]],
        "marginal log-likelihood": ["Multiline", ["(train|val)/loglik_marginal$"]],
        "log-likelihood by context size": ["Multiline", ["val/loglik_nc/.*"]],
        "gap to the exact posterior": ["Multiline", ["val/oracle_gap_(joint|marginal)$"]],
        "calibration": ["Multiline", ["val/(calibration_error|coverage_95)$"]],
    },
    "Machine": {
        "tasks per second": ["Multiline", ["perf/tasks_per_second"]],
        "peak memory (MiB)": ["Multiline", ["perf/peak_memory_mb"]],
    },
}
TABLED = ("val/loglik_joint", "test/loglik_joint", "perf/tasks_per_second", "perf/peak_memory_mb")


class Overview(Callback):
    """Gives the board its charts, the HParams table and the configuration as text.

    Args:
        hparams: flat settings by which runs are compared, e.g. model class, width and learning rate.
        text: Markdown that says exactly what ran.
    """

    def __init__(self, hparams: Mapping[str, Any], text: str):
        self.hparams = dict(hparams)
        self.text = text

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes what does not change during the run. A killed run has its row in the table too."""
        for board in boards(trainer):
            board.experiment.add_text("config", self.text)
            if not board.resumed:
                board.experiment.add_custom_scalars(LAYOUT)
                board.log_hyperparams(self.hparams, {f"hp/{name}": math.nan for name in TABLED})

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Brings the run's row up to date."""
        if not trainer.sanity_checking:
            self._update(trainer, TABLED)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Adds the test result to the run's row."""
        self._update(trainer, [name for name in TABLED if name.startswith("test/")])

    def _update(self, trainer: Trainer, names: Any) -> None:
        values = {f"hp/{n}": float(trainer.callback_metrics[n]) for n in names if n in trainer.callback_metrics}
        for board in boards(trainer):
            board.log_metrics(values, trainer.global_step)


def boards(trainer: Trainer) -> list[Board]:
    """The boards of this process: none but on the first one."""
    return [logger for logger in trainer.loggers if isinstance(logger, Board)] if trainer.is_global_zero else []


class TestReport(Callback):
    """Prints a table after `test` and writes what a report needs; after `validate`, prints the table only.

    The files are `test_metrics.json`, `test_tasks.npz` and `test_examples.npz`, see `npexp.run_files`.

    Args:
        folder: of the run.
        facts: what goes into the JSON file beside the metrics, e.g. model, data, seed, steps and revision.
        num_examples: tasks for which predictions are kept, those of the board's figures.
    """

    __test__ = False  # not a test, whatever its name says to pytest

    def __init__(self, folder: str | Path, facts: Mapping[str, Any], num_examples: int):
        self.folder = Path(folder)
        self.facts = dict(facts)
        self.num_examples = num_examples

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reports on the test sets."""
        tasks = trainer.datamodule.plot_tasks(self.num_examples) if self.num_examples else []
        examples = [predicted(trainer, pl_module, task) for task in tasks]
        if trainer.is_global_zero:
            scores = {f"{name}/{k}": v for name, table in pl_module.test_tasks.items() for k, v in table.items()}
            write_arrays(self.folder / TASKS, {"levels": LEVELS, **scores})
            write_arrays(self.folder / EXAMPLES, pack(examples))
            results = dict(pl_module.test_results)
            write_json(self.folder / RESULTS, {**results, **self.facts})
            print_table(results)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reports on the validation set, unless training goes on."""
        if trainer.is_global_zero and not trainer.training and trainer.state.fn == "validate":
            print_table({name: float(value) for name, value in trainer.callback_metrics.items() if "/" in name})


def print_table(results: Mapping[str, float]) -> None:
    """Prints metrics as rows and test sets as columns, each value with its standard error.

    Args:
        results: values by `set/metric`; an error's name ends in `_sem`.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    sets = list(dict.fromkeys(name.partition("/")[0] for name in results))
    metrics = list(dict.fromkeys(name.partition("/")[2] for name in results if not name.endswith("_sem")))
    metrics.sort(key=lambda metric: metric if "/" in metric else "")  # bins last, in order: no set need have them all
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", caption="± one standard error, batches being independent")
    table.add_column("metric", no_wrap=True)
    for name in sets:
        table.add_column(name, justify="right", no_wrap=True)
    for metric in metrics:
        table.add_row(metric, *(_cell(results, f"{name}/{metric}") for name in sets))
    # A number cut short is worse than a line that the terminal breaks.
    Console(width=max(Console().width, Console(width=1000).measure(table).maximum)).print(table)


def _cell(results: Mapping[str, float], name: str) -> str:
    return plus_minus(results[name], results.get(f"{name}_sem", math.nan), 4) if name in results else ""
