"""Time and memory against the size of the context, on logarithmic axes."""

from pathlib import Path
from typing import TYPE_CHECKING

from npexp.bench.curves import crossings, slope
from npexp.bench.record import Record
from npexp.bench.tables import conditions
from npexp.callbacks.figures import COLOURS, MARKERS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

AXES = {"seconds": "time, seconds", "bytes": "memory growth, MiB"}
STYLE = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "font.size": 9,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "savefig.dpi": 150,
}


def plot(record: Record, path: str | Path) -> None:
    """Writes a figure: a row for each mode, time on the left and memory on the right.

    Fitted powers stand in the legends; rings show from where on one model is faster than another.
    """
    import matplotlib
    from matplotlib.figure import Figure

    curves = {what: list(record.curves(what)) for what in AXES}
    models = list(dict.fromkeys(model for _, model, _ in curves["seconds"]))
    modes = list(dict.fromkeys(mode for mode, _, _ in curves["seconds"]))
    if not modes:
        return
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.5, 2.7 * len(modes)), layout="constrained")
        axes = figure.subplots(len(modes), 2, squeeze=False)
        for column, (what, label) in enumerate(AXES.items()):
            for mode, model, curve in curves[what]:
                axis, i = axes[modes.index(mode), column], models.index(model)
                power = slope(curve)
                name = model if power is None else f"{model}: $n^{{{power:.2f}}}$"
                values = [value if what == "seconds" else value / 2**20 for value in curve.values()]
                style = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)], "markersize": 4}
                axis.loglog(list(curve), values, label=name, linewidth=1.4, **style)
            for mode, axis in zip(modes, axes[:, column], strict=True):
                axis.set(title=mode, ylabel=label, xlabel="context points")
                if axis.lines:
                    _finish(axis)
        for found in crossings(curves["seconds"]):
            ring = {"marker": "o", "markersize": 10, "fillstyle": "none", "color": "black", "linewidth": 0}
            axes[modes.index(found.mode), 0].plot(found.size, found.seconds, **ring)
        figure.suptitle(conditions(record), fontsize=9)
        figure.savefig(path)


def _finish(axis: "Axes") -> None:
    """Sizes as they were asked for; a decade at least, so that noise does not look like growth."""
    sizes = sorted({int(n) for line in axis.lines for n in line.get_xdata()})
    axis.set_xticks(sizes, [f"{n:,}" for n in sizes], rotation=30)
    axis.set_xticks([], minor=True)
    low, high = axis.get_ylim()
    wider = max(10 / (high / low), 1.0) ** 0.5
    axis.set_ylim(low / wider, high * wider)
    axis.grid(True, which="major", linewidth=0.4, alpha=0.5)
    axis.legend(loc="upper left", bbox_to_anchor=(1, 1))
