"""Writes learning.md from learning.csv and long.csv.

python results/learning/table.py
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
from shared import plus_minus, read

from npexp.tables import markdown

HERE = Path(__file__).parent
TO = HERE / "learning.md"
LAWS = ("joint", "marginal")


def scores(rows: list[dict[str, str]]) -> str:
    """Models in the order of their joint scores, below the exact GP on the same tasks."""
    exact = [float(rows[0][f"loglik_{law}"]) + float(rows[0][f"oracle_gap_{law}"]) for law in LAWS]
    lines = [["exact GP, hyperparameters known", "", "", "", *(f"{value:.3f}" for value in exact)]]
    for row in sorted(rows, key=lambda row: -float(row["loglik_joint"])):
        counts = [f"{int(row[key]):,}" for key in ("parameters", "steps")]
        values = [plus_minus(row, f"loglik_{law}") for law in LAWS]
        lines.append([f"`{row['model']}`", *counts, f"{float(row['step_in_cnp_steps']):.1f}", *values])
    return markdown(["model", "weights", "steps", "a step, in CNP steps", "joint log-likelihood", "marginal"], lines)


def text() -> str:
    """Both budgets."""
    short, long = (scores(read(HERE / f"{name}.csv")) for name in ("learning", "long"))
    return f"# In the time of 8,000 CNP steps\n\n{short}\n# In the time of 24,000 CNP steps\n\n{long}"


if __name__ == "__main__":
    TO.write_text(text())
