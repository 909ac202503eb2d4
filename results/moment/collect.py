"""Adds finished runs of `npexp fit` and `npexp test` to opponents.csv, for trainings too long for `opponents.py`.

    OMP_NUM_THREADS=1 python results/moment/collect.py RUN_VERSION_FOLDER ... [--table FILE]

The time of a step is measured now, in turns with a CNP's. Rows that are there are kept.
"""

import argparse
import json
from pathlib import Path

import torch
from train import HERE, LR, Table, row

import npexp


def main() -> None:
    """Fills the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--table", type=Path, default=HERE / "opponents.csv")
    args = parser.parse_args()
    torch.set_num_threads(1)
    table, data = Table(args.table, key=("name", "seed", "steps", "lr")), npexp.build_data("gp_rbf")
    for run in args.runs:
        found = json.loads((run / "test_metrics.json").read_text())
        name, facts = found["model"], {"seed": found["seed"], "steps": found["steps"], "lr": LR}
        if not table.has(name=name, **facts):
            table.add(row(name, found, npexp.load_predictor(run).model, data, **facts))


if __name__ == "__main__":
    main()
