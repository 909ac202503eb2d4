"""Epidemics: trained on 64 x 64 cells, tested there, on 256 x 256 and on 1024 x 1024 of which 100,000 are context.

    OMP_NUM_THREADS=1 python results/sir/run.py [--only NAME ...] [--seconds 600] [--fields 4]

Adds rows to sir.csv beside this file: log-likelihoods in nats per target cell, and what prediction takes in a process
of its own: processor seconds per lattice, and peak memory beyond that of the tasks and the model. Each model is trained
for `--seconds` of processor time, in as many steps as fit by timings in turns, with its cosine over just these; its
weights go to `--runs`, so that an interrupted run goes on. Rows that are there are kept.

Located models know the square they were trained on and refuse inputs further out (`DataError`). So all models predict
larger lattices in windows of 64 x 64 cells that overlap: each window's context is conditioned on by itself, as if it
lay at the origin, and its inner cells are predicted, with `--halo` cells around them to look at. Memory is that of
a few windows, whatever the lattice.

Baselines: `share`, the share of each state in the context; `nearest`, its share among the k nearest context cells and
w cells of the former, k and w chosen on validation tasks. On large lattices they see the whole context.
"""

import argparse
import itertools
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from scipy.spatial import cKDTree

import npexp
from datamodules import SIR
from datamodules.epidemic import CELLS_PER_UNIT
from npexp.batch import pad_points
from npexp.config import conf_dir
from npexp.likelihoods import Categorical
from npexp.memory import peak_memory, reset_peak_memory
from npexp.models.base import NeuralProcess

sys.path.append(str(Path(__file__).parents[1]))
from shared import Table, fit, step_seconds

HERE = Path(__file__).parent
CPU = torch.device("cpu")
SIDE = 64  # of the lattices trained on, and of windows
MODELS = {"rmnp_hybrid": 1e-3, "convcnp": 1e-3, "tnp": 5e-4}  # with learning rates; tnp as conf/model has it
COLUMNS = ["side", "model", "seed", "steps", "parameters", "tasks", "loglik", "loglik_sem", "seconds_per_task"]
COLUMNS += ["peak_memory_mb", "settings"]
COUNTS, WEIGHTS = (1, 2, 4, 8, 16), (0.1, 0.3, 1.0, 3.0)  # of `nearest`
Law = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], np.ndarray]


def share(xc: torch.Tensor, yc: torch.Tensor, xt: torch.Tensor) -> np.ndarray:
    """Share of each state in the context `[nc, 1]`, a cell of each added, for every target `[nt, 3]`."""
    counts = 1 + np.bincount(yc[:, 0].long().numpy(), minlength=3)
    return np.tile(counts / counts.sum(), (len(xt), 1))


def nearest(k: int, weight: float) -> Law:
    """Share of each state among the k nearest context cells and `weight` cells of the whole context's shares."""

    def law(xc: torch.Tensor, yc: torch.Tensor, xt: torch.Tensor) -> np.ndarray:
        _, found = cKDTree(xc.numpy()).query(xt.numpy(), k)
        states = yc[:, 0].long().numpy()[found.reshape(len(xt), k)]
        counts = (states[..., None] == np.arange(3)).sum(1)
        return (counts + weight * share(xc, yc, xt)) / (k + weight)

    return law


def judge(law: Law, batch: npexp.TaskBatch) -> float:
    """Log-likelihood of a baseline per target: its mean over the tasks of a batch."""
    found = []
    for xc, yc, xt, yt in zip(*batch[:4], strict=True):
        found.append(float(np.log(law(xc, yc, xt)[np.arange(len(yt)), yt[:, 0].long().numpy()]).mean()))
    return statistics.mean(found)


def tuned(batches: list[npexp.TaskBatch]) -> tuple[int, float]:
    """k and weight of `nearest` with the best score on these tasks."""
    choices = [(k, weight) for k in COUNTS for weight in WEIGHTS]
    return max(choices, key=lambda choice: statistics.mean(judge(nearest(*choice), batch) for batch in batches))


