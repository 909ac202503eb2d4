"""What a trained model is asked for, ours against its twin in turns: predictions, conditioning, updates, draws.

    OMP_NUM_THREADS=1 python benchmarks/predict.py [--cases tnpd-1024 ...] [--rounds N] [--json FILE]

One task, 256 targets but for draws, no gradients; processor time: medians over rounds, and quartiles. `MiB` is by how
much the peak of a fresh process grows with one call, after a small one. Twins of TNP-D and TNP-A take PyTorch's fast
path for encoders where it says "as shipped", and go without where it does not: that path is the slower one.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

import npexp
from benchmarks.timing import Spread, ratio, report, take_turns
from benchmarks.twins import Twin, twin
from npexp import fresh
from npexp.memory import peak_memory, reset_peak_memory
from npexp.models.base import NeuralProcess

ROOT = Path(__file__).parents[1]
TARGETS, NEW, BLOCK = 256, 10, 1024
DRAWS, DRAWN_TARGETS = 50, 32
Calls = dict[str, Callable[[], object]]


def tnpd(nc: int, shipped: bool = True, plain: bool = True) -> Calls:
    """A prediction."""
    (ours, theirs), data = models("tnpd"), points(nc, TARGETS)
    calls: Calls = {"ours": lambda: moments(ours(*data))}
    if plain:
        calls["twin"] = lambda: with_fast_path(False, theirs, *data)
    if shipped:
        calls["twin, as shipped"] = lambda: with_fast_path(True, theirs, *data)
    return calls


def cmanp_condition(nc: int) -> Calls:
    """The context, then a prediction."""
    (ours, theirs), (xc, yc, xt) = models("cmanp"), points(nc, TARGETS)
    return {
        "ours": lambda: moments(ours(xc, yc, xt)),
        "twin": lambda: theirs.query(theirs.stream(None, xc, yc, BLOCK)[1], xt),
        "twin, in one block": lambda: theirs(xc, yc, xt),
    }


def cmanp_update(nc: int) -> Calls:
    """Ten more points, then a prediction."""
    (ours, theirs), (xc, yc, xt) = models("cmanp"), points(nc, TARGETS)
    x, y, _ = points(NEW, 1)
    state, held = ours.encode(xc, yc), theirs.stream(None, xc, yc, BLOCK)[0]
    return {
        "ours": lambda: moments(ours.predict(ours.update(state, x, y), xt)),
        "twin": lambda: theirs.query(theirs.stream(held, x, y, NEW)[1], xt),
    }


def tnpa_sample(nc: int, nt: int = DRAWN_TARGETS) -> Calls:
    """Joint draws."""
    (ours, theirs), data = models("tnpa"), points(nc, nt)
    return {
        "ours": lambda: ours(*data).sample(DRAWS),
        "twin": lambda: with_fast_path(False, theirs.sample, *data, DRAWS),
        "twin, as shipped": lambda: with_fast_path(True, theirs.sample, *data, DRAWS),
    }


class Case(NamedTuple):
    """A size, how many rounds it gets, and what is to be called at it."""

    calls: Callable[[int], Calls]
    nc: int
    rounds: int


CASES = {
    "tnpd-1024": Case(tnpd, 1024, 15),
    "tnpd-8192": Case(partial(tnpd, shipped=False), 8192, 5),
    "tnpd-8192-shipped": Case(partial(tnpd, plain=False), 8192, 2),
    "cmanp-condition-131072": Case(cmanp_condition, 131_072, 5),
    "cmanp-update-32768": Case(cmanp_update, 32_768, 40),
    "tnpa-sample-128": Case(tnpa_sample, 128, 5),
}


def models(name: str) -> tuple[NeuralProcess, Twin]:
    """Ours and its twin, untrained."""
    torch.manual_seed(0)
    ours = npexp.build(f"paper/{name}", dx=1, dy=1).eval()
    return ours, twin(name, ours)


def points(nc: int, nt: int) -> tuple[Tensor, Tensor, Tensor]:
    """A sine on [-2, 2]: context and inputs of targets, `[1, n, 1]` each."""
    xc, xt = (torch.rand(1, n, 1) * 4 - 2 for n in (nc, nt))
    return xc, xc.sin(), xt


def moments(law: npexp.likelihoods.Predictive) -> tuple[Tensor, Tensor]:
    """What a user would ask for."""
    return law.mean, law.stddev


def with_fast_path(enabled: bool, call: Callable[..., object], *args: object) -> object:
    """A call with PyTorch's fast path for encoders switched on or off."""
    torch.backends.mha.set_fastpath_enabled(enabled)
    try:
        return call(*args)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


@torch.inference_mode()
def growth(name: str, who: str) -> int | None:
    """Bytes by which one call raises the peak of this process, which has made a small one before."""
    case, cpu = CASES[name], torch.device("cpu")
    case.calls(64)[who]()
    call = case.calls(case.nc)[who]
    if not reset_peak_memory(cpu):
        return None
    before = peak_memory(cpu)
    call()
    return peak_memory(cpu) - before


def measure(name: str, rounds: int | None) -> Iterator[dict[str, Any]]:
    """A row for each who can do it."""
    case = CASES[name]
    with torch.inference_mode():
        calls = case.calls(case.nc)
        taken = take_turns(calls, rounds or case.rounds)
    os.environ["PYTHONPATH"] = str(ROOT)  # of the processes whose memory is measured
    for who in calls:
        grown = fresh.call("benchmarks.predict:growth", name, who, timeout=600, threads=1)
        yield {
            "case": name,
            "who": who,
            "ms": Spread.of(taken[who]).times(1e3),
            "ours / it": ratio(taken["ours"], taken[who]),
            "MiB": grown.why if grown.value is None else grown.value / 2**20,
        }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--rounds", type=int, help="two or more; by default as many as a case needs")
    parser.add_argument("--json", type=Path)
    words = parser.parse_args()
    report((row for name in words.cases for row in measure(name, words.rounds)), words.json)


if __name__ == "__main__":
    main()
