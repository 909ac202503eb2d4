"""Figures of predictions as lines and pictures.

Colours are from the Okabe-Ito palette, which colour-blind readers can tell apart; the exact posterior is dashed, so
that a figure survives a black-and-white printer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, VERMILION, BLACK, GREY = "#0072B2", "#D55E00", "#000000", "#8C8C8C"
COLOURS = (BLUE, VERMILION, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", BLACK)  # of models beside each other
MARKERS = "osD^vPX*"
Z95 = 1.959964  # half width of the central 95 % of a standard normal
LETTERS = 18  # as many as stand above a picture
GREYS = {"cmap": "gray", "vmin": 0, "vmax": 1, "interpolation": "nearest"}
STYLE = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "savefig.dpi": 150,
}


class Panel(NamedTuple):
    """One task and a prediction for it.

    Args:
        xc: context inputs, `[nc, dx]`.
        yc: context outputs, `[nc, dy]`.
        xt: target inputs, `[nt, dx]`.
        yt: target outputs, `[nt, dy]`.
        mean: predicted mean of the targets, `[nt, dy]`.
        stddev: predicted standard deviation, observation noise included, `[nt, dy]`.
        truth: the noise-free targets, `[nt, dy]`, or None.
        exact_mean: mean of the exact predictive, `[nt, dy]`, or None.
        exact_stddev: its standard deviation, `[nt, dy]`, or None.
        image_shape: rows and columns of the targets when they are pixels.
    """

    xc: np.ndarray
    yc: np.ndarray
    xt: np.ndarray
    yt: np.ndarray
    mean: np.ndarray
    stddev: np.ndarray
    truth: np.ndarray | None = None
    exact_mean: np.ndarray | None = None
    exact_stddev: np.ndarray | None = None
    image_shape: tuple[int, int] | None = None


def curve_figure(panels: Sequence[Panel], columns: int = 3) -> Figure:
    """Draws one-dimensional tasks: the model's mean and 95 % band, context, truth and the exact posterior.

    Args:
        panels: the tasks; only the first output is drawn.
        columns: panels in a row.
    """
    return panel_figure(panels, min(columns, len(panels)), draw_curve, (3.6, 2.5), ("x", "y"))


def panel_figure(
    panels: Sequence[Any],
    columns: int,
    draw: Callable[[Axes, Any], None],
    size: tuple[float, float],
    labels: tuple[str, str],
) -> Figure:
    """Draws panels row by row, with one legend above.

    Args:
        panels: what is drawn.
        columns: panels in a row.
        draw: draws one.
        size: width and height of a panel, in inches.
        labels: below the lowest panels, and beside the first of each row; "" leaves what `draw` has written.
    """
    import matplotlib
    from matplotlib.figure import Figure

    rows = -(-len(panels) // columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(size[0] * columns, size[1] * rows + 0.5), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False)
        for axis, panel in zip(axes.flat, panels, strict=False):
            draw(axis, panel)
        for axis in axes.flat[len(panels) :]:
            axis.set_axis_off()
        for axis in axes[:, 0] if labels[1] else ():
            axis.set_ylabel(labels[1])
        for column in range(columns if labels[0] else 0):
            axes[(len(panels) - 1 - column) // columns, column].set_xlabel(labels[0])
        # The panels may show different things: collect each label once.
        entries = {
            label: handle for axis in axes.flat for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
        }
        if entries:
            width = size[0] * columns
            labels = [fill(label, max(8, int((width - 0.5) / 0.075))) for label in entries]
            widest = 0.5 + 0.075 * max(len(text) for label in labels for text in label.splitlines())
            beside = max(1, min(len(entries), int(width / widest)))  # inches of the line and of the letters
            lines = -(-len(labels) // beside) * max(len(label.splitlines()) for label in labels)
            figure.set_figheight(figure.get_figheight() + 0.17 * (lines - 1))
            figure.legend(entries.values(), labels, loc="outside upper center", ncols=beside)
    return figure


def draw_curve(axis: Axes, panel: Panel) -> None:
    """Draws one task on a matplotlib axis.

    Args:
        axis: where to draw.
        panel: the task, with `dx` = 1.
    """
    x = panel.xt[:, 0]
    order = x.argsort()
    x = x[order]

    def line(values: np.ndarray) -> np.ndarray:
        return values[order, 0]

    mean, half = line(panel.mean), Z95 * line(panel.stddev)
    axis.fill_between(x, mean - half, mean + half, color=BLUE, alpha=0.2, linewidth=0, label="model, 95 %")
    if panel.truth is not None:
        axis.plot(x, line(panel.truth), color=GREY, linewidth=1.0, label="truth")
    axis.plot(x, mean, color=BLUE, label="model, mean")
    if panel.exact_mean is not None:
        exact = line(panel.exact_mean)
        axis.plot(x, exact, color=VERMILION, linestyle=(0, (4, 2)), linewidth=1.2, label="exact, mean")
        if panel.exact_stddev is not None:
            edge = Z95 * line(panel.exact_stddev)
            style = {"color": VERMILION, "linestyle": (0, (1, 1.5)), "linewidth": 1.0}
            axis.plot(x, exact - edge, label="exact, 95 %", **style)
            axis.plot(x, exact + edge, **style)
    dots = {"color": BLACK, "markersize": 3.5, "markeredgecolor": "white", "markeredgewidth": 0.5}
    axis.plot(panel.xc[:, 0], panel.yc[:, 0], "o", label="context", **dots)
    axis.set_title(f"{len(panel.xc)} context points", loc="left")
    axis.margins(x=0)


def image_figure(panels: Sequence[Panel]) -> Figure:
    """Draws image tasks, one per row: context pixels, truth, the model's mean and its standard deviation.

    Args:
        panels: the tasks, with `image_shape`, inputs (row, column) and outputs that are a grey value, a colour, or
            else drawn side by side.
    """
    return image_grid([("model", panels)])


def image_grid(models: Sequence[tuple[str, Sequence[Panel]]]) -> Figure:
    """Draws image tasks, one per row: context pixels, truth, then mean and standard deviation of each model.

    Args:
        models: names, and the same tasks with each model's prediction.
    """
    import matplotlib
    from matplotlib.figure import Figure

    tasks = models[0][1]
    titles = ["context", "truth", *(f"{name}, {what}" for name, _ in models for what in ("mean", "std. dev."))]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(1.7 * len(titles) + 0.6, 1.75 * len(tasks) + 0.3), layout="constrained")
        axes = figure.subplots(len(tasks), len(titles), squeeze=False)
        for axis, title in zip(axes[0], titles, strict=True):
            axis.set_title(fill(title, LETTERS))
        for row, task in zip(axes, tasks, strict=True):
            _draw_given(row[:2], task)
        for row, panels in zip(axes, zip(*(panels for _, panels in models), strict=True), strict=True):
            largest = max(_spread(panel).max() for panel in panels)  # one scale for each task
            for i, panel in enumerate(panels):
                _draw_predicted(row[2 + 2 * i : 4 + 2 * i], panel, largest)
        for axis in axes.flat:
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[:].set_visible(False)
    return figure


def _draw_given(axes: Sequence[Axes], panel: Panel) -> None:
    """Context pixels in colour, on blue, and the truth."""
    from matplotlib.colors import to_rgb

    height, width = panel.image_shape
    # Pixels are found by their place in the grid of targets, whatever units the inputs are in.
    seen = np.full(panel.yt.shape, np.nan)
    for x, y in zip(panel.xc, panel.yc, strict=True):
        seen[np.square(panel.xt - x).sum(1).argmin()] = y
    context = _picture(seen, height, width)
    shown = np.where(np.isnan(context), to_rgb("#9ecae1"), _shade(panel, seen))
    axes[0].imshow(shown, interpolation="nearest")
    axes[0].set_ylabel(f"{len(panel.xc)} of {height * width} pixels", fontsize=8)
    axes[1].imshow(_shade(panel, _truth(panel)).squeeze(), **GREYS)


def _draw_predicted(axes: Sequence[Axes], panel: Panel, largest: float) -> None:
    """Mean and standard deviation, the latter in colours up to the largest."""
    axes[0].imshow(_shade(panel, panel.mean).squeeze(), **GREYS)
    shown = axes[1].imshow(_spread(panel), cmap="cividis", vmin=0, vmax=largest, interpolation="nearest")
    bar = axes[1].figure.colorbar(shown, ax=axes[1], fraction=0.046, pad=0.04)
    bar.outline.set_visible(False)


def _spread(panel: Panel) -> np.ndarray:
    """Standard deviations as a picture, `[height, width]`, means over colours."""
    return _picture(panel.stddev, *panel.image_shape).mean(-1)


def _truth(panel: Panel) -> np.ndarray:
    return panel.yt if panel.truth is None else panel.truth


def _shade(panel: Panel, values: np.ndarray) -> np.ndarray:
    """The values as a picture from 0 to 1, the range of the truth; NaN stays."""
    low, high = _truth(panel).min(), _truth(panel).max()
    return ((_picture(values, *panel.image_shape) - low) / max(high - low, 1e-12)).clip(0, 1)


def _picture(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """The values as `[height, width, 1 or 3]`; any other number of outputs lies side by side in a wide picture."""
    picture = values.reshape(height, width, -1)
    return picture if picture.shape[2] in (1, 3) else picture.swapaxes(1, 2).reshape(height, -1, 1)
