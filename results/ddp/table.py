"""Writes ddp.md from curves.csv.

python results/ddp/table.py
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
from shared import read

from npexp.tables import markdown

HERE = Path(__file__).parent
TO = HERE / "ddp.md"
PAIRS = {"2": "1", "4": "1", "1, then 4": "1", "4, float64": "1, float64"}  # runs, and what each is held against
METRICS = {"train/loss": "training loss", "val/loglik_joint": "validation"}


def text() -> str:
    """Runs in rows."""
    rows = read(HERE / "curves.csv")
    return markdown(
        ["largest difference from one process", *METRICS.values()],
        [
            [f"processes: {run}", *(f"{difference(rows, f'{key} on {run}', f'{key} on {one}'):.1e}" for key in METRICS)]
            for run, one in PAIRS.items()
        ],
    )


def difference(rows: list[dict[str, str]], run: str, one: str) -> float:
    """How far two columns are apart at most."""
    return max(abs(float(row[run]) - float(row[one])) for row in rows if row[one])


if __name__ == "__main__":
    TO.write_text(text())
