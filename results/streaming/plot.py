"""Draws streaming.png from streaming.csv and latency.csv: what forgetting is worth, and what an event costs.

python results/streaming/plot.py
"""

import sys
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from npexp.callbacks.figures import BLACK, BLUE, GREY, STYLE, VERMILION

sys.path.append(str(Path(__file__).parents[1]))
from shared import read

HERE = Path(__file__).parent
GREEN, LOWEST = "#009E73", 3.0  # nats below the ceiling that are shown
LINES = {  # by method and model, the latter "" for exact processes
    ("window", "rmnp"): (BLUE, "-", "RMNP, window"),
    ("decay", "rmnp"): (BLUE, "--", "RMNP, decay"),
    ("all", "rmnp"): (BLUE, ":", "RMNP, all"),
    ("window", "cnp"): (VERMILION, "-", "CNP, window"),
    ("decay", "cnp"): (VERMILION, "--", "CNP, decay"),
    ("gp", ""): (GREEN, "-", "GP on the window, drift known"),
    ("gp_static", ""): (GREY, "-", "GP on the window, no drift"),
    ("exact", ""): (BLACK, (0, (4, 3)), "GP, all before, drift known"),
}
TIMES = {
    "updated": (BLUE, "-", "RMNP, updated"),
    "encoded": (BLUE, "--", "RMNP, encoded anew"),
    "gp_updated": (GREY, "-", "GP, inverse kept"),
    "gp": (GREY, "--", "GP, Cholesky factor"),
}


def scores(axis: Axes, rows: list[dict[str, str]]) -> None:
    """Log-likelihood against the span of the memory, with bars of a standard error."""
    ceiling = next(float(row["loglik"]) for row in rows if row["method"] == "exact")
    for (method, model), (colour, style, name) in LINES.items():
        own = [row for row in rows if (row["method"], row["model"]) == (method, model)]
        if own and not own[0]["span"]:
            axis.axhline(float(own[0]["loglik"]), color=colour, linestyle=style, linewidth=1.1, label=name)
        elif own:
            own.sort(key=lambda row: int(row["span"]))
            x, y, bars = zip(*((int(r["span"]), float(r["loglik"]), float(r["loglik_sem"])) for r in own), strict=True)
            axis.errorbar(x, y, bars, color=colour, linestyle=style, marker="o", ms=3, linewidth=1.3, label=name)
    axis.set(xscale="log", xlabel="span of the memory, readings", ylim=(ceiling - LOWEST, ceiling + 0.15))
    axis.set_xticks(sorted({int(row["span"]) for row in rows if row["span"]}), minor=False)
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.minorticks_off()
    axis.set_title(f"drift in {float(rows[0]['drift']):,.0f} readings", loc="left")


def main() -> None:
    """Writes the figure."""
    rows = read(HERE / "streaming.csv")
    drifts = sorted({row["drift"] for row in rows}, key=float)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.5, 3.9), layout="constrained")
        axes = figure.subplots(1, len(drifts) + 1)
        for axis, drift in zip(axes, drifts, strict=False):
            scores(axis, [row for row in rows if row["drift"] == drift])
        axes[0].set_ylabel("log-likelihood of the next reading, nats")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower left", ncols=3, fontsize=7.5)
        times = read(HERE / "latency.csv")
        for method, (colour, style, name) in TIMES.items():
            own = sorted((int(row["window"]), float(row["ratio"])) for row in times if row["method"] == method)
            if own:
                axes[-1].plot(*zip(*own, strict=True), color=colour, linestyle=style, marker="o", ms=3, label=name)
        axes[-1].set(xscale="log", yscale="log", xlabel="window, readings", ylabel="time of an event, in RMNP's")
        axes[-1].set_title("remove, update, predict", loc="left")
        axes[-1].legend(fontsize=7.5)
        figure.savefig(HERE / "streaming.png", dpi=150)


if __name__ == "__main__":
    main()
