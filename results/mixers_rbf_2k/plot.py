"""Draws mixers.csv: log-likelihood against the cost of a step, and the two tasks made for families to fail on.

    python results/mixers_rbf_2k/plot.py [--table FILE] [--to FILE]

Reads what `run.py` wrote; of several seeds the mean, of several lengths of training the longest.
"""

import argparse
import csv
from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from npexp.callbacks.figures import BLACK, GREY, STYLE

HERE = Path(__file__).parent
COLOURS = {
    "dense": BLACK,
    "kernel": "#D55E00",
    "latent": "#0072B2",
    "pattern": "#009E73",
    "learned": "#CC79A7",
    "fixed": "#E69F00",
    "recurrent": "#56B4E9",
    "pooled": "#7A5195",
    "conditional": "#A6761D",
}
TITLES = {"far_fact": "a far fact, against windows", "lookup": "look-up, against latents"}
LIMITS = {"far_fact": "12 nearest points", "lookup": "8 spread points"}


class Result(NamedTuple):
    """A mixer, or a bound, on a task."""

    family: str
    loglik: float
    error: float
    cost: float


def results(path: Path) -> dict[str, dict[str, Result]]:
    """By task and name; failed runs are left out, and have NaN where no seed is left."""
    runs: dict[str, dict[str, list[dict[str, str]]]] = defaultdict(lambda: defaultdict(list))
    for row in csv.DictReader(path.open()):
        runs[row["task"]][row["mixer"]].append(row)
    return {task: {name: pooled(rows) for name, rows in names.items()} for task, names in runs.items()}


def pooled(rows: list[dict[str, str]]) -> Result:
    """Seeds of the longest training together."""
    longest = max(int(row["steps"]) for row in rows)
    rows = [row for row in rows if int(row["steps"]) == longest]

    def column(key: str) -> float:
        values = [float(row[key]) for row in rows if row[key]]
        return mean(values) if values else float("nan")

    scores = [column(key) for key in ("loglik_marginal", "loglik_marginal_sem", "step_in_dense_steps")]
    return Result(rows[0]["family"] or "dense", *scores)


def scatter(axis: Axes, found: dict[str, Result]) -> None:
    """Every mixer, named where nothing cheaper is better, and the best of each family."""
    named, best = {"dense"}, float("-inf")
    for name, r in sorted(found.items(), key=lambda item: item[1].cost):
        if r.loglik > best:
            named.add(name)
            best = r.loglik
    for family in COLOURS:
        members = [name for name, r in found.items() if r.family == family and r.loglik == r.loglik]
        named |= {max(members, key=lambda name: found[name].loglik)} if members else set()
    for name, r in found.items():
        axis.errorbar(
            r.cost, r.loglik, r.error, fmt="o", color=COLOURS.get(r.family, GREY), markersize=4, linewidth=0.8
        )
        if name in named:
            axis.annotate(name, (r.cost, r.loglik), (5, 3), textcoords="offset points", fontsize=7)
    axis.set(xscale="log", xlabel="training step, in steps of dense attention")
    axis.set_ylabel("test log-likelihood, nats per target")
    axis.set_title("1-D RBF", loc="left")
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.xaxis.set_minor_formatter(lambda value, _: f"{value:g}" if str(value)[0] in "25" else "")


def bars(axis: Axes, task: str, found: dict[str, Result], names: list[str]) -> None:
    """How far each mixer comes from a prediction without a context, at the left end, to the exact one."""
    start, exact, limit = (found[key].loglik for key in ("no context", "exact", LIMITS[task]))
    for place, name in enumerate(names):
        if name not in found:
            continue
        r = found[name]
        if r.loglik == r.loglik:
            axis.barh(
                place, r.loglik - start, left=start, color=COLOURS.get(r.family, GREY), xerr=r.error, ecolor="0.3"
            )
        else:
            axis.text(start, place, " failed", va="center", fontsize=6, color="0.4")
    axis.axvline(limit, color=BLACK, linewidth=0.9, linestyle=(0, (4, 3)))
    axis.axvline(exact, color=BLACK, linewidth=0.9)
    lowest = min([start, *(r.loglik for r in found.values() if r.loglik == r.loglik)])
    axis.set(xlim=(lowest - 0.05, exact + 0.1), ylim=(-0.6, len(names) - 0.4))
    axis.set_xlabel(f"nats per target\nlines: exact prediction, from the\n{LIMITS[task]} and from all")
    axis.set_yticks(range(len(names)), names, fontsize=6.5)
    axis.set_title(TITLES[task], loc="left")
    axis.grid(axis="y", visible=False)


def main() -> None:
    """Writes the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, default=HERE / "mixers.csv")
    parser.add_argument("--to", type=Path, default=HERE / "mixers.png")
    args = parser.parse_args()
    found = results(args.table)
    shown = [task for task in TITLES if task in found]
    families = {name: r.family for task in found.values() for name, r in task.items() if r.family != "bound"}
    measured = {name for task in shown for name in found[task]} & set(families)
    names = sorted(measured, key=lambda name: (list(COLOURS).index(families[name]), name), reverse=True)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.5 + 3 * len(shown), max(4.5, 0.15 * len(names) + 1)), layout="constrained")
        axes = figure.subplots(1, 1 + len(shown), width_ratios=[1.7, *[1] * len(shown)], squeeze=False)[0]
        scatter(axes[0], found.get("gp_rbf", {}))
        for axis, task in zip(axes[1:], shown, strict=True):
            bars(axis, task, found[task], names)
            axis.tick_params(axis="y", labelleft=axis is axes[1])
        used = [family for family in COLOURS if family in families.values()]
        dots = [Line2D([], [], marker="o", linestyle="", color=COLOURS[f], markersize=4, label=f) for f in used]
        axes[0].legend(handles=dots, loc="lower right", fontsize=7)
        figure.savefig(args.to, dpi=150)


if __name__ == "__main__":
    main()
