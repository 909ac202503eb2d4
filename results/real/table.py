"""Writes real.md from real.csv and loading.csv.

python results/real/table.py
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
from shared import plus_minus, read

from npexp.tables import markdown

HERE = Path(__file__).parent
TO = HERE / "real.md"
BASELINES = ["mean of the context", "last value", "linear interpolation", "nearest neighbours", "exact GP"]
MODELS = ["rmnp", "rmnp_hybrid", "tnp", "tnpkr"]


def scores(rows: list[dict[str, str]], key: str) -> str:
    """A row per test set, a column per predictor."""
    found = {(row["data"], row["test_set"], row["predictor"]): row for row in rows}
    return markdown(
        ["data", "test set", *BASELINES, *(f"`{name}`" for name in MODELS)],
        [
            [f"`{data}`", f"`{split}`"]
            + [plus_minus(found.get((data, split, name), {}), key, 2) for name in [*BASELINES, *MODELS]]
            for data, split in sorted({name[:2] for name in found})
        ],
    )


def text() -> str:
    """Predictors in columns, a row per test set, and what sources deliver."""
    rows = read(HERE / "real.csv")
    loglik = scores(rows, "loglik_marginal")
    gaps = scores([row for row in rows if row["data"].startswith("gp_")], "oracle_gap_marginal")
    trained = markdown(
        ["data", "model", "weights", "steps"],
        [
            [f"`{row['data']}`", f"`{row['predictor']}`"] + [f"{int(row[key]):,}" for key in ("parameters", "steps")]
            for row in sorted(rows, key=lambda row: (row["data"], row["predictor"]))
            if row["test_set"] == "test" and int(row["steps"])
        ],
    )
    loading = markdown(
        ["data", "tasks per second made", "consumed by `cnp`", "ratio"],
        [
            [f"`{row['data']}`"]
            + [f"{float(row[f'{key}_per_second']):,.0f}" for key in ("delivered", "consumed")]
            + [f"{float(row['ratio']):.1f}"]
            for row in read(HERE / "loading.csv")
        ],
    )
    parts = {
        "Log-likelihood per target and output": loglik,
        "Gap to the law that made the tasks": gaps,
        "Training": trained,
        "Loading": loading,
    }
    return "\n".join(f"# {title}\n\n{table}" for title, table in parts.items())


if __name__ == "__main__":
    TO.write_text(text())
