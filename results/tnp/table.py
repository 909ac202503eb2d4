"""Writes tnp.md from the CSV and JSON files beside it.

python results/tnp/table.py
"""

import json
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
from shared import read

from npexp.tables import markdown, plus_minus

HERE = Path(__file__).parent
TO = HERE / "tnp.md"
RUNS = {"tnp": "`tnp`, our default", "paper_tnpd": "`paper/tnpd`, no clipping"}
RELEASED = "released implementation, its own sampler and test tasks"


def curves() -> dict[str, dict[int, float]]:
    """Gaps to the exact GP by steps: of our runs, then of the release."""
    found = {
        words: {int(row["step"]): float(row["oracle_gap_marginal"]) for row in read(HERE / f"{name}.csv")}
        for name, words in RUNS.items()
    }
    released = {int(row["step"]): float(row["oracle"]) - float(row["loglik"]) for row in read(HERE / "released.csv")}
    return found | {RELEASED: released}


def scores() -> str:
    """After 10,000 steps, on test tasks."""
    lines = []
    for name, words in RUNS.items():
        found = json.loads((HERE / f"{name}.json").read_text())
        values = [
            [found[f"test/{key}{end}"] for end in ("", "_sem")] for key in ("loglik_marginal", "oracle_gap_marginal")
        ]
        lines.append([words, "16,000", *(plus_minus(*value) for value in values)])
    last = read(HERE / "released.csv")[-1]
    gap = float(last["oracle"]) - float(last["loglik"])
    lines.append([RELEASED, "3,008", last["loglik"], f"{gap:.2f}"])
    return markdown(["after 10,000 steps", "test tasks", "log-likelihood", "gap to the exact GP"], lines)


def text() -> str:
    """Test scores, then runs in rows and in columns the steps that the release was scored at."""
    found = curves()
    steps = list(found[RELEASED])
    lines = [[words, *(f"{gaps[step]:.2f}" for step in steps)] for words, gaps in found.items()]
    curve = markdown(["gap to the exact GP after", *(f"{step:,} steps" for step in steps)], lines)
    return f"# On test tasks\n\n{scores()}\n# On 1,024 validation tasks\n\n{curve}"


if __name__ == "__main__":
    TO.write_text(text())