def build(name: str) -> NeuralProcess:
    """A model as its recipe has it."""
    recipe = conf_dir() / f"experiment/sir_{name}.yaml"
    given = yaml.safe_load(recipe.read_text())["model"]["net"]["init_args"] if recipe.exists() else {}
    return npexp.build(name, dx=2, dy=1, **given | {"likelihood": Categorical(3)})


def windows(batch: npexp.TaskBatch, halo: int) -> Iterator[tuple[torch.Tensor, ...]]:
    """Pieces xc, yc, xt, yt of a large lattice: its targets, each once, with what of the context is near.

    Args:
        batch: a whole lattice, `b` = 1, each cell in the context or a target.
        halo: cells between the targets of a window and its ends, unless these are ends of the lattice.
    """
    x, y = torch.cat([batch.xc, batch.xt], 1)[0].numpy(), torch.cat([batch.yc, batch.yt], 1)[0].numpy()
    side = round(len(x) ** 0.5)
    row, column = (x * CELLS_PER_UNIT + (side - 1) / 2).astype(int).T
    state, seen = np.empty((side, side), np.float32), np.zeros((side, side), bool)
    state[row, column], core = y[:, 0], SIDE - 2 * halo
    seen[row[: batch.xc.shape[1]], column[: batch.xc.shape[1]]] = True
    for top in range(0, side, core):
        for left in range(0, side, core):
            first = [min(max(at - halo, 0), side - SIDE) for at in (top, left)]
            window = np.s_[first[0] : first[0] + SIDE, first[1] : first[1] + SIDE]
            inner = np.zeros((SIDE, SIDE), bool)
            row, column = top - first[0], left - first[1]
            inner[row : row + core, column : column + core] = True
            piece = []
            for chosen in (seen[window], inner & ~seen[window]):
                piece.append((np.argwhere(chosen) - (SIDE - 1) / 2) / CELLS_PER_UNIT)
                piece.append(state[window][chosen][:, None])
            yield tuple(torch.from_numpy(part.astype(np.float32)) for part in piece)


@torch.inference_mode()
def scale_up(net: NeuralProcess, batch: npexp.TaskBatch, halo: int, at_once: int) -> float:
    """Log-likelihood per target of a large lattice, `at_once` windows at a time."""
    pieces, total, count = windows(batch, halo), 0.0, 0
    while taken := list(itertools.islice(pieces, at_once)):
        (xc, mask_c), (yc, _), (xt, mask_t), (yt, _) = (pad_points(list(part)) for part in zip(*taken, strict=True))
        found = net(xc, yc, xt, mask_c, mask_t).marginal_log_prob(yt)
        real = torch.ones_like(found, dtype=torch.bool) if mask_t is None else mask_t
        total, count = total + float(found[real].double().sum()), count + int(real.sum())
    return total / count


@torch.inference_mode()
def predicted(net: NeuralProcess, batch: npexp.TaskBatch) -> float:
    """Log-likelihood per target of small lattices, mean over tasks."""
    return float(net(*batch[:3]).marginal_log_prob(batch.yt).double().mean())


def tasks(args: argparse.Namespace) -> SIR:
    """The data."""
    counts = {"num_val_batches": args.val_batches, "num_test_batches": args.test_batches, "num_large": args.fields}
    return npexp.build_data("sir", test_sides=args.sides, **counts)


def measure(args: argparse.Namespace, side: int, name: str, given: Any) -> dict[str, float]:
    """Scores of a predictor on one test set, the time that it takes and the memory.

    Batches are equal in size and independent; their tasks share epidemics.

    Args:
        args: of the command line.
        side: of the lattices.
        name: of a baseline or a model.
        given: k and weight of `nearest`, the file of a model's weights, or None.
    """
    torch.set_num_threads(1)
    batches = tasks(args).eval_batches("test" if side == SIDE else f"test_{side}")
    if name in MODELS:
        net = build(name)
        net.load_state_dict(torch.load(given, weights_only=True)["weights"])
        net.eval()
        score = (
            partial(predicted, net) if side == SIDE else partial(scale_up, net, halo=args.halo, at_once=args.at_once)
        )
    else:
        score = partial(judge, nearest(*given) if name == "nearest" else share)
    reset_peak_memory(CPU)
    before, start = peak_memory(CPU), time.process_time()
    found = [score(batch) for batch in batches]
    num = sum(batch.num_tasks for batch in batches)
    row = {"tasks": num, "loglik": statistics.mean(found), "seconds_per_task": (time.process_time() - start) / num}
    row["loglik_sem"] = statistics.stdev(found) / len(found) ** 0.5 if len(found) > 1 else float("nan")
    return row | {"peak_memory_mb": (peak_memory(CPU) - before) / 2**20}


