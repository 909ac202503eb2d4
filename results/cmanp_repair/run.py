"""What repairs CMANP, at equal bytes of state: one row per lever, on 1-D RBF functions.

    OMP_NUM_THREADS=1 python results/cmanp_repair/run.py [--only NAME ...] [--steps 2000] [--seed 0] [--table FILE]
    OMP_NUM_THREADS=1 python results/cmanp_repair/run.py --lrs 5e-4 1e-3 2e-3 --only places repaired --steps 300

The first trains and tests rows and writes repair.csv beside this file, the second scores learning rates on validation
tasks and writes lr.csv. Rows that are there are kept, so a run can be stopped and started again.

Models are two blocks of 64 numbers per token. A state is what float32 models keep without gradients, in bytes: pools in
float64, the carried latents in float32. Latents are as many as make all states about as large, where a row does not say
otherwise; so are features and places of the models without attention to the context.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import npexp
from npexp.likelihoods import Gaussian
from npexp.models import CMANP
from npexp.models.base import NeuralProcess
from npexp.ops.tree import nbytes

sys.path.append(str(Path(__file__).parents[1]))
from shared import Table, fit, score

HERE = Path(__file__).parent
LR = 1e-3  # see lr.csv
PLACES = {"location_range": 2.0}
BOTH = {**PLACES, "offsets": True}
RIDGE = {"num_features": 48, "num_latents": 10, "num_block_latents": 10}
READ = {**RIDGE, "likelihood": Gaussian(min_stddev=0.01)}
SETTINGS: dict[str, dict[str, Any]] = {  # of CMANP, what matters most first
    "as published": {},
    "places": PLACES,
    "repaired": {**BOTH, **RIDGE},
    "places, offsets": BOTH,
    "ridge, plain head": READ,
    "ridge": RIDGE,
    "repaired, plain head": {**BOTH, **READ},
    "repaired, no offsets": {**PLACES, **RIDGE},
    "places, offsets, 4 blocks of 8 latents": {**BOTH, "num_layers": 4, "num_latents": 8, "num_block_latents": 8},
    "places, offsets, 1 block of 32 latents": {**BOTH, "num_layers": 1, "num_latents": 32, "num_block_latents": 32},
    "places, offsets, 16 waves of x": {**BOTH, "num_frequencies": 16},
    "places, offsets, 8 heads": {**BOTH, "num_heads": 8},
}
PARTS: dict[str, Callable[[NeuralProcess], None]] = {  # of what places are for, each taken out
    "places, pooling regardless of distance": lambda net: blind(net, "pool_places"),
    "places, reading regardless of distance": lambda net: blind(net, "read_places"),
    "places, mass unknown": lambda net: [still(block.mixer.mass.weight, 0.0) for block in net.stack.blocks],
}
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {  # without attention to the context
    "rmnp": ("rmnp", {"num_features": 80}),
    "rmnp, the repaired model's moments": ("rmnp", {"num_features": 48, "num_priors": 4, "num_refined": 2}),
    "lpnp": ("lpnp", {"num_locations": 38}),
    "rmnp_hybrid": ("rmnp_hybrid", {"num_features": 48}),
}
NAMES = [*SETTINGS, *PARTS, *OTHERS]
KEY = ("name", "seed", "lr", "steps")
SCORES = [f"{key}{end}" for key in ("loglik_marginal", "oracle_gap_marginal", "matern52_gap") for end in ("", "_sem")]
COLUMNS = [*KEY, "state_bytes", "parameters", "train_seconds", *SCORES]


def still(weight: nn.Parameter, value: float) -> None:
    """A weight that has this value and does not learn."""
    nn.init.constant_(weight, value).requires_grad_(False)


def blind(net: NeuralProcess, places: str) -> None:
    """Biases of 0 at all distances, as good as."""
    for block in net.stack.blocks:
        still(getattr(block.mixer, places).raw, -40.0)


def model(name: str) -> NeuralProcess:
    """The untrained model of a row."""
    if name in OTHERS:
        config, settings = OTHERS[name]
        return npexp.build(config, dx=1, dy=1, **settings)
    settings = {"num_layers": 2, "num_latents": 16, "num_block_latents": 16, **SETTINGS.get(name, PLACES)}
    net = CMANP(1, 1, **settings)
    PARTS.get(name, lambda _: None)(net)
    return net


def state_bytes(net: NeuralProcess) -> int:
    """Of one task's state, whatever its context."""
    with torch.inference_mode():
        return nbytes(net.encode(*2 * [torch.zeros(1, 3, 1)]))


def facts(net: NeuralProcess, data: Any, splits: list[str]) -> dict[str, Any]:
    """Sizes and scores."""
    found, values = score(net, data, splits), {}
    for key in SCORES:
        split = "test_matern52" if key.startswith("matern52") else splits[0]
        values[key] = found.get(f"{split}/{key.replace('matern52_gap', 'oracle_gap_marginal')}", "")
    learnt = sum(p.numel() for p in net.parameters() if p.requires_grad)
    return values | {"state_bytes": state_bytes(net), "parameters": learnt}


def main() -> None:
    """Fills a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, metavar="NAME", help="these rows")
    parser.add_argument("--steps", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lrs", nargs="+", type=float, help="learning rates to score on 1,024 validation tasks")
    parser.add_argument("--table", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    table = Table(args.table or HERE / ("lr.csv" if args.lrs else "repair.csv"), COLUMNS, KEY)
    data = npexp.build_data("gp_rbf")
    for name in args.only:
        for lr in args.lrs or [LR]:
            row = {"name": name, "seed": args.seed, "lr": lr, "steps": args.steps}
            if table.has(**row):
                continue
            torch.manual_seed(args.seed)
            net, start = model(name), time.process_time()
            fit(net, data, args.steps, lr, args.seed)
            row["train_seconds"] = time.process_time() - start
            table.add(row | facts(net, data, ["val"] if args.lrs else ["test", "test_matern52"]))


if __name__ == "__main__":
    main()
