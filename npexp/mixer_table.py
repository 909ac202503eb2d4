"""The table of mixers: in the terminal, and with a guide around it as `docs/mixers.md`."""

import re
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

GUIDE = Path(__file__).parent / "mixers/guide.md"

FAMILIES = {
    "dense": "everything reads every point: exact, quadratic",
    "pattern": "who reads whom is fixed: neighbours in the order or in x, perhaps a few tokens that see everything",
    "latent": "a few tokens absorb the context, and everything else reads them",
    "kernel": "features in place of a softmax: the context becomes sums",
    "fixed": "weights of a fixed length, or along the order: the context is brought to knots, or filtered",
    "learned": "who reads whom depends on the content: hashes, clusters, sorting",
    "recurrent": "from segment to segment, or point to point, along the order",
    "pooled": "neighbours in the order are merged",
    "conditional": "dense attention with sparse weights, or with only part of the parameters at work for each row",
}

Rows = Mapping[str, Mapping[str, Any]]  # traits by name, with what is measured


def grouped(rows: Rows) -> dict[str, Rows]:
    """The rows of each family, in the order of `FAMILIES`."""
    parts = {family: {name: t for name, t in rows.items() if t["family"] == family} for family in FAMILIES}
    return {family: part for family, part in parts.items() if part}


def terminal(rows: Rows) -> str:
    """Readable at 120 columns; the widest columns are left to `markdown`."""
    columns: dict[str, tuple[int, Callable[[Mapping[str, Any]], str]]] = {
        "a layer's time": (25, lambda t: t["cost"]),
        "time": (5, lambda t: _power(t["time_slope"])),
        "memory": (6, lambda t: _power(t["memory_slope"])),
        "state, bytes": (16, lambda t: t["state_bytes"]),
        "update": (6, lambda t: "-" if t["update"] == "none" else t["update"]),
        "remove": (6, lambda t: "-" if t["remove"] == "none" else t["remove"]),
        "kind": (13, _kind),
    }
    first = max((len(name) for name in rows), default=0)
    lines = ["The token mixers: npexp.build('tnp', dx=1, dy=1, mixer=...)."]
    for family, part in grouped(rows).items():
        lines += ["", f"{family}: {FAMILIES[family]}"]
        lines.append("  ".join(["name".ljust(first), *(key.ljust(width) for key, (width, _) in columns.items())]))
        for name, traits in part.items():
            cells = [textwrap.wrap(text(traits), width) or [""] for width, text in columns.values()]
            for i in range(max(map(len, cells))):
                words = (c[i] if i < len(c) else "" for c in cells)
                padded = (word.ljust(width) for word, (width, _) in zip(words, columns.values(), strict=True))
                lines.append("  ".join([("" if i else name).ljust(first), *padded]))
    lines += ["", *textwrap.wrap(MEANINGS, 118)]
    return "\n".join(line.rstrip() for line in lines)


MEANINGS = (
    "time, memory: measured powers of n, '-' where not measured yet. state: of one layer at dz 64 with 4 heads, for n "
    "points. update: 'stack': points join exactly through any number of layers; 'layer': so with context='raw'; "
    "'local': a new last point changes its last neighbours only. kind: 'set' needs no order of the context and "
    "'order' brings it into one; 'TE' sees where points are, whatever the origin; 'causal' can read in an order. "
    "--markdown has the papers and what they promise, --json everything."
)


def _kind(traits: Mapping[str, Any]) -> str:
    words = ["order" if traits["needs_order"] else "set"]
    return " ".join([*words, *(["TE"] * traits["translation_equivariant"]), *(["causal"] * traits["causal"])])


def _power(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def markdown(rows: Rows) -> str:
    """What `docs/mixers.md` holds: the guide, its lists of names filled in from the traits, and the table."""
    lists = {
        "subquadratic": [n for n, t in rows.items() if t["exponent"] < 2],
        "stack": [n for n, t in rows.items() if t["update"] == "stack"],
        "raw": [n for n, t in rows.items() if t["update"] == "layer" and t["exponent"] < 2],
        "removable": [n for n, t in rows.items() if t["remove"] == "exact"],
        "equivariant": [n for n, t in rows.items() if t["translation_equivariant"]],
        "constant": [n for n, t in rows.items() if t["constant_state"]],
        "causal": [n for n, t in rows.items() if t["causal"]],
        "local": [n for n, t in rows.items() if t["update"] == "local"],
    }
    text = GUIDE.read_text()
    for key, names in lists.items():
        text = text.replace(f"{{{key}}}", ", ".join(f"`{name}`" for name in names) or "none")
    lines = [text.rstrip()]
    for family, part in grouped(rows).items():
        lines += ["", f"### {family}", "", f"{FAMILIES[family].capitalize()}.", "", _row(MARKDOWN), _row(["---"] * 10)]
        lines += [_row([f"`{name}`", *(text(t) for text in MARKDOWN.values() if text)]) for name, t in part.items()]
    return "\n".join(lines) + "\n"


def _papers(traits: Mapping[str, Any]) -> str:
    return re.sub(r"\d{4}\.\d{4,5}", lambda m: f"[{m[0]}](https://arxiv.org/abs/{m[0]})", traits["paper"]) or "ours"


MARKDOWN: dict[str, Callable[[Mapping[str, Any]], str] | None] = {
    "name": None,
    "paper": _papers,
    "published": lambda t: f"O({t['published']})",
    "here": lambda t: f"O({t['cost']})",
    "time": lambda t: _power(t["time_slope"]),
    "memory": lambda t: _power(t["memory_slope"]),
    "state, bytes": lambda t: t["state_bytes"],
    "update": lambda t: t["update"],
    "remove": lambda t: t["remove"],
    "kind": _kind,
}


def _row(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"