def measured(*given: Any) -> dict[str, float]:
    """`measure` in a process of its own: a peak of memory is one of the process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, given)


def trained(name: str, data: SIR, args: argparse.Namespace) -> Path:
    """The file with a model's weights and number of steps; trains it where there is none."""
    path = args.runs / f"{name}_{args.seed}_{args.seconds:g}.pt"
    if path.exists():
        return path
    torch.manual_seed(args.seed)
    net, seen = build(name), data.make_batch("train", 0)
    fresh = [build(other) for other in MODELS]  # of which all are timed in turns, so that the machine treats them alike
    for other in fresh:
        other.adapt(seen.xt.flatten(0, 1))
    taken = dict(zip(MODELS, step_seconds(fresh, data, rounds=3, steps=2), strict=True))
    steps = max(1, int(args.seconds / taken[name]))
    fit(net, data, steps, MODELS[name], args.seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"weights": net.state_dict(), "steps": steps}, path)
    return path


def baselines(table: Table, data: SIR, args: argparse.Namespace) -> None:
    """Rows of `share` and `nearest` that are not there."""
    choice = None
    for side, name in itertools.product((SIDE, *args.sides), ("share", "nearest")):
        facts = {"side": side, "model": name, "seed": 0}
        if table.has(**facts):
            continue
        if name == "nearest":
            choice = choice or tuned(data.eval_batches("val"))
            table.add(facts | measured(args, side, name, choice) | {"settings": f"k={choice[0]} w={choice[1]}"})
        else:
            table.add(facts | measured(args, side, name, None))


def model(name: str, table: Table, data: SIR, args: argparse.Namespace) -> None:
    """Rows of a model that are not there."""
    for side in (SIDE, *args.sides):
        facts = {"side": side, "model": name, "seed": args.seed}
        if table.has(**facts):
            continue
        path = trained(name, data, args)
        kept = torch.load(path, weights_only=True)
        facts |= {"steps": kept["steps"], "parameters": sum(p.numel() for p in build(name).parameters())}
        facts["settings"] = "" if side == SIDE else f"windows of {SIDE}, halo {args.halo}"
        table.add(facts | measured(args, side, name, path))


def main() -> None:
    """Fills the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=MODELS, metavar="NAME", help="these models")
    parser.add_argument("--seconds", type=float, default=600.0, help="of training, per model")
    parser.add_argument("--sides", nargs="+", type=int, default=[256, 1024], help="of the larger lattices")
    parser.add_argument("--fields", type=int, default=4, help="lattices of each of these sizes")
    parser.add_argument(
        "--halo",
        type=int,
        default=8,
        choices=range(SIDE // 2),
        metavar="CELLS",
        help="cells around the targets of a window",
    )
    parser.add_argument("--at_once", type=int, default=4, help="windows predicted together")
    parser.add_argument("--val_batches", type=int, default=16, help="on which `nearest` is tuned")
    parser.add_argument("--test_batches", type=int, default=188, help="of 16 tasks")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=Path, default=Path("runs/sir"), help="folder of the weights")
    parser.add_argument("--table", type=Path, default=HERE / "sir.csv")
    args = parser.parse_args()
    if min(args.sides) <= SIDE:
        parser.error(f"expected --sides above {SIDE}, got {min(args.sides)}: these are the larger lattices")
    torch.set_num_threads(1)
    table = Table(args.table, COLUMNS, key=("side", "model", "seed"))
    data = tasks(args)
    for split in data.eval_names:
        data.eval_batches(split)  # once, for all processes
    baselines(table, data, args)
    for name in args.only or MODELS:
        model(name, table, data, args)


if __name__ == "__main__":
    main()
