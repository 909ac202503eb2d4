"""Models against baselines that need none, on data that is no Gaussian process, by the recipes as they are.

    OMP_NUM_THREADS=1 python results/real/run.py [--only DATA ...] [--models NAME ...] [--gp_tasks N]

Adds rows to real.csv beside this file, one per data set, predictor and test set. A recipe conf/experiment/DATA_MODEL
is run as a user would, `npexp fit` for its own number of steps and `npexp test`; a model of conf/model without a recipe
for these data, where `--models` names it, from base, model and data for `--steps`. The baselines are those of
`baselines.py`. All predict the same test tasks, but for the exact GP, which gets the first `--gp_tasks` of each test
set, and gives log-likelihoods only. Scores are in the units of the batches: outputs standardised by the training data.
`steps` are those of the best checkpoint, which is what is tested; `minutes` are by the clock, busy or not. Rows that
are there are kept.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import torch
from baselines import exact_gp, fitted

import npexp
from npexp.config import config_names, find_config, read_config
from npexp.metrics import Evaluation

sys.path.append(str(Path(__file__).parents[1]))
from shared import Table, by_command

HERE = Path(__file__).parent
# fmt: off
DATA = [  # with recipes of minutes, and without files of the reader's own; digits have a table of their own
    "co2", "co2_from_gp", "eeg", "far_fact", "gp_change_point", "gp_gibbs", "gp_heteroscedastic", "gp_lmc",
    "gp_long", "gp_shift", "gp_student_t", "hare_lynx", "sawtooth", "shapes", "square", "sunspots",
    "sunspots_from_gp", "terrain", "waves_mixed",
]
# fmt: on
METRICS = ("loglik_marginal", "rmse", "crps", "coverage_95", "oracle_gap_marginal")
SCORES = [f"{key}{end}" for key in METRICS for end in ("", "_sem")]
COLUMNS = ["data", "test_set", "predictor", "seed", "steps", "parameters", "minutes", "tasks", *SCORES]


def recipes(data: str) -> dict[str, list[str]]:
    """Model to the configurations of its experiment."""
    names = config_names("experiment")
    own = [name for name in names if f"data/{data}" in read_config(find_config(name)).get("defaults", [])]
    return {name.removeprefix(f"experiment/{data}_"): [name] for name in own}


def evaluate(law: Any, batches: list[npexp.TaskBatch]) -> dict[str, float]:
    """Scores on batches of tasks."""
    scores = Evaluation(energy=False)
    for batch in batches:
        scores.update(law(batch), batch)
    return scores.compute()


def main() -> None:
    """Fills the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", nargs="+", default=DATA, metavar="DATA", help="names of conf/data; all of ours, unless given"
    )
    parser.add_argument("--models", nargs="*", metavar="NAME", help="all that have a recipe, unless given")
    parser.add_argument("--steps", type=int, help="of training, for models without a recipe")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--gp_tasks", type=int, default=256, help="of each test set; 0 for none")
    parser.add_argument("--table", type=Path, default=HERE / "real.csv")
    args = parser.parse_args()
    torch.set_num_threads(1)
    table = Table(args.table, COLUMNS, key=("data", "test_set", "predictor", "seed"))
    for data in args.only:
        source = npexp.build_data(data)
        laws = None
        for split in source.test_names:
            facts = {"data": data, "test_set": split, "seed": 0, "steps": 0, "parameters": 0}
            batches = source.eval_batches(split)
            laws = laws or fitted(source)
            for name, law in laws.items():
                if not table.has(**facts, predictor=name):
                    found = evaluate(law, batches)
                    table.add(found | facts | {"predictor": name, "tasks": sum(b.num_tasks for b in batches)})
            some = batches[: -(-args.gp_tasks // source.batch_size)]
            if some and not table.has(**facts, predictor="exact GP"):
                start = time.process_time()
                found = exact_gp(some) | {"minutes": (time.process_time() - start) / 60}
                table.add(found | facts | {"predictor": "exact GP", "tasks": sum(b.num_tasks for b in some)})
        known = recipes(data)
        for model in known if args.models is None else args.models:
            facts = {"data": data, "predictor": model, "seed": args.seed}
            if table.has(**facts, test_set="test"):
                continue
            layers = known.get(model, ["base", f"model/{model}", f"data/{data}"])
            words = [word for layer in layers for word in ("--config", layer)]
            if model not in known:
                if args.steps is None:
                    parser.error(f"{model} has no recipe for {data}: give --steps")
                words.append(f"--trainer.max_steps={args.steps}")
            start = time.perf_counter()
            net, found = by_command(words, None, args.seed, None)
            facts |= {"minutes": (time.perf_counter() - start) / 60, "steps": found["steps"]}
            facts["parameters"] = sum(p.numel() for p in net.parameters())
            for split in reversed(source.test_names):  # "test" last: it marks the row as done
                tasks = sum(b.num_tasks for b in source.eval_batches(split))
                scores = {key: found.get(f"{split}/{key}", "") for key in SCORES}
                table.add(scores | facts | {"test_set": split, "tasks": tasks})


if __name__ == "__main__":
    main()
