"""How long it takes to add 10 points to what 32,768 left behind, and to answer 256 targets then: one thread.

    OMP_NUM_THREADS=1 python results/moment/latency.py [--rounds 60] [--models NAME ...] [--table FILE]

Writes latency.csv beside this file: medians over rounds in which the models take turns, in milliseconds of processor
time, so that other work on the machine counts for all alike. `model` is the bare model under `torch.inference_mode`,
`Predictor` what users call, with its checks and, where points can be removed, its states in float64. `of_cmanp` is the
total over that of the default `cmanp` the same way. Weights do not matter for the time: the models are untrained.
"""

import argparse
import statistics
import time
from collections import defaultdict
from pathlib import Path

import torch
from sizes import state_bytes
from train import HERE, Table

import npexp

COLUMNS = ["model", "through", "state_bytes", "update_ms", "predict_ms", "total_ms", "of_cmanp", "rounds"]
MODELS = ["rmnp", "rmnp_joint", "rmnp_hybrid", "lpnp", "cmanp", "paper/cmanp"]
POINTS, NEW, TARGETS, WARM_UP = 32_768, 10, 256, 3


def main() -> None:
    """Writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--table", type=Path, default=HERE / "latency.csv")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x = 4 * torch.rand(1, POINTS + NEW, 1) - 2
    y, xt = (3 * x).sin(), 4 * torch.rand(1, TARGETS, 1) - 2
    contestants = {}
    for name in dict.fromkeys([*args.models, "cmanp"]):
        model = npexp.build(name, dx=1, dy=1).eval()
        predictor = npexp.Predictor(model)
        with torch.inference_mode():
            contestants[name, "model"] = model, model.encode(x[:, :POINTS], y[:, :POINTS])
            contestants[name, "Predictor"] = predictor, predictor.condition(x[:, :POINTS], y[:, :POINTS])
    times = defaultdict(list)
    for i in range(args.rounds + WARM_UP):
        for key, (verbs, state) in contestants.items():
            with torch.inference_mode():
                start = time.process_time()
                after = verbs.update(state, x[:, POINTS:], y[:, POINTS:])
                middle = time.process_time()
                law = verbs.predict(after, xt)
                _ = law.mean, law.stddev
                end = time.process_time()
            if i >= WARM_UP:
                times[key].append((middle - start, end - middle))
    totals = {key: statistics.median(map(sum, taken)) for key, taken in times.items()}
    args.table.unlink(missing_ok=True)  # one run is one comparison
    table = Table(args.table, COLUMNS)
    for (name, through), taken in times.items():
        update, predict = (1e3 * statistics.median(part) for part in zip(*taken, strict=True))
        total = totals[name, through]
        row = {"model": name, "through": through, "update_ms": update, "predict_ms": predict, "total_ms": 1e3 * total}
        size = state_bytes(contestants[name, through][1])
        ratio = total / totals["cmanp", through]
        table.add(row | {"state_bytes": size, "of_cmanp": ratio, "rounds": args.rounds})


if __name__ == "__main__":
    main()
