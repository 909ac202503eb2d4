"""The figure of the README: gap to the exact GP against the size of the state, and against training time.

    python results/moment/plot.py [--learning FILE] [--opponents FILE] [--to FILE]

Reads results/learning/learning.csv (every variant in the same computing time) and opponents.csv beside this file
(models at one or more numbers of steps), and draws moment.png. On the left each model's longest run; named are the
familiar ones, and the best of several variants. The size of a state is measured by encoding; that of a model which
keeps its points, or something for each of them, is shown at 46 of them, the longest context of training, and drawn
hollow. Training time is processor time of one core: steps times the measured time of a step.
"""

import argparse
import csv
from collections import defaultdict
from pathlib import Path
from statistics import mean, median
from typing import NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from sizes import LONGEST, measured
from table import bayes

from npexp.callbacks.figures import BLACK, BLUE, GREY, STYLE, VERMILION

HERE = Path(__file__).parent
OURS = ("rmnp", "lpnp", "alpaca")
NAMED = ("cmanp", "cnp", "np", "anp", "tnp", "tnpa", "convcnp", "convnp", "gridded_vit", "set_transformer", "banp")
BAYES_GAP = float(bayes("test")["oracle_gap_marginal"])  # of not knowing the hyperparameters: nothing has less
GREEN = "#009E73"


class Point(NamedTuple):
    """A model after training."""

    name: str
    gap: float
    seconds: float
    size: int
    constant: bool
    equal: bool  # whether from learning.csv


def points(learning: Path, opponents: Path) -> list[Point]:
    """All of them, means over seeds. Costs in learning.csv are in CNP steps, whose length opponents.csv knows."""
    rows = list(csv.DictReader(opponents.open())) if opponents.exists() else []
    lengths = [float(r["seconds_per_step"]) / float(r["step_in_cnp_steps"]) for r in rows]
    cnp = median(lengths) if lengths else 0.006
    found = []
    for row in csv.DictReader(learning.open()):
        seconds = int(row["steps"]) * float(row["step_in_cnp_steps"]) * cnp
        found.append(Point(row["model"], float(row["oracle_gap_marginal"]), seconds, *measured(row["model"]), True))
    runs = defaultdict(list)
    for row in rows:
        runs[row["name"], int(row["steps"]), row["lr"]].append(row)
    for (name, steps, _), seeds in runs.items():
        gap, step = (mean(float(r[key]) for r in seeds) for key in ("oracle_gap_marginal", "seconds_per_step"))
        found.append(Point(name, gap, steps * step, *measured(name), False))
    return found


def style(point: Point) -> dict[str, object]:
    """Colour says whose, filling whether the state is constant, form which table."""
    ours = point.name.startswith(OURS[:2])
    colour = VERMILION if ours else GREEN if point.name.startswith(OURS[2]) else BLUE if point.constant else GREY
    face = colour if point.constant else "white"
    return {
        "s": 46 if ours else 26,
        "facecolors": face,
        "edgecolors": colour,
        "linewidths": 1.2,
        "zorder": 4 if ours else 3,
    }


def leaders(best: dict[str, Point]) -> set[str]:
    """Models of opponents.csv under a name of their own, and the best of those that are variants of one."""
    groups: dict[str, list[Point]] = {}
    for p in best.values():
        if not p.equal and "," in p.name and p.seconds:
            groups.setdefault(p.name.partition(",")[0], []).append(p)
    variants = {min(group, key=lambda p: p.gap).name for group in groups.values()}
    return variants | {p.name for p in best.values() if not p.equal and ("," not in p.name or not p.seconds)}


def label(axis: Axes, texts: list[tuple[float, float, str, str]]) -> None:
    """Writes names beside points, each where it covers least of what is there."""
    figure = axis.figure
    renderer = figure.canvas.get_renderer()
    dots = [tuple(axis.transData.transform(p)) for c in axis.collections for p in c.get_offsets()]
    for line in axis.lines:  # which names should not cross either
        dots += [tuple(p) for p in line.get_path().interpolated(12).transformed(line.get_transform()).vertices]
    taken, limits = [], axis.get_window_extent(renderer)
    spots = [(8, 0, "left"), (-8, 0, "right"), (0, 9, "center"), (0, -9, "center")]
    spots += [(7, 8, "left"), (-7, 8, "right"), (7, -8, "left"), (-7, -8, "right"), (12, 15, "left"), (12, -15, "left")]
    spots += [(-12, 15, "right"), (-12, -15, "right")]
    for x, y, name, colour in texts:
        best: tuple[float, Text] | None = None
        for rank, (dx, dy, side) in enumerate(spots):
            at = {"textcoords": "offset points", "ha": side, "va": "center", "fontsize": 7.5, "zorder": 5}
            text = axis.annotate(name, (x, y), (dx, dy), color=colour, **at)
            box = text.get_window_extent(renderer).padded(1.5)
            inside = limits.x0 <= box.x0 and box.x1 <= limits.x1 and limits.y0 <= box.y0 and box.y1 <= limits.y1
            cost = 10 * sum(box.overlaps(other) for other in taken) + sum(box.contains(*d) for d in dots)
            cost += 0.05 * rank + 20 * (not inside)
            if best is None or cost < best[0]:
                if best:
                    best[1].remove()
                best = cost, text
            else:
                text.remove()
        taken.append(best[1].get_window_extent(renderer).padded(1.5))


