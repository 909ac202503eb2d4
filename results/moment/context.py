"""Contexts far beyond training: log-likelihood, gap to the exact GP, memory and time at up to a million points.

    OMP_NUM_THREADS=1 python results/moment/context.py --ckpt RUN [--tnp RUN] [--sizes 46 100 ...] [--table FILE]

Writes context.csv beside this file. Functions follow the RBF law of training, points are uniform on [-2, 2], 40 targets
per task; inputs are shared by the tasks of a round (`smooth.py`, whose exact posterior with known hyperparameters is
the oracle at every size). `ceiling` is what knowing the function scores. Errors are over tasks, of the gap paired.
`growth_mib` is the growth of the peak memory of conditioning one task beyond that of 2,000 points, in a process of its
own, and `us_per_point` the processor time per point there. TNP-D reads at most 10,000 points. Rows that are there are
kept.
"""

import argparse
import itertools
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from smooth import NODES, NOISE, Functions, chebyshev, chunks
from train import HERE, Table

import npexp

COLUMNS = ["model", "context", "tasks", "loglik", "loglik_sem", "oracle", "gap", "gap_sem", "ceiling", "growth_mib"]
COLUMNS += ["us_per_point"]
SIZES = [46, 100, 400, 2_000, 10_000, 1_000_000]
ROUND, TARGETS, CHUNK, LONGEST_TNP = 8, 40, 4_000, 10_000


def tasks(size: int) -> int:
    """Fewer of them where they are long."""
    return 256 if size <= 400 else 64 if size <= 10_000 else ROUND


@torch.inference_mode()
def scores(predictor: npexp.Predictor, size: int, num: int) -> tuple[torch.Tensor, ...]:
    """Log-likelihood per target of the model, the exact GP and who knows the function, `[num]` each."""
    found = []
    for part in range(0, num, ROUND):
        rng = np.random.default_rng([size, part])
        b = min(ROUND, num - part)
        functions = Functions(b, rng)
        xt = torch.from_numpy(rng.uniform(-2, 2, TARGETS).astype(np.float32))
        noise = torch.from_numpy(rng.standard_normal((b, TARGETS, 1)))
        yt = (functions.at(xt) + NOISE * noise).float()
        gram, cross = torch.zeros(NODES, NODES, dtype=torch.float64), torch.zeros(b, NODES, 1, dtype=torch.float64)
        wide = lambda x, b=b: x[None, :, None].expand(b, -1, 1)  # noqa: E731

        def stream(functions=functions, rng=rng, gram=gram, cross=cross, wide=wide):
            for x, y in chunks(functions, size, CHUNK, rng):
                t = chebyshev(x)
                gram.add_(t.mT @ t)
                cross.add_(t.mT @ y.double())
                yield wide(x), y

        pairs = list(stream()) if predictor.model.update_rule != "exact" else stream()
        if isinstance(pairs, list):  # attention over everything, one task at a time
            x, y = (torch.cat(parts, 1) for parts in zip(*pairs, strict=True))
            states = [predictor.condition(x[i : i + 1], y[i : i + 1]) for i in range(b)]
            laws = [predictor.predict(state, wide(xt, 1)) for state in states]
            own = torch.cat([law.marginal_log_prob(yt[i : i + 1]) for i, law in enumerate(laws)])
        else:
            own = predictor.predict(predictor.condition(pairs), wide(xt)).marginal_log_prob(yt)
        mean, stddev = functions.posterior(gram, cross, xt)
        best = -0.5 * ((yt[..., 0] - mean) / stddev).square() - stddev.log() - 0.5 * math.log(2 * math.pi)
        most = -0.5 * noise[..., 0].square() - math.log(NOISE) - 0.5 * math.log(2 * math.pi)
        found.append(torch.stack([own.double().mean(1), best.mean(1), most.mean(1)]))
    return tuple(torch.cat(found, 1))


def load(name: str | None) -> npexp.Predictor:
    """A trained model, or an untrained RMNP."""
    return npexp.load_predictor(name) if name else npexp.Predictor(npexp.build("rmnp", dx=1, dy=1))


def peak() -> int:
    """Largest resident memory of this process so far, in KiB."""
    line = next(v for v in Path("/proc/self/status").read_text().splitlines() if v.startswith("VmHWM"))
    return int(line.split()[1])


def condition(ckpt: str | None, size: int) -> dict[str, float]:
    """Memory and time of conditioning on a stream; run in a process of its own."""
    predictor, clock = load(ckpt), itertools.count()

    def stream(n: int) -> Any:
        for i in range(0, n, CHUNK):
            x = torch.linspace(-2, 2, min(CHUNK, n - i)) + 1e-6 * next(clock)
            yield x, (3 * x).sin()

    predictor.predict(predictor.condition(stream(2_000)), torch.zeros(1))  # warm-up: thread pools, workspaces
    before, start = peak(), time.process_time()
    predictor.predict(predictor.condition(stream(size)), torch.zeros(1))
    return {"growth_mib": (peak() - before) / 1024, "us_per_point": 1e6 * (time.process_time() - start) / size}


def main() -> None:
    """Fills the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt", help="a run folder or checkpoint; without one, an untrained RMNP")
    parser.add_argument("--tnp", help="the same of a TNP-D, to compare with")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--tasks", type=int, help="of each size, instead of 256 to 8")
    parser.add_argument("--table", type=Path, default=HERE / "context.csv")
    parser.add_argument("--condition", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.condition:
        print(json.dumps(condition(args.ckpt, args.condition)))
        return
    table = Table(args.table, COLUMNS, ("model", "context"))
    for ckpt, size in itertools.product([args.ckpt, args.tnp] if args.tnp else [args.ckpt], args.sizes):
        predictor = load(ckpt)
        name = type(predictor.model).__name__ + ("" if ckpt else ", untrained")
        too_long = predictor.model.update_rule != "exact" and size > LONGEST_TNP
        if too_long or table.has(model=name, context=size):
            continue
        num = args.tasks or tasks(size)
        own, best, most = scores(predictor, size, num)
        words = [sys.executable, __file__, "--condition", str(size), *(["--ckpt", ckpt] if ckpt else [])]
        told = subprocess.run(
            words, capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        row = {"model": name, "context": size, "tasks": num, "ceiling": most.mean().item(), **json.loads(told.stdout)}
        row |= {"loglik": own.mean().item(), "oracle": best.mean().item(), "gap": (best - own).mean().item()}
        table.add(row | {"loglik_sem": sem(own), "gap_sem": sem(best - own)})


def sem(values: torch.Tensor) -> float:
    """Standard error of the mean."""
    return (values.std() / len(values) ** 0.5).item()


if __name__ == "__main__":
    main()
