"""From the contexts of training to a million points: log-likelihood, time and memory of a prediction.

    OMP_NUM_THREADS=1 python results/scale/run.py [--models NAME ...] [--sizes N ...] [--seconds 20]

The data of conf/data/gp_long.yaml, on a quarter of its range and with a quarter of its points, which is as dense:
Matérn-3/2 functions on [-1, 1] with noise 0.1, 16 to 128 context points and 32 targets in training, drawn exactly. The
exact log-likelihood of each test task, however long, comes from a Kalman filter. Each model is trained for `--seconds`
of processor time, in as many steps as fit by timings in turns, with its cosine over just these; its weights go to
`--runs`, so that an interrupted run goes on.

Adds a row for each model and size to scale.csv beside this file, measured in a process of its own on one thread:
processor time of conditioning and predicting 128 targets, the median over tasks, and by how much this raises the peak
of memory above model and data. Models with exact updates read the context in chunks, the others at once. A prediction
may take 60 s and 4 GiB; a model that needs more says so, and is not asked for larger contexts, as dense attention is
not for more than 10,000 points. Rows that are there are kept.
"""

import argparse
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

import npexp
from npexp import fresh
from npexp.likelihoods import Predictive
from npexp.memory import peak_memory, reset_peak_memory
from npexp.models.base import NeuralProcess

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent))
from shared import Table, fit, step_seconds  # noqa: E402

KEY = ["model", "context", "seed", "train_seconds"]
COLUMNS = [
    *KEY,
    "steps",
    "spent_seconds",
    "parameters",
    "tasks",
    "loglik",
    "loglik_sem",
    "gap",
    "gap_sem",
    "exact",
    "seconds",
]
COLUMNS += ["peak_mib", "why_not"]
LAYERS = {"num_layers": 3}  # half the default, twice the steps
MODELS: dict[str, tuple[dict[str, Any], float]] = {  # settings besides the defaults, and learning rates of conf/
    "rmnp": ({}, 1e-3),
    "cnp": ({}, 5e-4),
    "cmanp": (LAYERS | {"location_range": 1.0}, 5e-4),
    "linear_tnp": (LAYERS, 5e-4),
    "lbanp": (LAYERS, 5e-4),
    "tnp": (LAYERS, 5e-4),
}
DENSE = {"tnp": 10_000}  # largest contexts that models of quadratic cost are asked for
TASKS = {128: 64, 1_000: 64, 10_000: 16, 100_000: 4, 1_000_000: 4}
BATCH, CHUNK, FEW = 4, 4096, 32  # tasks of an evaluation batch, points read at once, points of the first prediction
MOST_SECONDS, MOST_BYTES, PATIENCE = 60.0, 4 << 30, 1200.0
CPU = torch.device("cpu")


