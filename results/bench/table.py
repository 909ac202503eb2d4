"""Writes bench.md from the JSON and CSV files beside it.

python results/bench/table.py
"""

import json
import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))
from shared import read

from npexp.tables import markdown

HERE = Path(__file__).parent
TO = HERE / "bench.md"


def rows(name: str) -> list[dict[str, Any]]:
    """Those of a file of benchmarks/."""
    return json.loads((HERE / f"{name}.json").read_text())["rows"]


def spread(values: list[float]) -> str:
    """Median and quartiles, three digits."""
    median, low, high = (number(value) for value in values)
    return f"{median} ({low} to {high})"


def number(value: float) -> str:
    """Three digits, or all in front of the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def training() -> str:
    """Training steps, with the ratios before this work."""
    before = {row["model"]: spread(row["ours / twin"]) for row in rows("train_step_before")}
    heads = ["model", "weights", "ours, ms", "twin, ms", "ratio", "before", "reached of the floor, ours", "twin"]
    cells = [
        [f"`{row['model']}`", f"{row['parameters']:,}", spread(row["ours, ms"]), spread(row["twin, ms"])]
        + [spread(row["ours / twin"]), before.get(row["model"], "")]
        + [f"{row[f'floor / {who}']:.0%}" for who in ("ours", "twin")]
        for row in rows("train_step")
    ]
    return markdown(heads, cells)


def use() -> str:
    """Predictions, conditioning, updates and draws."""
    heads = ["case", "", "ms", "ours / it", "peak memory, MiB"]
    return markdown(
        heads,
        [
            [f"`{row['case']}`", row["who"], spread(row["ms"]), spread(row["ours / it"]), f"{row['MiB']:.0f}"]
            for row in rows("predict")
        ],
    )


def tasks() -> str:
    """Tasks per second."""
    return markdown(
        ["kernel", "tasks per second"], [[f"`{row['kernel']}`", spread(row["tasks / s"])] for row in rows("gp_tasks")]
    )


def contexts() -> str:
    """Cells of npexp bench, before and after."""
    cells = {when: json.loads((HERE / f"{when}.json").read_text())["cells"] for when in ("after", "before")}
    keyed = {when: {(c["mode"], c["context"], c["model"]): c for c in found} for when, found in cells.items()}
    heads = ["mode", "context", "model", "ms", "before", "growth, MiB", "before", "state, KiB"]
    return markdown(
        heads,
        [
            [mode, f"{context:,}", f"`{model}`"]
            + [_time(keyed[when].get((mode, context, model), {})) for when in ("after", "before")]
            + [_memory(keyed[when].get((mode, context, model), {})) for when in ("after", "before")]
            + [f"{cell['state'] / 1024:,.0f}" if cell.get("state") else ""]
            for (mode, context, model), cell in sorted(keyed["after"].items())
        ],
    )


def training_memory() -> str:
    """Steps on long contexts, with everything kept and in chunks."""
    found = sorted(read(HERE / "constant_memory.csv"), key=lambda r: (r["model"], int(r["chunk"]), int(r["context"])))
    heads = ["model", "context", "chunk", "all kept, MiB", "in chunks, MiB", "time in chunks / all kept"]
    return markdown(
        heads,
        [
            [
                f"`{row['model']}`",
                f"{int(row['context']):,}",
                *(row[key] for key in ("chunk", "plain_mib", "chunked_mib")),
                f"{float(row['ratio']):.2f}",
            ]
            for row in found
        ],
    )


def _time(cell: dict[str, Any]) -> str:
    return number(1e3 * cell["cpu"][1]) if cell.get("status") == "ok" else cell.get("status", "")


def _memory(cell: dict[str, Any]) -> str:
    return f"{cell['peak'] / 2**20:.1f}" if cell.get("peak") is not None else ""


def text() -> str:
    """All tables."""
    parts = {
        "A training step beside its twin": training(),
        "In use, beside twins": use(),
        "Gaussian-process tasks": tasks(),
        "Against the size of the context": contexts(),
        "Training in constant memory": training_memory(),
    }
    return "\n".join(f"# {title}\n\n{table}" for title, table in parts.items())


if __name__ == "__main__":
    TO.write_text(text())
