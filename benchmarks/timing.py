"""Times taken in turns: what the machine does meanwhile then spoils all of them alike, and ratios hold."""

import json
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from npexp.runs import revision


class Spread(NamedTuple):
    """Of the times of many rounds: median and quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Of two values or more."""
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)

    def times(self, factor: float) -> "Spread":
        """In another unit."""
        return Spread(*(factor * v for v in self))


def take_turns(
    tasks: Mapping[str, Callable[[], object]], rounds: int, repeats: int = 1, warm_up: int = 1
) -> dict[str, list[float]]:
    """Processor seconds of a call of each task, one value per round; the order turns round from round to round.

    Args:
        tasks: what to call, by name.
        rounds: how often everyone has a turn.
        repeats: calls per turn.
        warm_up: rounds that are not counted.
    """
    taken: dict[str, list[float]] = {name: [] for name in tasks}
    for i in range(rounds + warm_up):
        for name in list(tasks) if i % 2 else reversed(list(tasks)):
            start = time.process_time()
            for _ in range(repeats):
                tasks[name]()
            if i >= warm_up:
                taken[name].append((time.process_time() - start) / repeats)
    return taken


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Our time in units of theirs, round by round."""
    return Spread.of([a / b for a, b in zip(ours, theirs, strict=True)])


class Product:
    """A matrix product `[rows, dz] x [dz, dim]`, to take turns with what should be as fast.

    Args:
        rows: of the first factor.
        dz: summed over.
        dim: columns of the second factor.
    """

    def __init__(self, rows: int, dz: int, dim: int):
        self.a, self.b, self.out = torch.randn(rows, dz), torch.randn(dz, dim), torch.empty(rows, dim)
        self.flops = 2 * rows * dz * dim

    def __call__(self) -> None:
        torch.mm(self.a, self.b, out=self.out)


def report(rows: Iterable[Mapping[str, Any]], to: Path | None) -> None:
    """Prints rows as a table, each as soon as it is there, and keeps them with the machine's facts in a JSON file."""
    if to is not None:
        to.touch()  # better to fail now than after the first measurement
    facts = {"command": shlex.join(sys.argv), "revision": revision(), "threads": torch.get_num_threads()}
    facts |= {"torch": torch.__version__, "cpu": torch.backends.cpu.get_cpu_capability()}
    kept: list[Mapping[str, Any]] = []
    for row in rows:
        if not kept:
            print(f"| {' | '.join(row)} |\n{'| --- ' * len(row)}|")
        print(f"| {' | '.join(_words(v) for v in row.values())} |", flush=True)
        kept.append(row)
        if to is not None:
            lines = ",\n  ".join(map(json.dumps, kept))
            to.write_text(json.dumps(facts, indent=1)[:-2] + f',\n "rows": [\n  {lines}\n ]\n}}\n')


def _words(value: Any) -> str:
    if isinstance(value, Spread):
        return f"{value.median:.3g} ({value.low:.3g} to {value.high:.3g})"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
