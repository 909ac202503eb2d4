"""`npexp replay`: a training step computed again, with every tensor on the way looked at.

Training is a pure function of its settings and the number of the step: from any earlier checkpoint, or from the start,
the same steps lead to the same numbers, also to those that are none.
"""

import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from npexp.batch import TaskBatch
from npexp.callbacks.checkpoints import RunCheckpoint
from npexp.callbacks.clock import RunClock, accumulation
from npexp.callbacks.divergence import RECORD
from npexp.callbacks.seeding import batch_number
from npexp.commands import Parser
from npexp.config import read_config
from npexp.errors import ConfigError
from npexp.files import shown, whole_file
from npexp.resume import checkpoint_steps
from npexp.runs import newest
from npexp.tables import terminal
from npexp.training_cli import CLI, make_cli
from npexp.watch import Reading, first_bad, watch

SHOWN = 3  # weights and gradients in the table, the largest ones


class Found(NamedTuple):
    """A micro-batch of the step.

    Args:
        number: which it is in the stream of micro-batches.
        seed: of its noise.
        batch: its tasks.
        readings: every tensor from the batch to the gradients.
    """

    number: int
    seed: int
    batch: TaskBatch
    readings: list[Reading]


class StepDone(Exception):
    """Ends training in the middle of the step that is looked at."""


class LookAt(Callback):
    """Reads all tensors of one step and ends training before that step is taken.

    Args:
        step: the step.
    """

    def __init__(self, step: int):
        self.step = step
        self.found: list[Found] = []
        self.losses: dict[str, float] = {}
        self._batch: TaskBatch | None = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Remembers the micro-batch."""
        self._batch = batch

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Looks at the micro-batch; the seed of its noise is still known to PyTorch."""
        if trainer.global_step == self.step:
            number, seed = batch_number(trainer), torch.initial_seed()
            self.found.append(Found(number, seed, self._batch, watch(pl_module, self._batch, seed)))

    def on_before_optimizer_step(self, trainer: Trainer, *_: Any) -> None:
        """Ends it."""
        if trainer.global_step == self.step:
            logged = trainer.callback_metrics.items()
            self.losses = {name: float(value) for name, value in logged if name.startswith("train/")}
            raise StepDone


def replay(words: Sequence[str]) -> int:
    """Computes a step again and prints what it is made of; writes nothing to the run."""
    parser = Parser("replay", "compute a training step again and look at every tensor")
    parser.add_argument("run", help="run folder, such as runs/gp_rbf_cnp/0")
    parser.add_argument("--step", type=int, help="as in metrics.csv; left out: the one that diverged, or the next one")
    parser.add_argument("--ckpt_path", help="where to start from; left out: the newest checkpoint before the step")
    parser.add_argument("--out", help="file for the tasks and the weights, to be read with torch.load")
    args = parser.read(words)
    folder = newest(args.run)
    step = asked_step(folder) if args.step is None else args.step
    look, cli = again(folder, step, args.ckpt_path)
    show(look, step)
    if args.out:
        save(Path(args.out), look, step, cli.model.net.state_dict())
    return 0


def asked_step(folder: Path) -> int:
    """The step that nobody named: the one that diverged, else the one after the newest checkpoint."""
    note = folder / RECORD
    if note.is_file():
        return int(json.loads(note.read_text())["step"])
    steps = checkpoints(folder)
    return max(steps.values(), default=0)


def checkpoints(folder: Path) -> dict[Path, int]:
    """The whole checkpoints of a run, with their steps."""
    found = {}
    for path in sorted((folder / "checkpoints").glob("*.ckpt")):
        try:
            found[path] = checkpoint_steps(str(path))
        except ConfigError:
            continue  # a damaged one: another will do
    return found


