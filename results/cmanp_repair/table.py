"""Writes repair.md from repair.csv, and the learning rates that were tried from lr.csv.

python results/cmanp_repair/table.py
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
from shared import plus_minus, read

from npexp.tables import markdown

HERE = Path(__file__).parent
TO = HERE / "repair.md"


def text() -> str:
    """Rows by their gap, the smallest first."""
    rows = sorted(read(HERE / "repair.csv"), key=gap)
    heads = ["", "seed", "state, bytes", "weights", "steps", "training, processor seconds", "log-likelihood"]
    heads += ["gap to the exact GP", "gap on Matérn-5/2"]
    cells = [
        [
            row["name"],
            row["seed"],
            f"{int(row['state_bytes']):,}",
            f"{int(row['parameters']):,}",
            f"{int(row['steps']):,}",
            f"{float(row['train_seconds']):.0f}",
            *(plus_minus(row, key) for key in ("loglik_marginal", "oracle_gap_marginal", "matern52_gap")),
        ]
        for row in rows
    ]
    tried = sorted(read(HERE / "lr.csv"), key=lambda row: (row["name"], float(row["lr"])))
    rates = [
        [row["name"], row["lr"], f"{int(row['steps']):,}", plus_minus(row, "oracle_gap_marginal")] for row in tried
    ]
    return (
        f"# 1-D RBF functions, the smallest gap first\n\n{markdown(heads, cells)}\n"
        "# Learning rates, on validation tasks\n\n"
        f"{markdown(['', 'learning rate', 'steps', 'gap to the exact GP'], rates)}"
    )


def gap(row: dict[str, str]) -> float:
    """To the exact GP."""
    return float(row["oracle_gap_marginal"])


if __name__ == "__main__":
    TO.write_text(text())
