"""Draws real.png from real.csv: how far models are ahead of the best prediction that needs no training.

python results/real/plot.py
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt

sys.path.append(str(Path(__file__).parents[1]))
from shared import read
from table import BASELINES, MODELS

HERE = Path(__file__).parent


def main() -> None:
    """One row per test set, one colour per model; bars are two standard errors, of both."""
    best: dict[str, tuple[float, float, str]] = {}
    models: dict[str, list[tuple[str, float, float]]] = {}
    for row in read(HERE / "real.csv"):
        name = row["data"] if row["test_set"] == "test" else f"{row['data']}, {row['test_set'].removeprefix('test_')}"
        value, error = float(row["loglik_marginal"]), float(row["loglik_marginal_sem"])
        if row["predictor"] in BASELINES:
            best[name] = max(best.get(name, (value, error, row["predictor"])), (value, error, row["predictor"]))
        else:
            models.setdefault(name, []).append((row["predictor"], value, error))
    names = sorted(models, reverse=True)
    figure, axes = plt.subplots(figsize=(8, 0.32 * len(names) + 1), constrained_layout=True)
    for i, model in enumerate(MODELS):
        rows = [(y, *found) for y, name in enumerate(names) for found in models[name] if found[0] == model]
        ahead = [value - best[names[y]][0] for y, _, value, _ in rows]
        bars = [2 * (error**2 + best[names[y]][1] ** 2) ** 0.5 for y, _, _, error in rows]
        at = [y + 0.15 * (i - 1.5) for y, *_ in rows]
        axes.errorbar(ahead, at, xerr=bars, fmt="o", markersize=4, linewidth=1, label=model)
    axes.axvline(0, color="black", linewidth=1)
    axes.set_yticks(range(len(names)), [f"{name} ({best[name][2]})" for name in names], fontsize=8)
    axes.set_xlabel("log-likelihood per target above that of the best baseline, in brackets")
    axes.legend(frameon=False, loc="upper right")
    figure.savefig(HERE / "real.png", dpi=110)


if __name__ == "__main__":
    main()
