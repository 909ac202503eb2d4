"""Draws regret.csv: simple regret against evaluations, mean and a standard error on either side.

python results/bo/plot.py [--table FILE] [--to FILE]
"""

import argparse
import csv
from collections import defaultdict
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from npexp.callbacks.figures import BLACK, BLUE, GREY, STYLE, VERMILION

HERE = Path(__file__).parent
LINES = {
    "rmnp": (BLUE, "-", "RMNP"),
    "tnp": (VERMILION, "-", "TNP"),
    "gp": ("#009E73", "-", "GP, fitted"),
    "oracle": (BLACK, (0, (4, 3)), "GP, true prior"),
    "random": (GREY, (0, (1, 1)), "random"),
}
COLUMNS = 3


def curves(axis: Axes, rows: list[dict[str, str]]) -> None:
    """A line and a band for each method."""
    for method, (colour, style, _) in LINES.items():
        mine = sorted(
            (int(r["evaluations"]), float(r["regret"]), float(r["regret_sem"])) for r in rows if r["method"] == method
        )
        if not mine:
            continue
        n, regret, sem = zip(*mine, strict=True)
        axis.plot(n, regret, color=colour, linestyle=style, linewidth=1.3)
        low, high = ([max(r + side * s, 1e-9) for r, s in zip(regret, sem, strict=True)] for side in (-1, 1))
        axis.fill_between(n, low, high, color=colour, alpha=0.2, linewidth=0)
    lowest = min(float(r["regret"]) for r in rows)
    axis.set_yscale("log")
    axis.set_ylim(bottom=max(lowest / 2, 1e-4))


def main() -> None:
    """Writes the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, default=HERE / "regret.csv")
    parser.add_argument("--to", type=Path, default=HERE / "regret.png")
    args = parser.parse_args()
    found: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in csv.DictReader(args.table.open()):
        found[row["objective"]].append(row)
    down = -(-len(found) // COLUMNS)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3 * COLUMNS, 2.5 * down + 0.4), layout="constrained")
        axes = figure.subplots(down, COLUMNS, squeeze=False)
        for axis, (name, rows) in zip(axes.flat, found.items(), strict=False):
            curves(axis, rows)
            axis.set_title(name.replace("_", " "), loc="left")
        for axis in axes.flat[len(found) :]:
            axis.set_visible(False)
        for axis in axes[:, 0]:
            axis.set_ylabel("simple regret")
        for axis in axes[-1]:
            axis.set_xlabel("evaluations")
        used = {r["method"] for rows in found.values() for r in rows}
        handles = [Line2D([], [], color=c, linestyle=s, label=n) for m, (c, s, n) in LINES.items() if m in used]
        figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
        figure.savefig(args.to, dpi=150)


if __name__ == "__main__":
    main()
