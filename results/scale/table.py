"""Writes scale.md from scale.csv.

python results/scale/table.py
"""

import sys
from collections.abc import Callable
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
from shared import plus_minus, read

from npexp.tables import markdown

HERE = Path(__file__).parent
TO = HERE / "scale.md"
Rows = list[dict[str, str]]


def by_size(rows: Rows, cell: Callable[[dict[str, str]], str]) -> str:
    """Sizes of the context in rows, models in columns."""
    found = {(row["context"], row["model"]): row for row in rows}
    models = list(dict.fromkeys(row["model"] for row in rows))
    return markdown(
        ["context", *(f"`{name}`" for name in models)],
        [
            [f"{int(size):,}", *(cell(found[size, name]) if (size, name) in found else "" for name in models)]
            for size in sorted({row["context"] for row in rows}, key=int)
        ],
    )


def text() -> str:
    """Gaps to the exact law, log-likelihoods, time, memory, and what was trained."""
    rows = read(HERE / "scale.csv")
    done = [row for row in rows if row["loglik"]]
    sizes = {int(row["context"]): row for row in done}
    models = {row["model"]: row for row in done}
    ceilings = markdown(
        ["context", "tasks", "exact"],
        [
            [f"{int(n):,}", row["tasks"], f"{float(row['exact']):.3f}"]
            for n, row in sorted(sizes.items(), key=lambda item: int(item[0]))
        ],
    )
    training = markdown(
        ["model", "weights", "steps", "seconds that these were to take", "seconds that they took"],
        [
            [
                f"`{name}`",
                *(f"{round(float(row[k])):,}" for k in ("parameters", "steps", "train_seconds", "spent_seconds")),
            ]
            for name, row in models.items()
        ],
    )
    parts = {
        "Nats per target below the exact log-likelihood": by_size(rows, lambda row: plus_minus(row, "gap")),
        "Log-likelihood per target": by_size(rows, lambda row: plus_minus(row, "loglik")),
        "What is attainable": ceilings,
        "Processor seconds of a prediction": by_size(rows, lambda row: number(row["seconds"])),
        "Peak memory of a prediction, MiB": by_size(rows, lambda row: number(row["peak_mib"])),
        "Training": training,
    }
    if missing := [row for row in rows if row["why_not"]]:
        lines = [[f"`{row['model']}`", f"{int(row['context']):,}", row["why_not"]] for row in missing]
        parts["Not run"] = markdown(["model", "context", "why"], lines)
    return "\n".join(f"# {title}\n\n{table}" for title, table in parts.items())


def number(word: str) -> str:
    """Two digits; nothing where there is nothing."""
    return f"{float(f'{float(word):.2g}'):,g}" if word else ""


if __name__ == "__main__":
    TO.write_text(text())
