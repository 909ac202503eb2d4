"""What was measured, as a file that grows cell by cell and can be gone on with."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from npexp.errors import ConfigError


class Key(NamedTuple):
    """What tells a cell from the others in a record."""

    mode: str
    context: int
    model: str


class Record:
    """The measurements of one machine under one set of settings.

    Args:
        facts: plain data: "settings", "versions", "revision", "command", and, once a cell was measured, "date" and
            "machine", which is what `npexp.bench.machine.rates` returns.
        path: the file to keep it in; None keeps it in memory.

    Attributes:
        cells: by key; each has "status", "why", and, where the status is "ok", what `npexp.bench.cell.measure` returns.
    """

    def __init__(self, facts: dict[str, Any], path: Path | None = None):
        self.facts, self.path = facts, path
        self.cells: dict[Key, dict[str, Any]] = {}

    @classmethod
    def read(cls, path: str | Path) -> "Record":
        """The record in a file.

        Raises:
            ConfigError: there is none, or not a whole one.
        """
        try:
            facts = json.loads(Path(path).read_text())
            record = cls({key: value for key, value in facts.items() if key != "cells"}, Path(path))
            for cell in facts["cells"]:
                record.cells[Key(*(cell.pop(name) for name in Key._fields))] = cell
            _ = record.clock, *(record.facts[name] for name in ("machine", "versions", "revision"))
            _ = [len(record.seconds(key)) for key, cell in record.cells.items() if cell["status"] == "ok"]
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise ConfigError(f"expected {path} to be a file that npexp bench --json wrote ({error!r})") from error
        return record

    @classmethod
    def open(cls, path: str | Path | None, facts: dict[str, Any]) -> "Record":
        """The record in a file, or a new one where there is none.

        Raises:
            ConfigError: a file of other settings, or one that cannot be written.
        """
        if path is None:
            return cls(facts)
        if not Path(path).exists():
            return cls(facts, _writable(Path(path)))
        record = cls.read(path)
        _writable(record.path)
        old, new = ({**f["settings"], **f["versions"], "revision": f["revision"]} for f in (record.facts, facts))
        if other := differences(old, new):
            raise ConfigError(f"{path} was measured otherwise ({other}): give another --json FILE")
        record.facts["command"] = facts["command"]  # which may ask for more
        return record

    @property
    def clock(self) -> str:
        """Which clock counts: that of the processor, which others on the machine hardly disturb, where there is one."""
        settings = self.facts["settings"]
        return "cpu" if settings["device"] == "cpu" and settings["threads"] == 1 else "wall"

    def add(self, key: Key, cell: dict[str, Any]) -> None:
        """Adds a cell and writes the file, at once and as a whole."""
        self.cells[key] = cell
        self.facts["date"] = datetime.now(UTC).isoformat(timespec="seconds")
        if self.path is not None:
            rows = [json.dumps({**key._asdict(), **cell}) for key, cell in self.cells.items()]
            head = json.dumps(self.facts, indent=2)[:-2]
            temporary = _temporary(self.path)
            temporary.write_text(head + ',\n  "cells": [\n    ' + ",\n    ".join(rows) + "\n  ]\n}\n")
            temporary.replace(self.path)

    def seconds(self, key: Key) -> list[float] | None:
        """Quartiles by the clock that counts; None where the cell is not there or failed."""
        return self.cells.get(key, {}).get(self.clock)

    def shares(self, key: Key) -> tuple[float, float]:
        """Reached parts of the machine's rates, of matrix products and of memory, by the median."""
        cell, index = self.cells[key], ("cpu", "wall").index(self.clock)
        machine, median = self.facts["machine"], self.seconds(key)[1]
        return cell["flops"] / median / machine["matmul"][index], cell["least"] / median / machine["copy"][index]

    def curves(self, what: str) -> Iterator[tuple[str, str, dict[int, int | float]]]:
        """Mode, model, and values by size of the context, ascending: median "seconds", or "bytes" of peak memory."""
        found: dict[tuple[str, str], dict[int, int | float]] = {}
        for key, cell in self.cells.items():
            if cell["status"] == "ok":
                value = self.seconds(key)[1] if what == "seconds" else cell["peak"]
                if value:  # nothing, or too little to be seen, has no logarithm
                    found.setdefault((key.mode, key.model), {})[key.context] = value
        for (mode, model), values in found.items():
            yield mode, model, dict(sorted(values.items()))


def _temporary(path: Path) -> Path:
    return path.with_name(path.name + ".tmp")


def _writable(path: Path) -> Path:
    """The path, once a file was made beside it: better to fail now than after the first measurement."""
    try:
        _temporary(path).touch()
        _temporary(path).unlink()
    except OSError as error:
        raise ConfigError(f"cannot write {path} ({error.strerror}): give --json another place") from error
    return path


def differences(old: dict[str, Any], new: dict[str, Any]) -> str:
    """Settings that differ, such as "dtype float32, not bfloat16"; "" when none do."""
    keys = list(dict.fromkeys([*old, *new]))
    return "; ".join(f"{key} {old.get(key)}, not {new.get(key)}" for key in keys if old.get(key) != new.get(key))
