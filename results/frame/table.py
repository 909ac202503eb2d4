"""Writes frame.md from the JSON files beside it: a random walk's scores and the `test_metrics.json` of a run.

python results/frame/table.py
"""

import json
from pathlib import Path

from npexp.tables import markdown, plus_minus

HERE = Path(__file__).parent
TO = HERE / "frame.md"
FILES = {"walk": "random walk, its variance fitted to training years", "rmnp_hybrid": "`rmnp_hybrid`"}
KEYS = {"loglik_marginal": "log-likelihood", "crps": "CRPS", "rmse": "RMSE"}


def text() -> str:
    """Predictors in rows."""
    lines = []
    for name, words in FILES.items():
        found = json.loads((HERE / f"{name}.json").read_text())
        lines.append([words, *(plus_minus(found[f"test/{key}"], found[f"test/{key}_sem"]) for key in KEYS)])
    return markdown(["forecasts of prices", *KEYS.values()], lines)


if __name__ == "__main__":
    TO.write_text(text())
