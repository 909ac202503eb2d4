"""How exact updates and deletions of RMNP are: the largest change of a prediction, in units of its own sigma.

    OMP_NUM_THREADS=1 python results/moment/exactness.py --ckpt RUN_OR_CHECKPOINT [--stream 1000000] [--table FILE]

Writes exactness.csv beside this file. On the 1-D RBF test tasks, each of these against encoding the same points from
scratch in the same arithmetic: points inserted one by one in random order; ten points inserted, then deleted; four
shards merged; and a window that slides over a stream of a million points, each of them inserted and deleted, compared
every hundredth of the way. `change` is the largest, over targets, of |mean - mean'| / sigma and |log(sigma / sigma')|.

Through `npexp.Predictor`, the bare model in float32, or the model in float64 (where differences below float32's
resolution show), with sums in float64, as the default has it, or in float32. Without a checkpoint the model is
untrained. Rows that are there are kept.
"""

import argparse
import copy
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from train import HERE, Table

import npexp
from npexp.batch import TaskBatch
from npexp.likelihoods import Predictive

COLUMNS = ["model", "through", "sums", "check", "points", "change", "seconds"]
EXTRA, SHARDS, WINDOW, CHUNK, LOOKS = 10, 4, 400, 100, 100


class Bare:
    """The model's verbs under the names that `Predictor` has."""

    def __init__(self, model: npexp.NeuralProcess):
        self.model = model
        self.condition, self.update, self.remove, self.merge = model.encode, model.update, model.remove, model.merge
        self.predict = model.predict


def difference(a: Predictive, b: Predictive) -> float:
    """Largest change from a to b in units of a's standard deviation."""
    mean = (a.mean - b.mean).abs() / a.stddev
    return float(torch.maximum(mean, (a.stddev.log() - b.stddev.log()).abs()).max())


def one_by_one(verbs: Any, batch: TaskBatch, rng: torch.Generator) -> Any:
    """All points, singly, in random order."""
    order = torch.randperm(batch.xc.shape[1], generator=rng)
    state = verbs.condition(batch.xc[:, :0], batch.yc[:, :0])
    for i in order:
        state = verbs.update(state, batch.xc[:, i : i + 1], batch.yc[:, i : i + 1])
    return state


def insert_delete(verbs: Any, batch: TaskBatch, rng: torch.Generator) -> Any:
    """All points, and ten of the same law that are taken out again."""
    x = 4 * torch.rand(len(batch.xc), EXTRA, 1, generator=rng) - 2
    y = torch.randn(x.shape, generator=rng)
    state = verbs.update(verbs.condition(batch.xc, batch.yc), x, y)
    return verbs.remove(state, x, y)


def shards(verbs: Any, batch: TaskBatch, rng: torch.Generator) -> Any:
    """All points, encoded in four parts."""
    order = torch.randperm(batch.xc.shape[1], generator=rng)
    states = [verbs.condition(batch.xc[:, part], batch.yc[:, part]) for part in order.chunk(SHARDS)]
    while len(states) > 1:
        states.append(verbs.merge(states.pop(0), states.pop(0)))
    return states[0]


def stream(length: int, rng: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Chunks of noisy observations of a function that drifts, `[1, CHUNK, 1]`."""
    for i in range(length // CHUNK):
        x = 4 * torch.rand(1, CHUNK, 1, generator=rng) - 2
        drift = 2 * math.pi * i * CHUNK / 50_000
        y = 0.6 * (3 * x + drift).sin() + 0.3 * (7 * x - 2 * drift).cos()
        yield x, y + 0.02 * torch.randn(x.shape, generator=rng)


def sliding(verbs: Any, length: int) -> float:
    """Largest difference along a stream of which only the last `WINDOW` points are known."""
    xt, worst, known = torch.linspace(-2, 2, 64)[None, :, None], 0.0, []
    state = verbs.condition(torch.zeros(1, 0, 1), torch.zeros(1, 0, 1))
    every = max(1, length // CHUNK // LOOKS)
    for i, (x, y) in enumerate(stream(length, torch.Generator().manual_seed(0))):
        state, known = verbs.update(state, x, y), [*known, (x, y)]
        if len(known) * CHUNK > WINDOW:
            state = verbs.remove(state, *known.pop(0))
        if i % every == every - 1:
            scratch = verbs.condition(*(torch.cat(parts, 1) for parts in zip(*known, strict=True)))
            worst = max(worst, difference(verbs.predict(scratch, xt), verbs.predict(state, xt)))
    return worst


def main() -> None:
    """Fills the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt", help="a run folder or checkpoint of an RMNP; without one, an untrained model")
    parser.add_argument("--batches", type=int, default=20, help="of 16 test tasks, for the first three checks")
    parser.add_argument("--stream", type=int, default=1_000_000, help="points of the stream")
    parser.add_argument("--table", type=Path, default=HERE / "exactness.csv")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    name = "trained" if args.ckpt else "untrained"
    trained = npexp.load_predictor(args.ckpt).model if args.ckpt else npexp.build("rmnp", dx=1, dy=1).eval()
    data = npexp.build_data("gp_rbf")
    batches = [data.make_batch("test", i) for i in range(args.batches)]
    table = Table(args.table, COLUMNS, ("model", "through", "sums", "check"))
    for sums in ("float64", "float32"):
        model = copy.deepcopy(trained)
        model.memory.accumulate = getattr(torch, sums)
        ways = {"Predictor": npexp.Predictor(model), "float32 model": Bare(model)}
        ways["float64 model"] = npexp.Predictor(copy.deepcopy(model).double())
        for through, verbs in ways.items():
            facts = {"model": name, "through": through, "sums": sums}
            for check, make in {
                "one by one": one_by_one,
                "insert 10, delete 10": insert_delete,
                "4 shards": shards,
            }.items():
                if table.has(**facts, check=check):
                    continue
                worst, start, rng = 0.0, time.process_time(), torch.Generator().manual_seed(0)
                with torch.inference_mode():
                    for batch in batches:
                        scratch = verbs.predict(verbs.condition(batch.xc, batch.yc), batch.xt)
                        worst = max(worst, difference(scratch, verbs.predict(make(verbs, batch, rng), batch.xt)))
                points, seconds = sum(b.xc.shape[0] * b.xc.shape[1] for b in batches), time.process_time() - start
                table.add(facts | {"check": check, "points": points, "change": worst, "seconds": seconds})
            check = "sliding window"
            if not table.has(**facts, check=check):
                start = time.process_time()
                with torch.inference_mode():
                    worst = sliding(verbs, args.stream)
                seconds = time.process_time() - start
                table.add(facts | {"check": check, "points": args.stream, "change": worst, "seconds": seconds})


if __name__ == "__main__":
    main()
