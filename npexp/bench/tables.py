"""Measurements in the terminal: the cells, how they grow, and where models overtake each other."""

from collections.abc import Iterable, Sequence
from typing import Any

from npexp.bench.curves import crossings, slope
from npexp.bench.record import Key, Record
from npexp.tables import terminal

MEANINGS = (
    "time: median by the {clock} of one call, with its quartiles. growth: peak memory beyond model, inputs and the "
    "state that is read. flop: of matrix products and the like. matmul, memory: reached parts of the machine's rates, "
    "{matmul} of a matrix product and {copy} of a copy; memory counts weights and states once, less than what moves."
)
PREFIXES = ("n", "µ", "m", "", "k", "M", "G", "T")
UNITS = ("B", "KiB", "MiB", "GiB")
CLOCKS = {"cpu": "processor's clock", "wall": "clock on the wall"}


def show(record: Record) -> None:
    """Prints everything that is known."""
    if any(cell["status"] == "ok" for cell in record.cells.values()):
        machine, index = record.facts["machine"], ("cpu", "wall").index(record.clock)
        title = f"{conditions(record)}, {record.facts['settings']['targets']} targets."
        rates = {"matmul": f"{number(machine['matmul'][index])}flop/s", "copy": f"{number(machine['copy'][index])}B/s"}
        meanings = MEANINGS.format(clock=CLOCKS[record.clock], **rates)
        rows = [_row(key, record) for key, cell in sorted(record.cells.items()) if cell["status"] == "ok"]
        headings = ["mode", "context", "model", "time", "quartiles", "on the wall", "growth", "state", "flop"]
        table(title, [*headings, "matmul", "memory"], rows, meanings)
    failed = [(key, cell) for key, cell in sorted(record.cells.items()) if cell["status"] != "ok"]
    if failed:
        rows = [[key.mode, f"{key.context:,}", key.model, cell["status"], cell["why"]] for key, cell in failed]
        table("What could not be measured.", ["mode", "context", "model", "status", "why"], rows)
    if growth := list(slopes(record)):
        table("Powers of the context size that time and memory grow with.", ["mode", "model", "time", "memory"], growth)
    for found in crossings(record.curves("seconds")):
        size = round(found.size, 2 - len(str(int(found.size))))
        print(f"{found.mode}: {found.faster} is faster than {found.slower} from {size:,.0f} context points on")


def conditions(record: Record) -> str:
    """The machine, and what it was asked to do."""
    settings, threads = record.facts["settings"], record.facts["settings"]["threads"]
    where = f"{threads} thread{'s' if threads > 1 else ''}" if settings["device"] == "cpu" else settings["device"]
    return f"{record.facts['machine']['device']}, {where}, {settings['dtype']}"


def line(key: Key, record: Record) -> str:
    """A cell in a few words."""
    cell = record.cells[key]
    found = cell["why"] and f"{cell['status']}: {cell['why']}"
    if cell["status"] == "ok":
        found = f"{number(record.seconds(key)[1])}s, {memory(cell['peak'])}"
    return f"{key.mode} {key.context:,} {key.model}: {found}"


def _row(key: Key, record: Record) -> list[str]:
    cell, (low, median, high) = record.cells[key], record.seconds(key)
    times = [f"{number(median)}s", f"{number(low)}s-{number(high)}s", f"{number(cell['wall'][1])}s"]
    sizes = [memory(cell["peak"]), memory(cell["state"]), number(cell["flops"])]
    return [
        key.mode,
        f"{key.context:,}",
        key.model,
        *times,
        *sizes,
        *(f"{100 * part:.3g}%" for part in record.shares(key)),
    ]


def slopes(record: Record) -> Iterable[list[str]]:
    """Mode, model, and fitted powers of time and memory, "-" where fewer than three sizes are known."""
    kept = {(mode, model): curve for mode, model, curve in record.curves("bytes")}
    for mode, model, curve in record.curves("seconds"):
        powers = [slope(curve), slope(kept.get((mode, model), {}))]
        if powers[0] is not None:
            yield [mode, model, *("-" if power is None else f"{power:.2f}" for power in powers)]


def table(title: str, headings: Sequence[str], rows: Iterable[Sequence[Any]], notes: str = "") -> None:
    """Prints a table; words stand on the left, numbers on the right."""
    terminal(title, headings, rows, words=("mode", "model", "status", "why"), wrapped="why", notes=notes)


def number(value: int | float) -> str:
    """Three digits and a prefix, such as "12.3 m"."""
    digits, exponent = f"{value:.2e}".split("e")
    power = min(max(int(exponent) // 3, -3), 4)
    return f"{float(f'{digits}e{int(exponent) - 3 * power}'):.3g} {PREFIXES[power + 3]}"


def memory(count: int | None) -> str:
    """Bytes, such as "1.5 MiB"."""
    if count is None:
        return "-"
    power = min(max(count.bit_length() - 1, 0) // 10, 3)
    return f"{count / 1024**power:.4g} {UNITS[power]}"
