"""Draws `learning.csv`: what each variant reaches in the computing time of 8,000 CNP steps."""

import csv
from pathlib import Path

import matplotlib.pyplot as plt

HERE = Path(__file__).parent


def main() -> None:
    """Writes learning.png."""
    rows = sorted(csv.DictReader((HERE / "learning.csv").open()), key=lambda r: float(r["loglik_joint"]))
    names = [row["model"] for row in rows]
    joint, marginal = ([float(row[f"loglik_{kind}"]) for row in rows] for kind in ("joint", "marginal"))
    errors = [float(row["loglik_joint_sem"]) for row in rows]
    figure, axes = plt.subplots(figsize=(7, 0.22 * len(rows) + 1), layout="constrained")
    axes.barh(names, joint, xerr=errors, color="tab:blue", ecolor="0.4", label="joint")
    axes.plot(marginal, names, "o", color="tab:orange", markersize=3, label="marginal")
    axes.axvline(joint[names.index("cnp")], color="0.4", linewidth=0.8, linestyle="--", label="CNP")
    axes.set_xlabel("test log-likelihood, nats per target (mean ± one standard error)")
    axes.set_title("1-D RBF, each variant trained for the time of 8,000 CNP steps")
    axes.tick_params(axis="y", labelsize=7)
    axes.margins(y=0.01)
    axes.legend(loc="lower right", frameon=False)
    figure.savefig(HERE / "learning.png", dpi=150)


if __name__ == "__main__":
    main()
