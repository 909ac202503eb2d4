"""A training step of each published model, ours against its twin in turns.

    OMP_NUM_THREADS=1 python benchmarks/train_step.py [--models tnpd lbanp ...] [--rounds 15] [--steps 4] [--json FILE]

Batch 16, 25 + 25 points of a line, processor time: medians over rounds, and quartiles. Ours is trained as
conf/base.yaml says: its optimiser, its clipped gradient. The twin is trained as released: `torch.optim.Adam` as it
comes, no clipping.

The floor is what the linear maps alone would take: their operations in a step, about parameters x rows x 6, in
whichever of the two needs fewer, at the speed of a product of matrices of the model's sizes that takes its turns too.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parents[1]))

import npexp
from benchmarks.timing import Product, Spread, ratio, report, take_turns
from benchmarks.twins import TWINS, Twin, twin
from benchmarks.twins.deepsets import TRAIN_SAMPLES
from npexp.config import find_config, read_config
from npexp.models.base import NeuralProcess
from npexp.objectives import OBJECTIVES

BATCH, CONTEXT, TARGETS = 16, 25, 25


class Protocol(NamedTuple):
    """How a model is trained as published, in the words of `npexp fit`."""

    objective: str = "loglik"
    num_samples: int = 1
    include_context: bool = False


PROTOCOLS = {
    **{name: Protocol() for name in ("tnpd", "tnpa", "eqtnp", "lbanp", "cmanp")},
    **{name: Protocol(include_context=True) for name in ("cnp", "canp")},
    **{name: Protocol("importance_weighted", TRAIN_SAMPLES, True) for name in ("np", "anp")},
    **{name: Protocol("bootstrap", TRAIN_SAMPLES, True) for name in ("bnp", "banp")},
}


def our_loss(net: NeuralProcess, batch: npexp.TaskBatch, protocol: Protocol) -> torch.Tensor:
    """What `npexp fit` minimises."""
    return OBJECTIVES[protocol.objective](net, batch, protocol.num_samples, protocol.include_context).total


def our_step(net: NeuralProcess, protocol: Protocol, batch: npexp.TaskBatch) -> Callable[[], None]:
    """A step by the recipe of conf/base.yaml."""
    base = read_config(find_config("base"))
    recipe, longest = base["model"]["optimizer"], base["trainer"]["gradient_clip_val"]
    optimizer = getattr(torch.optim, recipe["class_path"].split(".")[-1])(net.parameters(), **recipe["init_args"])

    def step() -> None:
        loss = our_loss(net, batch, protocol)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), longest)
        optimizer.step()

    return step


def twin_step(net: Twin, batch: npexp.TaskBatch) -> Callable[[], None]:
    """A step as released."""
    optimizer = torch.optim.Adam(net.parameters(), 5e-4)

    def step() -> None:
        optimizer.zero_grad()
        net.loss(batch).backward()
        optimizer.step()

    return step


def linear_flops(loss: Callable[[], torch.Tensor]) -> int:
    """Operations of linear maps in a loss and its gradients; attention's products have batches of matrices instead."""
    with FlopCounterMode(display=False) as counter:
        loss().backward()
    counts = counter.get_flop_counts()["Global"]
    return sum(counts.get(op, 0) for op in (torch.ops.aten.mm, torch.ops.aten.addmm))


def measure(name: str, rounds: int, steps: int) -> dict[str, Any]:
    """One row: milliseconds, their ratio, and the share of the floor that is reached."""
    torch.manual_seed(0)
    x, y = torch.rand(2, BATCH, CONTEXT + TARGETS, 1) * 4 - 2
    batch = npexp.TaskBatch(x[:, :CONTEXT], y[:, :CONTEXT], x[:, CONTEXT:], y[:, CONTEXT:])
    ours = npexp.build(f"paper/{name}", dx=1, dy=1).train()
    theirs = twin(name, ours)
    widest = max((m for m in theirs.modules() if isinstance(m, torch.nn.Linear)), key=lambda m: m.weight.numel())
    product = Product(BATCH * (CONTEXT + TARGETS), widest.in_features, widest.out_features)
    losses = (lambda: our_loss(ours, batch, PROTOCOLS[name]), lambda: theirs.loss(batch))
    flops = min(linear_flops(loss) for loss in losses)
    tasks = {
        "ours": our_step(ours, PROTOCOLS[name], batch),
        "twin": twin_step(theirs, batch),
        "product": lambda: [product() for _ in range(50)],
    }
    taken = take_turns(tasks, rounds, steps)
    floor = flops * Spread.of(taken["product"]).median / (50 * product.flops)
    ms = {key: Spread.of(taken[key]).times(1e3) for key in ("ours", "twin")}
    return {
        "model": name,
        "parameters": sum(p.numel() for p in ours.parameters()),
        "ours, ms": ms["ours"],
        "twin, ms": ms["twin"],
        "ours / twin": ratio(taken["ours"], taken["twin"]),
        "floor, ms": 1e3 * floor,
        "floor / ours": 1e3 * floor / ms["ours"].median,
        "floor / twin": 1e3 * floor / ms["twin"].median,
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=list(TWINS), default=list(TWINS))
    parser.add_argument("--rounds", type=int, default=15, help="two or more; default: %(default)s")
    parser.add_argument("--steps", type=int, default=4, help="steps per turn")
    parser.add_argument("--json", type=Path)
    words = parser.parse_args()
    report((measure(name, words.rounds, words.steps) for name in words.models), words.json)


if __name__ == "__main__":
    main()
