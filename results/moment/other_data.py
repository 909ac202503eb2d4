"""RMNP and its hybrid against TNP-D beyond 1-D Gaussian processes, at equal computing time.

    OMP_NUM_THREADS=1 python results/moment/other_data.py [--only NAME ...] [--seconds 150] [--table FILE]

Writes other_data.csv beside this file. For each data set the training steps of both recipes, DATA_tnp and DATA_rmnp or
DATA_rmnp_hybrid of `conf/experiment`, are timed in turns. Each is then trained for as many steps as fit into
`--seconds` of processor time by these timings, with its cosine over just these, and tested after the last. Rows that
are there are kept.
"""

import argparse
import itertools
import statistics
import sys
import time
from pathlib import Path

import torch
from train import HERE, Table, by_command

from npexp.config import expand
from npexp.objectives import OBJECTIVES
from npexp.training_cli import make_cli

OURS = {"sawtooth": "rmnp_hybrid", "shapes": "rmnp_hybrid", "digits": "rmnp_hybrid", "co2": "rmnp_hybrid"}
OURS |= {"gp_rbf_2d": "rmnp", "gp_rbf_3d": "rmnp", "gp_rbf_2out": "rmnp"}
TEST_BATCHES = {"sawtooth": 188, "shapes": 188, "gp_rbf_2d": 94, "gp_rbf_3d": 94, "gp_rbf_2out": 94}
COLUMNS = ["data", "model", "seed", "parameters", "steps", "seconds_per_step", "test_set"]
COLUMNS += [f"{key}{end}" for key in ("loglik_joint", "loglik_marginal", "oracle_gap_marginal") for end in ("", "_sem")]


def costs(experiments: list[str], rounds: int = 8, steps: int = 4) -> list[float]:
    """Processor seconds of a training step of each: medians over rounds in which they take turns."""
    takers, times = [], [[] for _ in experiments]
    sys.argv = sys.argv[:1]  # or Lightning warns of two sources of arguments
    for name in experiments:
        layers = expand(["base", f"experiment/{name}"])
        cli = make_cli(run=False, args=[word for path in layers for word in ("--config", str(path))])
        batches = itertools.cycle([cli.datamodule.make_batch("train", i) for i in range(12)])
        takers.append((cli.model, torch.optim.Adam(cli.model.net.parameters(), 1e-6, fused=True), batches))
    for _ in range(rounds):
        for (module, optimizer, batches), found in zip(takers, times, strict=True):
            start = time.process_time()
            for batch in itertools.islice(batches, steps):
                loss = OBJECTIVES[module.objective](module.net, batch, module.num_samples, module.include_context).total
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(module.net.parameters(), 1.0)
                optimizer.step()
            found.append((time.process_time() - start) / steps)
    return [statistics.median(found) for found in times]


def main() -> None:
    """Fills the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=OURS, metavar="NAME", help="these data sets")
    parser.add_argument("--seconds", type=float, default=150.0, help="of training, per model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", type=Path, default=HERE / "other_data.csv")
    args = parser.parse_args()
    torch.set_num_threads(1)
    table = Table(args.table, COLUMNS, key=("data", "model", "seed"))
    for data in args.only or OURS:
        models = [name for name in (OURS[data], "tnp") if not table.has(data=data, model=name, seed=args.seed)]
        if not models:
            continue
        taken = dict(zip((OURS[data], "tnp"), costs([f"{data}_{OURS[data]}", f"{data}_tnp"]), strict=True))
        for model in models:
            steps = int(args.seconds / taken[model])
            words = ["--config", f"experiment/{data}_{model}"]
            net, found = by_command(words, steps, args.seed, TEST_BATCHES.get(data))
            facts = {"data": data, "model": model, "seed": args.seed, "steps": steps, "seconds_per_step": taken[model]}
            facts["parameters"] = sum(p.numel() for p in net.parameters())
            sets = sorted({key.partition("/")[0] for key in found if "/loglik_joint" in key})
            for test_set in sets:
                scores = {c: found.get(f"{test_set}/{c}", "") for c in COLUMNS}
                table.add({**scores, **facts, "test_set": test_set})


if __name__ == "__main__":
    main()
