"""What mixers cost: bytes of their states, and how time and memory grow with the context, measured.

`npexp mixers --measure` fills `mixers/measured.csv`; everything else reads it.
"""

import csv
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import torch

from npexp import fresh
from npexp.errors import UnsupportedError
from npexp.memory import peak_memory, reset_peak_memory
from npexp.mixers.base import Mixer, Site, Tokens, find_mixer, make_mixer
from npexp.ops.tree import nbytes

SITE = Site(dx=1, dz=64, num_heads=4, layer=0)
DENSITY = 16  # context points per unit of x, whatever their number: else all would be neighbours in the end
SIZES = (2048, 4096, 8192, 16384, 32768)
SMALLEST = 128  # size that is tried where fewer than three of the others are affordable
MAX_SECONDS, MAX_BYTES = 20.0, 6e9
CPU = torch.device("cpu")
MEASURED = Path(__file__).parent / "mixers/measured.csv"


class Cell(NamedTuple):
    """One measurement: a layer whose n context points are summarised and read the summary, without gradients.

    Args:
        seconds: on one thread.
        bytes: peak memory beyond that of the context itself.
    """

    seconds: float
    bytes: int


class Slopes(NamedTuple):
    """Powers of n that time and memory grow with, least squares of logarithms; None where nothing was measured."""

    time: float | None
    memory: float | None


Table = dict[str, dict[int, Cell]]  # by name and size


@torch.random.fork_rng(devices=[])  # the caller's random numbers stay as they are
def layers(name: str, n: int, site: Site = SITE) -> tuple[list[Mixer], Tokens]:
    """One layer with default settings, or those that take turns, and one task of n points in order, evenly spread."""
    torch.manual_seed(0)
    turns = find_mixer(name)[0].period(site)
    mixers = [make_mixer(name, site._replace(layer=i)).eval() for i in range(turns)]
    x = (torch.arange(n)[:, None] + 0.5 * torch.rand(n, site.dx)) / DENSITY
    slot = torch.arange(n)[None]
    rank = slot if mixers[0].needs_order else None
    return mixers, Tokens(torch.randn(1, n, site.dz), x[None], None, torch.tensor([n]), rank, None, slot)


@torch.no_grad()
def run(mixers: list[Mixer], ctx: Tokens) -> None:
    """Each summarises the context, which reads the summary; where it never does, its rows stand for as many targets."""
    carry = None
    for mixer in mixers:
        state, carry = mixer.summarise(ctx, carry)
        mixer.read(mixer.shorten(ctx, state), state)


def state_bytes(name: str) -> str:
    """Bytes of one layer's state for n context points, such as "512 n + 64", exact for multiples of 256.

    Of layers that take turns it is that of the largest.

    What is no straight line in n is given by its growth at the largest sizes, such as "about 256 n^1.5".
    """
    sizes, held = (512, 1024, 2048), []
    for n in sizes:
        mixers, ctx = layers(name, n)
        with torch.no_grad():
            held.append(max(nbytes(mixer.summarise(ctx)[0]) for mixer in mixers))
    slope, rest = divmod(held[1] - held[0], sizes[1] - sizes[0])
    constant = held[0] - slope * sizes[0]
    if rest or slope * sizes[2] + constant != held[2]:
        power = math.log2(held[2] / held[1])
        return f"about {held[2] / sizes[2] ** power:,.0f} n^{power:.2g}"
    words = [f"{slope:,} n"] if slope else []
    return " + ".join([*words, f"{constant:,}"] if constant or not words else words).replace("+ -", "- ")


def slopes(cells: dict[int, Cell]) -> Slopes:
    """Fitted to the sizes that were measured, at least three."""
    if len(cells) < 3:
        return Slopes(None, None)
    return Slopes(*(_slope(list(cells), [cell[i] for cell in cells.values()]) for i in range(2)))


def _slope(sizes: Iterable[int], values: Iterable[int | float]) -> float:
    x, y = (list(map(math.log, numbers)) for numbers in (sizes, values))
    return round(statistics.linear_regression(x, y).slope, 2)


def read_measured(path: Path | None = None) -> Table:
    """The measurements there are."""
    path = path or MEASURED
    table: Table = {}
    if path.exists():
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                cells = table.setdefault(row["mixer"], {})
                cells[int(row["n"])] = Cell(float(row["seconds"]), int(row["bytes"]))
    return table


def write_measured(table: Table, path: Path | None = None) -> None:
    """Writes all measurements, by name and size."""
    with (path or MEASURED).open("w", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(["mixer", "n", "seconds", "bytes"])
        for name, cells in sorted(table.items()):
            out.writerows([name, n, f"{c.seconds:.4g}", c.bytes] for n, c in sorted(cells.items()))


def measure_all(names: Iterable[str], say: Callable[[str], None], anew: bool = False, path: Path | None = None) -> None:
    """Measures what is missing of these mixers and writes it cell by cell, so that it can be interrupted.

    A size that threatens to take more than 20 s or 6 GB is left out; where that leaves fewer than three, smaller ones
    are tried.

    Args:
        names: of mixers.
        say: told each measurement.
        anew: forgets what there is of them.
        path: the file; None is the one that `slopes` are read from.
    """
    table = read_measured(path)
    for name in names:
        find_mixer(name)
        cells = table[name] = {} if anew else table.get(name, {})

        def take(n: int, name: str = name, cells: dict[int, Cell] = cells) -> bool:
            if n in cells:
                return True
            cell = measure(name, n) if _affordable(cells, n) else None
            if cell is None:
                say(f"{name}: {n} points left out")
                return False
            cells[n] = cell
            write_measured(table, path)
            say(f"{name}: {n} points in {cell.seconds:.3g} s and {cell.bytes / 1e6:.3g} MB")
            return True

        all(take(n) for n in SIZES)
        n = SIZES[0]
        while len(cells) < 3 and n > SMALLEST:
            n //= 2
            take(n)


def _affordable(cells: dict[int, Cell], n: int) -> bool:
    """Whether the next size should stay within bounds, going by the growth between the two largest below it."""
    below = sorted(size for size in cells if size < n)
    if not below:
        return True
    last = cells[below[-1]]
    before = cells[below[-2]] if len(below) > 1 else Cell(*(v / (n / below[-1]) ** 2 for v in last))  # quadratic
    seconds, peak = (b * max(b / a, 1) for a, b in zip(before, last, strict=True))
    return seconds <= MAX_SECONDS and peak <= MAX_BYTES


def measure(name: str, n: int) -> Cell | None:
    """One measurement in a process of its own, since a peak of memory is one of the process; None if it fails.

    Raises:
        UnsupportedError: on systems other than Linux, which alone tells the peak of a stretch of time.
    """
    if sys.platform != "linux":
        raise UnsupportedError("peaks of memory are read from /proc: measure mixers on Linux")
    done = fresh.call("npexp.mixer_costs:_measure_here", name, n, timeout=20 * MAX_SECONDS, threads=1)
    return Cell(*done.value) if done.status == fresh.OK else None


def _measure_here(name: str, n: int) -> Cell:
    """The first pass gives the peak, the fastest of up to five the time: whatever disturbs only makes it longer."""
    run(*layers(name, 64))  # what is loaded on first use
    mixers, ctx = layers(name, n)
    reset_peak_memory(CPU)
    before, seconds = peak_memory(CPU), []
    while len(seconds) < 5 and sum(seconds) < 2.0:
        start = time.perf_counter()
        run(mixers, ctx)
        seconds.append(time.perf_counter() - start)
        if len(seconds) == 1:
            peak = max(peak_memory(CPU) - before, 1)
    return Cell(min(seconds), peak)
