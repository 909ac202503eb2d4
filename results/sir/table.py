"""Writes sir.md from sir.csv.

python results/sir/table.py
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
from shared import plus_minus, read

from npexp.tables import markdown

HERE = Path(__file__).parent
TO = HERE / "sir.md"


def text() -> str:
    """Predictors in rows and sizes of the lattice in columns; then what each prediction takes."""
    rows = read(HERE / "sir.csv")
    found = {(row["model"], row["seed"], int(row["side"])): row for row in rows}
    runs = list(dict.fromkeys((row["model"], row["seed"]) for row in rows))
    sides = sorted({side for *_, side in found})
    scores = []
    for run in runs:
        cells = [found.get((*run, side), {}) for side in sides]
        facts = next(row for row in cells if row)
        trained = [f"{int(facts[key]):,}" if facts[key] else "" for key in ("parameters", "steps")]
        scores.append([f"`{run[0]}`", run[1], *trained, *(plus_minus(row, "loglik") for row in cells)])
    heads = ["predictor", "seed", "weights", "steps", *(f"{side} x {side}" for side in sides)]
    costs = []
    for (model, seed, side), row in sorted(found.items(), key=lambda item: (item[0][2], runs.index(item[0][:2]))):
        time, memory = f"{float(row['seconds_per_task']):.2g}", f"{float(row['peak_memory_mb']):.0f}"
        costs.append([f"`{model}`", seed, f"{side} x {side}", row["tasks"], time, memory, row["settings"]])
    takes = ["predictor", "seed", "lattice", "tasks", "seconds per task", "peak memory, MiB", "settings"]
    return (
        f"# Log-likelihood per target cell\n\n{markdown(heads, scores)}\n"
        f"# What prediction takes\n\n{markdown(takes, costs)}"
    )


if __name__ == "__main__":
    TO.write_text(text())
