"""Writes regret.md from regret.csv.

python results/bo/table.py
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
from shared import plus_minus, read

from npexp.tables import markdown

HERE = Path(__file__).parent
TO = HERE / "regret.md"
SHOWN = (5, 10, 25, 50, 100)  # evaluations


def text() -> str:
    """A table for each objective: methods in rows, numbers of evaluations in columns."""
    rows = read(HERE / "regret.csv")
    parts = []
    for objective in dict.fromkeys(row["objective"] for row in rows):
        runs: dict[tuple[str, str, str], dict[int, dict[str, str]]] = {}
        for row in rows:
            if row["objective"] == objective:
                run = runs.setdefault((row["method"], row["steps"], row["tasks"]), {})
                run[int(row["evaluations"])] = row
        shown = [n for n in SHOWN if any(n in run for run in runs.values())]
        table = markdown(
            ["method", "training steps", "functions", *(f"{n} evaluations" for n in shown), "seconds per evaluation"],
            [
                [f"`{method}`", f"{int(steps):,}" if steps else "", tasks]
                + [plus_minus(run.get(n, {}), "regret") for n in shown]
                + [f"{float(run[max(run)]['seconds_per_evaluation']):.2g}"]
                for (method, steps, tasks), run in runs.items()
            ],
        )
        parts.append(f"# {objective}\n\n{table}")
    return "Simple regret, mean ± standard error over functions.\n\n" + "\n".join(parts)


if __name__ == "__main__":
    TO.write_text(text())
