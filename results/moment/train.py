"""Training and scoring for the scripts of this folder, which import it: by the command line, or a model object at hand.

`by_command` runs `npexp fit` and `npexp test`. `fit` and `score` do the same to a model that no configuration can
describe: the same tasks, weights, schedule and clipping, so that both give the same numbers
(`python results/moment/train.py` trains 20 steps in both ways and compares).
"""

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
from npexp.callbacks.seeding import mix
from npexp.metrics import Evaluation
from npexp.models.base import NeuralProcess
from npexp.module import ADAPT_BATCHES
from npexp.objectives import OBJECTIVES
from npexp.schedules import WarmupCosine

HERE = Path(__file__).parent
NPEXP = [sys.executable, "-m", "npexp"]
LR = 1e-3  # of conf/experiment/gp_rbf_rmnp.yaml
COLUMNS = ["name", "seed", "lr", "steps", "parameters", "loglik_marginal", "loglik_marginal_sem"]
COLUMNS += ["oracle_gap_marginal", "oracle_gap_marginal_sem", "loglik_joint", "loglik_joint_sem"]
COLUMNS += ["oracle_gap_joint", "oracle_gap_joint_sem", "matern52", "matern52_sem", "periodic", "periodic_sem"]
COLUMNS += ["seconds_per_step", "step_in_cnp_steps"]


class Table:
    """A CSV of finished rows: written whole or not at all, also by several processes side by side.

    Args:
        path: the file.
        columns: its columns.
        key: columns that tell rows apart.
    """

    def __init__(self, path: Path, columns: Sequence[str] = COLUMNS, key: Sequence[str] = ("name", "seed", "steps")):
        self.path, self.columns, self.key = path, columns, key

    def rows(self) -> list[dict[str, str]]:
        """The rows so far."""
        return list(csv.DictReader(self.path.open())) if self.path.exists() else []

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


def by_command(
    words: Sequence[str], steps: int, seed: int, test_batches: int | None, lr: float | None = None
) -> tuple[NeuralProcess, dict[str, Any]]:
    """The model that `npexp fit` trains with these words, after its last step, and what `npexp test` finds."""
    with tempfile.TemporaryDirectory() as runs:
        shared = [f"--runs_dir={runs}", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
        fit = [
            *words,
            f"--trainer.max_steps={steps}",
            f"--trainer.val_check_interval={steps}",
            f"--seed_everything={seed}",
        ]
        fit += [] if lr is None else [f"--model.optimizer.init_args.lr={lr}"]
        _run(*NPEXP, "fit", *fit, *shared, "--name=run", "--figures.num_tasks=0")
        test = [f"--ckpt_path={runs}/run/0", "--model.energy_score=false"]
        test += [] if test_batches is None else [f"--data.num_test_batches={test_batches}"]
        _run(*NPEXP, "test", *test, *shared)
        found = json.loads((Path(runs) / "run" / "0" / "test_metrics.json").read_text())
        return npexp.load_predictor(f"{runs}/run").model, found


def fit(net: NeuralProcess, data: Any, steps: int, lr: float = LR, seed: int = 0) -> NeuralProcess:
    """Trains a model in place, as `npexp fit` does with Adam and the settings of conf/base.yaml."""
    seen = [data.make_batch("train", i) for i in range(ADAPT_BATCHES)]
    net.train().adapt(torch.cat([torch.cat([b.xc, b.xt], 1).flatten(0, 1) for b in seen]))
    optimizer = torch.optim.Adam(net.parameters(), lr, fused=True)
    schedule = WarmupCosine(optimizer, total_steps=steps)
    for i in range(steps):
        torch.manual_seed(mix(seed, i, i % data.steps_per_epoch, 0))
        _step(net, optimizer, data.make_batch("train", i))
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


def row(name: str, found: dict[str, Any], net: NeuralProcess | None, data: Any, **facts: Any) -> dict[str, Any]:
    """A row of the table, with the time of a training step of the trained model where there is one."""
    values = {key: found.get(f"test/{key}", "") for key in COLUMNS}
    for split in ("matern52", "periodic"):
        for end in ("", "_sem"):
            values[f"{split}{end}"] = found.get(f"test_{split}/loglik_marginal{end}", "")
    if net is not None:
        own, cnp = step_seconds(net, data)
        values |= {"seconds_per_step": own, "step_in_cnp_steps": own / cnp}
        values["parameters"] = sum(p.numel() for p in net.parameters())
    return values | {"name": name} | facts


def step_seconds(net: NeuralProcess, data: Any, rounds: int = 12, steps: int = 6) -> tuple[float, float]:
    """Processor time of a training step of the model and of a CNP: medians over rounds in which they take turns."""
    nets = {"own": copy.deepcopy(net), "cnp": npexp.build("cnp", dx=data.dx, dy=data.dy)}
    takers = {key: (n.train(), torch.optim.Adam(n.parameters(), 1e-6, fused=True)) for key, n in nets.items()}
    batches = itertools.cycle(data.make_batch("train", i) for i in range(24))
    times: dict[str, list[float]] = {key: [] for key in takers}
    for _ in range(rounds):
        for key, (model, optimizer) in takers.items():
            start = time.process_time()
            for batch in itertools.islice(batches, steps):
                _step(model, optimizer, batch)
            times[key].append((time.process_time() - start) / steps)
    return statistics.median(times["own"]), statistics.median(times["cnp"])


def _step(net: NeuralProcess, optimizer: torch.optim.Optimizer, batch: npexp.TaskBatch) -> None:
    loss = OBJECTIVES["loglik"](net, batch, 1).total
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    optimizer.step()


def _run(*command: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=HERE.parents[1])
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr[-3000:]}")


def main() -> None:
    """Compares the two ways."""
    torch.set_num_threads(1)
    _, told = by_command(["--config", "experiment/gp_rbf_rmnp"], steps=20, seed=0, test_batches=8)
    data = npexp.build_data("gp_rbf", num_test_batches=8)
    torch.manual_seed(0)
    found = score(fit(npexp.build("rmnp", dx=1, dy=1), data, steps=20), data)
    worst = max(abs(value - told[key]) for key, value in found.items() if key.endswith(("loglik_joint", "_marginal")))
    print(f"largest difference between the command line and this script: {worst:.2g} nats")


if __name__ == "__main__":
    main()
