"""Records made by hand."""

from typing import Any

from npexp.bench.record import Key, Record

SETTINGS = {
    "targets": 256,
    "device": "cpu",
    "dtype": "float32",
    "batch_size": 16,
    "threads": 1,
    "repeats": 30,
    "timeout": 120.0,
    "memory_limit": None,
}
MACHINE = {"device": "abacus", "cores": 2, "matmul": [1e9, 0.5e9], "copy": [1e8, 0.5e8]}


def ok(seconds: float, peak: int | None = 2**20, width: float = 0.05) -> dict[str, Any]:
    """A cell with these median seconds; quartiles as a part of them. The clock on the wall shows twice as much."""
    cpu = [seconds * (1 - width), seconds, seconds * (1 + width)]
    measured = {"cpu": cpu, "wall": [2 * s for s in cpu], "rounds": 9, "peak": peak, "state": 528}
    return {"status": "ok", "why": "", **measured, "flops": 4_000_000, "least": 100_000}


def facts(**settings: Any) -> dict[str, Any]:
    return {
        "settings": {**SETTINGS, **settings},
        "command": "npexp bench",
        "versions": {"torch": "2"},
        "revision": "abc",
        "machine": MACHINE,
    }


def record(cells: dict[tuple[str, int, str], dict[str, Any]], path=None, **settings: Any) -> Record:
    """A record of these cells, kept in a file when there is a path."""
    made = Record(facts(**settings), path)
    for key, cell in cells.items():
        made.add(Key(*key), cell)
    return made