def data(context: int | None = None) -> Any:
    """The tasks of training, or test tasks with so much context."""
    part = {"input_range": (-1.0, 1.0), "num_context": (16, 128), "num_target": (32, 32)}
    if context is None:
        return npexp.build_data("gp_long", **part)
    longer = {"num_target": (128, 128), "test_contexts": {"long": context}, "batch_size": BATCH}
    return npexp.build_data("gp_long", **part | longer, num_test_batches=TASKS[context] // BATCH)


def untrained(name: str, seed: int) -> NeuralProcess:
    """A model with the weights it starts from."""
    torch.manual_seed(seed)
    return npexp.build(name, dx=1, dy=1, **MODELS[name][0])


def train(names: list[str], seconds: float, seed: int, folder: Path) -> None:
    """Trains the models that have no weights in the folder yet."""
    left = [name for name in names if not (folder / f"{name}_{seed}_{seconds:g}.pt").exists()]
    if not left:
        return
    folder.mkdir(parents=True, exist_ok=True)
    source = data()
    taken = dict(zip(left, step_seconds([untrained(n, seed) for n in left], source, rounds=3, steps=2), strict=True))
    for name in left:
        net, steps = untrained(name, seed), max(1, int(seconds / taken[name]))
        start = time.process_time()
        fit(net, source, steps, MODELS[name][1], seed)
        spent = time.process_time() - start
        print(f"{name}: {steps} steps in {spent:.0f} s", flush=True)
        torch.save(
            {"weights": net.state_dict(), "steps": steps, "spent_seconds": spent},
            folder / f"{name}_{seed}_{seconds:g}.pt",
        )


def answer(predictor: npexp.Predictor, x: torch.Tensor, y: torch.Tensor, xt: torch.Tensor) -> Predictive:
    """The law of one task's targets, all of its context taken in first."""
    if predictor.model.traits["update"] != "exact":
        return predictor.predict(predictor.condition(x, y), xt)
    chunks = zip(x.split(CHUNK, 1), y.split(CHUNK, 1), strict=True)
    return predictor.predict(predictor.condition(chunks), xt)


@torch.inference_mode()
def measure(name: str, context: int, seed: int, weights: str) -> dict[str, Any]:
    """A row: scores over the test tasks, time and memory of a prediction. Alone in its process."""
    torch.set_num_threads(1)
    net, kept = untrained(name, seed), torch.load(weights, weights_only=True)
    net.load_state_dict(kept["weights"])
    predictor, found, gaps, exact, times = npexp.Predictor(net), [], [], [], []
    peak = 0
    for batch in data(context).eval_batches("test_long"):
        for i in range(BATCH):
            xc, yc, xt, yt = (v[i : i + 1] for v in batch[:4])
            if not times:  # whatever is loaded or made once is none of the context's
                answer(predictor, xc[:, :FEW], yc[:, :FEW], xt)
                reset_peak_memory(CPU)
                peak = -peak_memory(CPU)
            start = time.process_time()
            law = answer(predictor, xc, yc, xt)
            times.append(time.process_time() - start)
            peak += peak_memory(CPU) if peak < 0 else 0
            if times[0] > MOST_SECONDS:
                return {"why_not": f"more than {MOST_SECONDS:g} s"}
            found.append(law.marginal_log_prob(yt).mean().item())
            exact.append(batch.oracle_marginal[i].mean().item())
            gaps.append(exact[-1] - found[-1])
    sem = lambda values: statistics.stdev(values) / len(values) ** 0.5  # noqa: E731
    return {
        "steps": kept["steps"],
        "spent_seconds": kept["spent_seconds"],
        "parameters": sum(p.numel() for p in net.parameters()),
        "tasks": len(found),
        **{"loglik": statistics.mean(found), "loglik_sem": sem(found)},
        **{"gap": statistics.mean(gaps), "gap_sem": sem(gaps), "exact": statistics.mean(exact)},
        **{"seconds": statistics.median(times), "peak_mib": peak / 2**20},
    }


def main() -> None:
    """Trains what is untrained, then fills the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--sizes", nargs="+", type=int, choices=TASKS, default=list(TASKS))
    parser.add_argument("--seconds", type=float, default=20.0, help="of training, per model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=Path, default=Path("runs/scale"), help="where weights are kept")
    parser.add_argument("--table", type=Path, default=HERE / "scale.csv")
    args = parser.parse_args()
    torch.set_num_threads(1)
    train(args.models, args.seconds, args.seed, args.runs)
    os.environ["PYTHONPATH"] = str(HERE)  # where the processes of their own find this file
    table, hopeless = Table(args.table, COLUMNS, KEY), {}
    for size in sorted(args.sizes):
        data(size).eval_batches("test_long")  # made once, for all of them
        for name in (n for n in args.models if size <= DENSE.get(n, size)):
            row = {"model": name, "context": size, "seed": args.seed, "train_seconds": args.seconds}
            if name in hopeless:
                row["why_not"] = hopeless[name]
            if not table.has(**row):
                weights = str(args.runs / f"{name}_{args.seed}_{args.seconds:g}.pt")
                call = ("run:measure", name, size, args.seed, weights)
                done = fresh.call(*call, timeout=PATIENCE, memory=MOST_BYTES, threads=1)
                said = f"{done.status}: {done.why}" if done.status == fresh.FAILED else done.status
                table.add(row | (done.value if done.status == fresh.OK else {"why_not": said}))
            why = next(r["why_not"] for r in table.rows() if all(r[k] == str(row[k]) for k in KEY))
            if why and name not in hopeless:
                hopeless[name] = f"not asked, {why} at {size:,}"


if __name__ == "__main__":
    main()
