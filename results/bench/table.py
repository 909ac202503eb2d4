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
GOALS = {  # of our time over the twin's, set before the work
    **{"tnpd": 0.65, "lbanp": 0.55, "cmanp": 0.55, "tnpa": 0.7, "anp": 0.7, "eqtnp": 0.7},
    **{"canp": 0.7, "cnp": 0.7, "np": 0.7, "bnp": 0.7, "banp": 0.7},
    **{"tnpd-8192": 0.9, "cmanp-condition-131072": 0.5, "cmanp-update-32768": 0.5, "tnpa-sample-128": 0.05},
}


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
    heads = [
        "model",
        "weights",
        "ours, ms",
        "twin, ms",
        "ratio",
        "goal",
        "before",
        "reached of the floor, ours",
        "twin",
    ]
    cells = [
        [f"`{row['model']}`", f"{row['parameters']:,}", spread(row["ours, ms"]), spread(row["twin, ms"])]
        + [spread(row["ours / twin"]), f"{GOALS[row['model']]:g}", before.get(row["model"], "")]
        + [f"{row[f'floor / {who}']:.0%}" for who in ("ours", "twin")]
        for row in rows("train_step")
    ]
    return markdown(heads, cells)


def use() -> str:
    """Predictions, conditioning, updates and draws."""
    heads = ["case", "", "ms", "ours / it", "goal", "peak memory, MiB"]
    return markdown(
        heads,
        [
            [f"`{row['case']}`", row["who"]]
            + [spread(row[key]) for key in ("ms", "ours / it")]
            + [f"{GOALS[row['case']]:g}" if row["who"] != "ours" and row["case"] in GOALS else "", f"{row['MiB']:.0f}"]
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


def long() -> str:
    """Cells of npexp bench up to a million points."""
    cells = json.loads((HERE / "long.json").read_text())["cells"]
    heads = ["encoded context", "model", "ms", "growth, MiB", "state, KiB"]
    return markdown(
        heads,
        [
            [f"{cell['context']:,}", f"`{cell['model']}`", _time(cell), _memory(cell), f"{cell['state'] / 1024:,.0f}"]
            for cell in cells
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


def headline() -> str:
    """The largest contexts."""
    found = {(row["case"], row["who"]): row for row in rows("predict")}
    lines = []
    for words, case, who in (
        ("TNP-D answers from 8,192 points", "tnpd-8192", "twin"),
        ("CMANP conditions on 131,072 points", "cmanp-condition-131072", "twin, in one block"),
    ):
        memory = [f"{found[case, name]['MiB']:,.0f}" for name in ("ours", who)]
        lines.append([words, who, number(found[case, who]["ours / it"][0]), *memory])
    step = next(
        row
        for row in read(HERE / "constant_memory.csv")
        if (row["model"], row["context"], row["chunk"]) == ("cmanp", "100000", "1000")
    )
    memory = [f"{float(step[key]):,.0f}" for key in ("chunked_mib", "plain_mib")]
    lines.append(
        ["CMANP trains on 100,000 points, in chunks", "everything kept", number(float(step["ratio"])), *memory]
    )
    return markdown(["", "beside", "time, of the other's", "memory, MiB", "of the other"], lines)


PARTS = {"headline": headline}


def text() -> str:
    """All tables."""
    parts = {
        "A training step beside its twin": training(),
        "In use, beside twins": use(),
        "Gaussian-process tasks": tasks(),
        "Against the size of the context": contexts(),
        "A million points": long(),
        "Training in constant memory": training_memory(),
    }
    return "\n".join(f"# {title}\n\n{table}" for title, table in parts.items())


if __name__ == "__main__":
    TO.write_text(text())