def grid(axis: Axes, title: str, unit: str) -> None:
    """Two logarithmic axes with few ticks and the Bayes limit."""
    axis.set(xscale="log", yscale="log", xlabel=unit, ylim=(0.034, 3.0))
    axis.set_title(title, loc="left")
    ticks = FuncFormatter(lambda v, _: f"{v:g}")
    axis.yaxis.set(
        major_locator=FixedLocator([0.05, 0.1, 0.2, 0.5, 1, 2]), minor_locator=NullLocator(), major_formatter=ticks
    )
    axis.grid(axis="y", color="0.92", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.axhspan(0.034, BAYES_GAP, color="0.94", linewidth=0)


def main() -> None:
    """Writes the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--learning", type=Path, default=HERE.parent / "learning" / "learning.csv")
    parser.add_argument("--opponents", type=Path, default=HERE / "opponents.csv")
    parser.add_argument("--to", type=Path, default=HERE / "moment.png")
    args = parser.parse_args()
    every = points(args.learning, args.opponents)
    trained = [p for p in every if p.seconds]
    best: dict[str, Point] = {}
    for p in sorted(every, key=lambda p: (p.seconds, -p.gap)):  # a model's longest run
        best[p.name] = p
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.4, 5.2), layout="constrained")
        FigureCanvasAgg(figure)  # which measures text
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=[1.15, 1])
        grid(left, "what a model remembers", "state of a task, bytes")
        grid(right, "what training cost", "seconds of one core")
        left.set_ylabel("gap to the exact GP, nats per target\n(1-D RBF, marginal; lower is better)")
        for p in best.values():
            left.scatter([p.size], [p.gap], **style(p))
        for name in best:
            runs = sorted((p.seconds, p.gap) for p in trained if p.name == name)
            if len(runs) > 1:
                right.plot(*zip(*runs, strict=True), color=style(best[name])["edgecolors"], linewidth=1.0, alpha=0.6)
        for p in trained:
            right.scatter([p.seconds], [p.gap], **style(p))
        for p in best.values():
            if not p.seconds:  # without training
                right.axhline(p.gap, color=GREY, linewidth=0.9, linestyle=(0, (4, 3)))
                place = {"transform": right.get_yaxis_transform(), "ha": "right", "va": "bottom", "fontsize": 7.5}
                right.text(0.99, 1.01 * p.gap, p.name, color="0.35", **place)
        left.text(0.99, 0.012, "out of reach: hyperparameters must be inferred", transform=left.transAxes, fontsize=7,
                  color="0.45", ha="right", va="bottom")  # fmt: skip
        kinds = [
            (VERMILION, VERMILION, "of this package"),
            (GREEN, GREEN, "Bayesian last layer"),
            (BLUE, BLUE, "constant state"),
        ]
        for colour, face, words in [
            *kinds,
            (GREY, "white", f"state grows with the context (shown at {LONGEST} points)"),
        ]:
            left.scatter([], [], s=26, facecolors=face, edgecolors=colour, linewidths=1.2, label=words)
        figure.legend(loc="outside lower center", ncols=4, handletextpad=0.2, columnspacing=1.6)
        figure.draw_without_rendering()
        ink = {p.name: BLACK if style(p)["edgecolors"] == GREY else style(p)["edgecolors"] for p in best.values()}
        ours = [p for p in best.values() if p.name in leaders(best) or p.name in NAMED]
        order = sorted(ours, key=lambda p: (p.equal, p.gap))
        label(left, [(p.size, p.gap, p.name, ink[p.name]) for p in order])
        label(right, [(p.seconds, p.gap, p.name, ink[p.name]) for p in order if p.seconds and not p.equal])
        equal = [p for p in trained if p.equal]
        middle, top = median(p.seconds for p in equal), max(p.gap for p in equal)
        note = f"{len(equal)} variants,\nthe same time each"
        right.annotate(
            note, (middle, top), (12, -6), textcoords="offset points", fontsize=7.5, color="0.35", va="center"
        )
        temporary = args.to.with_suffix(".tmp.png")
        figure.savefig(temporary, dpi=200)
        temporary.replace(args.to)


if __name__ == "__main__":
    main()