def again(folder: Path, step: int, start: str | None = None) -> tuple[LookAt, CLI]:
    """Trains up to a step and looks at it.

    Args:
        folder: the run's.
        step: which one, counted from 0 as in `metrics.csv`.
        start: checkpoint to start from; None is the newest at or before the step, or none at all.

    Raises:
        ConfigError: no such run or step.
    """
    if not (folder / "config.yaml").is_file():
        raise ConfigError(f"{folder} holds no run: give its folder, such as runs/gp_rbf_cnp/0")
    if start is None:
        known = {steps: path for path, steps in checkpoints(folder).items() if steps <= step}
        start = str(known[max(known)]) if known else None
    if step < 0 or checkpoint_steps(start) > step:
        raise ConfigError(f"step {step} is before {start or 'the first'}: give an earlier --ckpt_path, or a later step")
    print(f"computing steps {checkpoint_steps(start)} to {step}", file=sys.stderr)
    config = read_config(folder / "config.yaml")
    config.pop("ckpt_path", None)
    sys.argv = sys.argv[:1]  # whose words are not for Lightning, which would warn
    cli = make_cli(run=False, args=alone(config))
    warnings.filterwarnings("ignore", ".*callbacks used to create the checkpoint.*")  # those that would write
    trainer, look = cli.trainer, LookAt(step)
    each = cli.datamodule.batch_size
    trainer.accumulate_grad_batches = accumulation(tasks_per_step(config, each), each, 1)
    trainer.callbacks = [c for c in trainer.callbacks if not isinstance(c, RunCheckpoint)] + [RunClock(), look]
    try:
        trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=start, weights_only=True)
    except StepDone:
        return look, cli
    raise ConfigError(f"the run is over after {trainer.global_step} steps: give an earlier step than {step}")


def tasks_per_step(config: dict[str, Any], batch_size: int) -> int:
    """Tasks per step of a run over all its processes, each with micro-batches of so many.

    Raises:
        ConfigError: the settings leave it to the machine how many processes a run has, and they matter.
    """
    if config["global_batch_size"] is not None:
        return config["global_batch_size"]
    trainer = config["trainer"]
    devices = trainer["devices"]
    if isinstance(devices, str) and "," in devices:
        devices = devices.strip(",").split(",")
    number = len(devices) if isinstance(devices, list) else devices
    if not isinstance(number, int) or number < 1:
        raise ConfigError(
            f"expected trainer.devices as the number of processes that the run had, got {number}: write it into its "
            "config.yaml"
        )
    return batch_size * number * trainer["num_nodes"] * trainer["accumulate_grad_batches"]


def alone(config: dict[str, Any]) -> dict[str, Any]:
    """The settings for a run's repetition on one process, without a trace."""
    trainer = {
        "devices": 1,
        "num_nodes": 1,
        "strategy": "auto",
        "plugins": None,
        "logger": False,
        "enable_progress_bar": False,
        "limit_val_batches": 0,
        "log_every_n_steps": 1,
    }
    return {**config, "trainer": {**config["trainer"], **trainer}, "figures": {**config["figures"], "num_tasks": 0}}


def show(look: LookAt, step: int) -> None:
    """Prints the step: losses, and of each micro-batch the tensors that matter."""
    print(f"step {step}: " + ", ".join(f"{name} {value:.9g}" for name, value in look.losses.items()))
    for found in look.found:
        batch, bad = found.batch, first_bad(found.readings)
        sizes = f"{batch.num_tasks} tasks, {batch.xc.shape[1]} context and {batch.xt.shape[1]} target points"
        verdict = f"not finite: {', '.join(bad)}" if bad else "every tensor is finite"
        rows = [
            (r.kind, r.name, " × ".join(map(str, r.shape)), *(f"{value:.4g}" for value in (r.norm, r.low, r.high)))
            for r in telling(found.readings)
        ]
        title = f"batch {found.number}, seed {found.seed}: {sizes}; {verdict}"
        terminal(title, ("", "tensor", "size", "norm", "smallest", "largest"), rows, ("", "tensor", "size"))


def telling(readings: list[Reading]) -> list[Reading]:
    """Batch, losses and what the model's parts return; of weights and gradients the largest; of all, the first bad."""
    chosen = [r for r in readings if r.kind in ("batch", "loss")]
    chosen += [r for r in readings if r.kind == "output" and r.name.count(".") <= 1]
    for kind in ("weight", "gradient"):
        chosen += sorted((r for r in readings if r.kind == kind and r.finite), key=lambda r: -r.norm)[:SHOWN]
    for kind in ("batch", "weight", "output", "loss", "gradient"):
        chosen += [r for r in readings if r.kind == kind and not r.finite][:1]
    return [r for r in readings if any(r is c for c in chosen)]


def save(path: Path, look: LookAt, step: int, weights: dict[str, Tensor]) -> None:
    """Writes the step's micro-batches and the weights before it, plain data."""
    batches = [
        {"number": f.number, "seed": f.seed, **{k: v for k, v in f.batch._asdict().items() if v is not None}}
        for f in look.found
    ]
    with whole_file(path, "wb") as file:
        torch.save({"step": step, "batches": batches, "state_dict": weights}, file)
    print(f"tasks and weights: {shown(path.resolve())}")
