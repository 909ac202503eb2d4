"""Training and scoring for the scripts of this folder, which import it: by the command line, or a model object at hand.

`by_command` runs `npexp fit` and `npexp test`. `fit` and `score` do the same to a model that no configuration can
describe: the same tasks, weights, schedule and clipping, so that both give the same numbers
(`python results/moment/train.py` trains 20 steps in both ways and compares).
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import npexp
from npexp.models.base import NeuralProcess

sys.path.append(str(Path(__file__).parents[1]))
import shared
from shared import by_command, fit, score

HERE = Path(__file__).parent
LR = 1e-3  # of conf/experiment/gp_rbf_rmnp.yaml
COLUMNS = ["name", "seed", "lr", "steps", "parameters", "loglik_marginal", "loglik_marginal_sem"]
COLUMNS += ["oracle_gap_marginal", "oracle_gap_marginal_sem", "loglik_joint", "loglik_joint_sem"]
COLUMNS += ["oracle_gap_joint", "oracle_gap_joint_sem", "matern52", "matern52_sem", "periodic", "periodic_sem"]
COLUMNS += ["seconds_per_step", "step_in_cnp_steps"]


class Table(shared.Table):
    """A table of models, unless columns and key say otherwise."""

    def __init__(self, path: Path, columns: Sequence[str] = COLUMNS, key: Sequence[str] = ("name", "seed", "steps")):
        super().__init__(path, columns, key)


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


def step_seconds(net: NeuralProcess, data: Any) -> tuple[float, float]:
    """Processor time of a training step of the model and of a CNP, taken in turns."""
    own, cnp = shared.step_seconds([net, npexp.build("cnp", dx=data.dx, dy=data.dy)], data)
    return own, cnp


def main() -> None:
    """Compares the two ways."""
    torch.set_num_threads(1)
    _, told = by_command(["--config", "experiment/gp_rbf_rmnp"], steps=20, seed=0, test_batches=8)
    data = npexp.build_data("gp_rbf", num_test_batches=8)
    torch.manual_seed(0)
    found = score(fit(npexp.build("rmnp", dx=1, dy=1), data, 20, LR), data)
    worst = max(abs(value - told[key]) for key, value in found.items() if key.endswith(("loglik_joint", "_marginal")))
    print(f"largest difference between the command line and this script: {worst:.2g} nats")


if __name__ == "__main__":
    main()
