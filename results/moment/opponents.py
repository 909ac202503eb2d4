"""Fair opponents of RMNP on 1-D RBF: attention, a Bayesian last layer, and GPs fitted to each task.

    OMP_NUM_THREADS=1 python results/moment/opponents.py [--steps 5000] [--lr LR] [--only NAME ...] [--table FILE]

Writes opponents.csv beside this file. Every model gets the same steps of the same tasks, with its recipe's learning
rate, or with `--lr` another one (rows are told apart by it). All are tested after their last step, on 3,008 tasks per
law. The fitted GPs need no training: they are tested on `--gp_batches` batches, 47 by default, under `steps` 0, and
the time of a step is that of fitting a batch. Rows that are there are kept.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import gp_fit
import torch
from alpaca import ALPaCA
from train import HERE, LR, Table, by_command, fit, row, score, step_seconds

import npexp
from npexp.metrics import Evaluation

FLOOR = ["--model.net.likelihood.init_args.min_stddev=0.01"]
MIXTURE = ["--model.net.likelihood=npexp.likelihoods.GaussianMixture", *FLOOR]
MIXTURE += ["--model.net.likelihood.init_args.num_components=10"]  # as many as RMNP has, its free one included
TNP = ["--config", "experiment/gp_rbf_tnp"]
WORDS = {
    "rmnp": ["--config", "experiment/gp_rbf_rmnp"],
    "rmnp_joint": ["--config", "experiment/gp_rbf_rmnp_joint"],
    "rmnp_hybrid": ["--config", "experiment/gp_rbf_rmnp_hybrid"],
    "lpnp": ["--config", "experiment/gp_rbf_lpnp"],
    "tnp": TNP,
    "paper/tnpd": [*TNP, "--config", "model/paper/tnpd"],
    "tnp, Fourier features": [*TNP, "--model.net.num_frequencies=32"],
    "tnp, mixture": [*TNP, *MIXTURE],
    "tnp, Fourier features, mixture": [*TNP, "--model.net.num_frequencies=32", *MIXTURE],
}
ALPACA: dict[str, dict[str, Any]] = {
    "alpaca, mlp": {"basis": "mlp", "covariance": "full"},
    "alpaca, fourier": {"basis": "fourier", "covariance": "full"},
    "alpaca, fourier, diagonal": {"basis": "fourier", "covariance": "diagonal"},
    "alpaca, fourier, joint": {"basis": "fourier", "covariance": "full", "law": "joint"},
}
GPS = {"gp, maximum likelihood": None, "gp, noise known": gp_fit.NOISE}


def fitted_gp(data: Any, noise: float | None, starts: int, steps: int) -> tuple[dict[str, float], float]:
    """Scores of GPs fitted task by task, and seconds per batch."""
    found, seconds, count = {}, 0.0, 0
    for split in data.test_names:
        scores = Evaluation(energy=False)
        for i, batch in enumerate(data.eval_batches(split)):
            start = time.process_time()
            law = gp_fit.predict(batch, noise, starts, steps, seed=i)
            seconds, count = seconds + time.process_time() - start, count + 1
            scores.update(law, batch)
        found |= {f"{split}/{key}": value for key, value in scores.compute().items()}
    return found, seconds / count


def main() -> None:
    """Fills the table."""
    every = [*WORDS, *ALPACA, *GPS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=every, metavar="NAME", help="these rows")
    parser.add_argument("--steps", type=int, default=5_000)
    parser.add_argument("--lr", type=float, help="instead of the recipes' own")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--test_batches", type=int, default=188, help="of 16 tasks, per law")
    parser.add_argument("--gp_batches", type=int, default=47, help="the same for fitted GPs")
    parser.add_argument("--gp_starts", type=int, default=8)
    parser.add_argument("--gp_steps", type=int, default=150)
    parser.add_argument("--table", type=Path, default=HERE / "opponents.csv")
    args = parser.parse_args()
    torch.set_num_threads(1)
    table = Table(args.table, key=("name", "seed", "steps", "lr"))
    data = npexp.build_data("gp_rbf", num_test_batches=args.test_batches)
    for name in args.only or every:
        lr = args.lr or (5e-4 if "tnp" in name else LR)
        facts = {"seed": args.seed, "steps": args.steps, "lr": lr}
        if name in GPS:
            facts = {"seed": 0, "steps": 0, "lr": 0.1, "parameters": 0}
        if table.has(name=name, **facts):
            continue
        net = None
        if name in GPS:
            some = npexp.build_data("gp_rbf", num_test_batches=args.gp_batches)
            found, own = fitted_gp(some, GPS[name], args.gp_starts, args.gp_steps)
            cnp = step_seconds(npexp.build("cnp", dx=1, dy=1), some)[1]
            facts |= {"seconds_per_step": own, "step_in_cnp_steps": own / cnp}
        elif name in ALPACA:
            torch.manual_seed(args.seed)
            net = fit(ALPaCA(1, 1, **ALPACA[name]), data, args.steps, lr, args.seed)
            found = score(net, data)
        else:
            net, found = by_command(WORDS[name], args.steps, args.seed, args.test_batches, lr)
        table.add(row(name, found, net, data, **facts))


if __name__ == "__main__":
    main()
