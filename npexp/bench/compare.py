"""Two records against each other: what became slower, or takes more memory."""

from typing import NamedTuple

from npexp.bench.record import Key, Record, differences
from npexp.bench.tables import memory, number, table
from npexp.errors import ConfigError

WORSE = 1.1  # ratio, of time or memory, up to which nothing is called a regression
MUCH = 4 * 2**20  # bytes, likewise: the peak of a process is not exact
RATES = ("matmul", "copy")  # of a machine; measured, so never quite the same


class Change(NamedTuple):
    """A cell in two records.

    Args:
        key: which one.
        times: ratio of the median times, new to old; None where either has none.
        memory: ratio of the growths of peak memory, likewise.
        verdict: such as "slower, less memory", "" where nothing is to be said, or what failed.
        regressed: whether it became slower, takes more memory, or fails now.
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
    peak0, peak1 = before["peak"], after["peak"]
    signs = {
        "slower": low1 > high0 and median1 > WORSE * median0,
        "faster": high1 < low0 and median0 > WORSE * median1,
        "more memory": _larger(peak1, peak0),
        "less memory": _larger(peak0, peak1),
    }
    verdict = ", ".join(words for words, true in signs.items() if true)
    growth = peak1 / peak0 if peak0 and peak1 is not None else None
    return Change(key, median1 / median0, growth, verdict, signs["slower"] or signs["more memory"])


def _larger(a: int | None, b: int | None) -> bool:
    """Whether a growth of memory is clearly above another one."""
    return a is not None and b is not None and a > WORSE * b and a - b > MUCH


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
    headings = ["mode", "context", "model", "old time", "new", "ratio", "old growth", "new", "ratio", "status"]
    table(f"{new.path} against {old.path}: {old.clock} time.", headings, [_row(c, old, new) for c in found])
    for key in ("settings", "versions", "machine"):
        if other := differences(*({k: v for k, v in r.facts[key].items() if k not in RATES} for r in (new, old))):
            print(f"other {key}: {other}")
    rates = [record.facts["machine"]["matmul"][("cpu", "wall").index(record.clock)] for record in (old, new)]
    print(f"the machine's matrix products ran {rates[1] / rates[0]:.2f} times as fast")
    for one, other in ((old, new), (new, old)):
        only = [f"{key.mode} {key.context:,} {key.model}" for key in sorted(one.cells) if key not in other.cells]
        if only:
            print(f"only in {one.path}: {', '.join(only)}")
    worse = sum(change.regressed for change in found)
    print(
        f"{worse} of {len(found)} cells regressed: more than {WORSE} times the time and quartiles apart, more than "
        f"{WORSE} times the memory and by more than {memory(MUCH)}, or failing"
    )
    return int(worse > 0)


def _row(change: Change, old: Record, new: Record) -> list[str]:
    key, records = change.key, (old, new)
    medians = [record.seconds(key) for record in records]
    times = ["-" if m is None else f"{number(m[1])}s" for m in medians]
    growths = [memory(record.cells[key].get("peak")) for record in records]
    name = [key.mode, f"{key.context:,}", key.model]
    return [*name, *times, _ratio(change.times), *growths, _ratio(change.memory), change.verdict]


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
