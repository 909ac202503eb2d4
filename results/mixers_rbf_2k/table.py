"""Writes mixers.md from mixers.csv: every mixer on 1-D RBF, those run on the two other tasks, and the bounds there.

python results/mixers_rbf_2k/table.py
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
from shared import plus_minus, read

from npexp.tables import markdown

HERE = Path(__file__).parent
TO = HERE / "mixers.md"
TASKS = ("far_fact", "lookup")


def text() -> str:
    """The tables as Markdown."""
    every = read(HERE / "mixers.csv")
    rows = [row for row in every if row["family"] != "bound"]
    found = {(row["task"], row["mixer"]): row for row in rows if row["loglik_marginal"]}
    rbf = [row for (task, _), row in found.items() if task == "gp_rbf"]
    rbf.sort(key=lambda row: -float(row["loglik_marginal"]))
    first = markdown(
        ["mixer", "family", "log-likelihood", "gap to the exact GP", "weights", "step, in dense steps"],
        [
            [
                f"`{row['mixer']}`",
                row["family"],
                plus_minus(row, "loglik_marginal"),
                plus_minus(row, "oracle_gap_marginal"),
                f"{int(row['parameters']):,}",
                f"{float(row['step_in_dense_steps']):.1f}",
            ]
            for row in rbf
        ],
    )
    others = dict.fromkeys(mixer for task, mixer in found if task in TASKS)
    second = markdown(
        ["mixer", "settings", *(f"`{task}`" for task in TASKS)],
        [
            [
                f"`{mixer}`",
                next(found[task, mixer]["settings"] for task in TASKS if (task, mixer) in found),
                *(plus_minus(found.get((task, mixer), {}), "loglik_marginal") for task in TASKS),
            ]
            for mixer in others
        ],
    )
    bounds = markdown(
        ["exact prediction from", "task", "log-likelihood"],
        [
            [
                row["mixer"].replace("exact", "all of the context"),
                f"`{row['task']}`",
                plus_minus(row, "loglik_marginal"),
            ]
            for row in every
            if row["family"] == "bound"
        ],
    )
    parts = {
        "1-D RBF after 2,000 steps, best first": first,
        "The two tasks made for failure": second,
        "What can be known on the two tasks": bounds,
    }
    return "\n".join(f"# {title}\n\n{table}" for title, table in parts.items())


if __name__ == "__main__":
    TO.write_text(text())
