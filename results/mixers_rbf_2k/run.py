"""Every mixer in one shell: a TNP of three layers, equal weights, the same steps of the same tasks, one thread.

    OMP_NUM_THREADS=1 python results/mixers_rbf_2k/run.py [--task gp_rbf] [--only NAME ...] [--part I N]

Adds a row per mixer to mixers.csv beside this file, the quickest families first, and as family `bound` what exact
prediction scores, from the whole context and from parts of it. The shell is conf/model/tnp.yaml with three layers;
`match.py` chooses the feed-forward width. On `gp_rbf` mixers have their own defaults. On `far_fact` and `lookup` they
have windows of 4 ranks (or a quarter of a unit of x) and 8 latents, less than these tasks need. A mixer that fails has
a row that says why.

Rows that are there are kept, failures too: delete one to run it again. Several of these may run side by side:
`--part 0 2` and `--part 1 2` share the work.
"""

import argparse
import math
import sys
import traceback
from pathlib import Path
from typing import Any

import bounds
import torch
from match import OWN, build, match, options

import npexp
from npexp.mixers.base import registered

sys.path.append(str(Path(__file__).parents[1]))
from shared import Table, fit, score, step_seconds

HERE = Path(__file__).parent
LR = 5e-4  # of conf/base.yaml
FAMILIES = ("dense", "kernel", "fixed", "recurrent", "pooled", "latent", "conditional", "pattern", "learned")
SCORES = [f"{key}{end}" for key in ("loglik_marginal", "oracle_gap_marginal") for end in ("", "_sem")]
COLUMNS = ["task", "mixer", "family", "seed", "lr", "steps", "settings", "dim_feedforward", "parameters"]
COLUMNS += ["active_parameters", "parameters_above_dense", *SCORES, "seconds_per_step", "step_in_dense_steps"]
COLUMNS += ["failure"]

LOCAL = {"pattern", "recurrent", "pooled", "fixed"}  # families in which these settings say how far a row sees
NARROW = {"window": 4, "block": 4, "segment": 4, "around": 2, "half_width": 4, "width": 0.25}
FEW = dict.fromkeys(
    ("num_latents", "num_block_latents", "num_seeds", "num_tokens", "num_landmarks", "num_projected"), 8
)
SETTINGS: dict[str, dict[str, float]] = {"gp_rbf": {}, "far_fact": NARROW | FEW, "lookup": NARROW | FEW}
EXACT = {"exact": bounds.exact, "no context": lambda data: bounds.nearest(data, 0)}
BOUNDS = {
    "gp_rbf": {},
    "far_fact": EXACT | {"12 nearest points": lambda data: bounds.nearest(data, 12)},
    "lookup": EXACT
    | {"2 nearest points": lambda data: bounds.nearest(data, 2)}
    | {"8 spread points": lambda data: bounds.spread(data, 8)},
}


def settings(name: str, task: str) -> dict[str, Any]:
    """A mixer's settings where they are not its defaults: so that sizes match, or so that it sees less."""
    own = options(name)
    known = set(own) - (set() if registered()[name].family in LOCAL else set(NARROW))
    return OWN.get(name, {}) | {k: v for k, v in SETTINGS[task].items() if k in known and v < own[k]}


def measure(name: str, task: str, data: Any, seed: int, steps: int) -> dict[str, Any]:
    """Trains, times and tests a mixer: the columns that are found so."""
    own = settings(name, task)
    found = match(name, own)
    torch.manual_seed(seed)
    net = build(name, found.dim_feedforward, own)
    row = {
        "settings": " ".join(f"{key}={value}" for key, value in own.items()),
        "dim_feedforward": found.dim_feedforward,
    }
    row |= {"parameters": found.parameters, "active_parameters": found.active, "parameters_above_dense": found.excess}
    try:
        fit(net, data, steps, LR, seed)
        scores = score(net, data, ["test"])
        row |= {key: scores[f"test/{key}"] for key in SCORES}
        if not math.isfinite(row["loglik_marginal"]):
            return row | {"failure": "its log-likelihood is not finite"}
        mine, dense = step_seconds([net, build("dense")], data)
        return row | {"seconds_per_step": mine, "step_in_dense_steps": mine / dense}
    except Exception as error:
        return row | {"failure": reason(error)}


def reason(error: Exception) -> str:
    """What went wrong, and where, in a line."""
    at = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {Path(at.filename).name}:{at.lineno}: {' '.join(str(error).split())[:200]}"


def order(name: str) -> tuple[int, str]:
    """Dense first, then families from the quickest to the slowest."""
    family = registered()[name].family
    return (FAMILIES.index(family) + 1 if name != "dense" and family in FAMILIES else 0, name)


def main() -> None:
    """Fills the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=SETTINGS, default="gp_rbf")
    parser.add_argument("--only", nargs="+", choices=registered(), metavar="NAME", help="these mixers")
    parser.add_argument("--part", nargs=2, type=int, default=(0, 1), metavar=("I", "N"), help="every N-th, from I on")
    parser.add_argument("--steps", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--test_batches", type=int, default=188, help="of 16 tasks")
    parser.add_argument("--table", type=Path, default=HERE / "mixers.csv")
    args = parser.parse_args()
    torch.set_num_threads(1)
    table = Table(args.table, COLUMNS, key=("task", "mixer", "seed", "steps"))
    data = npexp.build_data(args.task, num_test_batches=args.test_batches)
    if args.part[0] == 0:
        for name, bound in BOUNDS[args.task].items():
            facts = {"task": args.task, "mixer": name, "family": "bound", "seed": 0, "steps": 0}
            if not table.has(**facts):
                table.add(facts | bound(data))
    first, parts = args.part
    for name in sorted(args.only or registered(), key=order)[first::parts]:
        facts = {"task": args.task, "mixer": name, "seed": args.seed, "steps": args.steps}
        if table.has(**facts):
            continue
        facts |= {"family": registered()[name].family, "lr": LR}
        try:
            table.add(facts | measure(name, args.task, data, args.seed, args.steps))
        except Exception as error:  # not even built
            table.add(facts | {"failure": reason(error)})


if __name__ == "__main__":
    main()
