"""Two records against each other: what became slower."""

from typing import Any, NamedTuple

from npexp.bench.record import Key, Record, differences
from npexp.bench.tables import number, table
from npexp.errors import ConfigError

SLOWER = 1.1  # ratio of medians below which nothing is called a regression


class Change(NamedTuple):
    """A cell in two records.

    Args:
        key: which one.
        times: ratio of the median times, new to old; None where either has none.
        memory: ratio of the growths of peak memory, likewise.
        verdict: "slower", "faster", "" where quartiles overlap or the ratio is near 1, or what failed.
        regressed: whether it became slower, or fails now.
    """

    key: Key
    times: float | None
    memory: float | None
    verdict: str
    regressed: bool


def changes(old: Record, new: Record) -> list[Change]:
    """The cells of both, the slowed ones first."""
    found = [_change(key, old, new) for key in old.cells if key in new.cells]
    return sorted(found, key=lambda c: (not c.regressed, -(c.times or 0.0), c.key))


def _change(key: Key, old: Record, new: Record) -> Change:
    before, after = old.cells[key], new.cells[key]
    statuses = before["status"], after["status"]
    if statuses != ("ok", "ok"):
        verdict = statuses[0] if statuses[0] == statuses[1] else f"{statuses[0]}, now {statuses[1]}"
        return Change(key, None, None, verdict, statuses[0] == "ok")
    (low0, median0, high0), (low1, median1, high1) = old.seconds(key), new.seconds(key)
    ratio = median1 / median0
    slower, faster = low1 > high0 and ratio > SLOWER, high1 < low0 and ratio < 1 / SLOWER
    memory = after["peak"] / before["peak"] if after["peak"] and before["peak"] else None
    return Change(key, ratio, memory, "slower" if slower else "faster" if faster else "", slower)


def compare(old: Record, new: Record) -> int:
    """Prints the changes, and what only one record has.

    Returns:
        1 if there is a regression, else 0.

    Raises:
        ConfigError: times by different clocks, or no cell that both have.
    """
    if old.clock != new.clock:
        raise ConfigError(f"{old.path} counts {old.clock} time, {new.path} {new.clock} time: they do not compare")
    found = changes(old, new)
    if not found:
        raise ConfigError(f"{old.path} and {new.path} have no cell in common: measure the same models and sizes")
    rows = [
        [c.key.mode, f"{c.key.context:,}", c.key.model, *_times(c, old, new), _ratio(c.memory), c.verdict]
        for c in found
    ]
    headings = ["mode", "context", "model", "old", "new", "ratio", "memory", "status"]
    table(f"{new.path} against {old.path}: {old.clock} time.", headings, rows)
    for key in ("settings", "versions"):
        if other := differences(new.facts[key], old.facts[key]):
            print(f"{key} differ: {other}")
    rates = [record.facts["machine"]["matmul"][("cpu", "wall").index(record.clock)] for record in (old, new)]
    print(f"the machine's matrix products ran {rates[1] / rates[0]:.2f} times as fast")
    for one, other in ((old, new), (new, old)):
        only = [f"{key.mode} {key.context:,} {key.model}" for key in sorted(one.cells) if key not in other.cells]
        if only:
            print(f"only in {one.path}: {', '.join(only)}")
    worse = sum(change.regressed for change in found)
    print(f"{worse} of {len(found)} cells regressed: quartiles apart and more than {SLOWER} times the time, or failing")
    return int(worse > 0)


def _times(change: Change, old: Record, new: Record) -> list[Any]:
    medians = [record.seconds(change.key) for record in (old, new)]
    return [*("-" if m is None else f"{number(m[1])}s" for m in medians), _ratio(change.times)]


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
