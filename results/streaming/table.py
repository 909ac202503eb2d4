"""Writes streaming.md from streaming.csv and latency.csv.

python results/streaming/table.py
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
from shared import plus_minus, read

from npexp.tables import markdown

HERE = Path(__file__).parent
TO = HERE / "streaming.md"
NAMES = {
    "exact": "exact GP, all before, drift known",
    "gp": "exact GP on the window, drift known",
    "gp_static": "exact GP on the window, as if nothing drifted",
    "window": "`{}`, window",
    "decay": "`{}`, decay",
    "all": "`{}`, nothing forgotten",
}
TIMES = {
    "updated": "remove, update, predict",
    "encoded": "encode the window, predict",
    "predicted": "predict alone",
    "gp_updated": "exact GP, inverse kept",
    "gp": "exact GP, Cholesky factor",
}


def accuracy(rows: list[dict[str, str]], key: str) -> str:
    """Who in rows, spans of memory in columns; what has no span has one value."""
    spans = sorted({int(row["span"]) for row in rows if row["span"]})
    found = {(row["method"], row["model"], row["span"]): row for row in rows}
    who = sorted(dict.fromkeys(k[:2] for k in found), key=lambda k: (list(NAMES).index(k[0]), k[1]))
    lines = []
    for method, model in who:
        whole = plus_minus(found.get((method, model, ""), {}), key)
        own = [plus_minus(found.get((method, model, str(span)), {}), key) for span in spans]
        lines.append([NAMES[method].format(model), whole, *own])
    return markdown(["", "no span", *(f"{span} readings" for span in spans)], lines)


def latency(rows: list[dict[str, str]]) -> str:
    """Windows in columns."""
    found = {(row["method"], row["window"]): float(row["ratio"]) for row in rows}
    windows = sorted({row["window"] for row in rows}, key=int)
    lines = [
        [name, *(f"{found[method, w]:.2g}" if (method, w) in found else "" for w in windows)]
        for method, name in TIMES.items()
    ]
    return markdown(["", *(f"{int(w):,} readings" for w in windows)], lines)


def text() -> str:
    """Scores for each drift, exactness, and what an event costs."""
    rows = read(HERE / "streaming.csv")
    parts = []
    for drift in sorted({row["drift"] for row in rows}, key=float):
        mine = [row for row in rows if row["drift"] == drift]
        title = f"Drift in {float(drift):,.0f} readings"
        parts.append(f"# {title}: log-likelihood of the next reading\n\n{accuracy(mine, 'loglik')}")
        parts.append(f"# {title}: root mean squared error of the next reading\n\n{accuracy(mine, 'rmse')}")
    largest: dict[tuple[str, str], float] = {}
    for row in rows:
        if row["difference"]:
            who = NAMES[row["method"]].format(row["model"]), f"{int(row['events']):,}"
            largest[who] = max(largest.get(who, 0.0), float(row["difference"]))
    exactness = markdown(
        ["", "events", "largest difference, in standard deviations"],
        [[*who, f"{value:.1g}"] for who, value in largest.items()],
    )
    parts.append(f"# After all events, against a state encoded at once\n\n{exactness}")
    parts.append(
        "# Time of an event, in units of that with removal and update\n\n" + latency(read(HERE / "latency.csv"))
    )
    return "\n".join(parts)


if __name__ == "__main__":
    TO.write_text(text())
