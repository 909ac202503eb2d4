"""What the scripts in folders here share: tables, training and scoring in this process, times taken in turns."""

import copy
import csv
import fcntl
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import npexp
from npexp import tables
from npexp.callbacks.seeding import mix
from npexp.metrics import Evaluation
from npexp.models.base import NeuralProcess
from npexp.module import ADAPT_BATCHES
from npexp.objectives import OBJECTIVES
from npexp.schedules import WarmupCosine

NPEXP = [sys.executable, "-m", "npexp"]


class Table:
    """A CSV of finished rows: written whole or not at all, also by several processes side by side.

    Args:
        path: the file.
        columns: its columns.
        key: columns that tell rows apart.
    """

    def __init__(self, path: Path, columns: Sequence[str], key: Sequence[str]):
        self.path, self.columns, self.key = path, columns, key

    def rows(self) -> list[dict[str, str]]:
        """The rows so far."""
        return read(self.path) if self.path.exists() else []

    def has(self, **row: Any) -> bool:
        """Whether there is a row with these values in the key's columns."""
        return self._words(row) in map(self._words, self.rows())

    def add(self, row: dict[str, Any]) -> None:
        """Adds a row."""
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            rows = [*self.rows(), row]
            temporary = self.path.with_suffix(f".{os.getpid()}")
            with temporary.open("w", newline="") as file:
                writer = csv.DictWriter(file, self.columns, extrasaction="ignore")
                writer.writeheader()
                writer.writerows(rows)
            temporary.replace(self.path)
        finally:
            os.close(folder)
        print({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items() if k in self.columns}, flush=True)

    def _words(self, row: dict[str, Any]) -> tuple[str, ...]:
        return tuple(str(row[k]) for k in self.key)


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with path.open() as file:
        return list(csv.DictReader(file))


def plus_minus(row: dict[str, str], key: str, digits: int = 3) -> str:
    """A value with its standard error, where that is known; empty where there is no value."""
    return tables.plus_minus(float(row[key]), float(row[f"{key}_sem"]), digits) if row.get(key) else ""


def fit(net: NeuralProcess, data: Any, steps: int, lr: float, seed: int = 0) -> NeuralProcess:
    """Trains a model in place, as `npexp fit` does with Adam and the settings of conf/base.yaml."""
    seen = [data.make_batch("train", i) for i in range(ADAPT_BATCHES)]
    net.train().adapt(torch.cat([torch.cat([b.xc, b.xt], 1).flatten(0, 1) for b in seen]))
    optimizer = torch.optim.Adam(net.parameters(), lr, fused=True)
    schedule = WarmupCosine(optimizer, total_steps=steps)
    for i in range(steps):
        torch.manual_seed(mix(seed, i))
        train_step(net, optimizer, data.make_batch("train", i))
        schedule.step()
    return net.eval()


@torch.inference_mode()
def score(net: NeuralProcess, data: Any, splits: Sequence[str] | None = None) -> dict[str, float]:
    """Scores on the test sets, under the names of `npexp test`."""
    found = {}
    for split in splits or data.test_names:
        scores = Evaluation(energy=False)
        for batch in data.eval_batches(split):
            scores.update(net(batch.xc, batch.yc, batch.xt, batch.mask_c, batch.mask_t), batch)
        found |= {f"{split}/{key}": value for key, value in scores.compute().items()}
    return found


def by_command(
    words: Sequence[str], steps: int | None, seed: int, test_batches: int | None, lr: float | None = None
) -> tuple[NeuralProcess, dict[str, Any]]:
    """The model that `npexp fit` trains with these words, after its last step, and what `npexp test` finds.

    Steps and learning rate are the recipe's own unless given, and so are the test batches.
    """
    with tempfile.TemporaryDirectory() as runs:
        both = [f"--runs_dir={runs}", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
        fit = [*words, f"--seed_everything={seed}"]
        fit += [] if steps is None else [f"--trainer.max_steps={steps}", f"--trainer.val_check_interval={steps}"]
        fit += [] if lr is None else [f"--model.optimizer.init_args.lr={lr}"]
        _run(*NPEXP, "fit", *fit, *both, "--name=run", "--figures.num_tasks=0")
        test = [f"--ckpt_path={runs}/run/0", "--model.energy_score=false"]
        test += [] if test_batches is None else [f"--data.num_test_batches={test_batches}"]
        _run(*NPEXP, "test", *test, *both)
        found = json.loads((Path(runs) / "run" / "0" / "test_metrics.json").read_text())
        return npexp.load_predictor(f"{runs}/run").model, found


def step_seconds(nets: Sequence[NeuralProcess], data: Any, rounds: int = 12, steps: int = 6) -> list[float]:
    """Processor time of a training step of each model: medians over rounds in which they take turns."""
    nets = [copy.deepcopy(net).train() for net in nets]
    takers = [(net, torch.optim.Adam(net.parameters(), 1e-6, fused=True)) for net in nets]
    batches = itertools.cycle(data.make_batch("train", i) for i in range(24))
    times: list[list[float]] = [[] for _ in nets]
    for _ in range(rounds):
        for taken, (net, optimizer) in zip(times, takers, strict=True):
            start = time.process_time()
            for batch in itertools.islice(batches, steps):
                train_step(net, optimizer, batch)
            taken.append((time.process_time() - start) / steps)
    return [statistics.median(taken) for taken in times]


def train_step(net: NeuralProcess, optimizer: torch.optim.Optimizer, batch: npexp.TaskBatch) -> None:
    """A step of maximum likelihood, with the gradient clipped as conf/base.yaml says."""
    loss = OBJECTIVES["loglik"](net, batch, 1).total
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    optimizer.step()


def _run(*command: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=Path(__file__).parents[1])
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr[-3000:]}")
