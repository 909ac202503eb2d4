"""Figures of predictions as lines and pictures.

Colours are from the Okabe-Ito palette, which colour-blind readers can tell apart; the exact posterior is dashed, so
that a figure survives a black-and-white printer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from npexp.batch import TaskBatch

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, VERMILION, BLACK, GREY = "#0072B2", "#D55E00", "#000000", "#8C8C8C"
Z95 = 1.959964  # half width of the central 95 % of a standard normal
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
        batch: a single task, `b` = 1.
        mean: predicted mean of the targets, `[1, nt, dy]`.
        stddev: predicted standard deviation, observation noise included, `[1, nt, dy]`.
        truth: the noise-free targets, `[1, nt, dy]`, or None.
        exact_mean: mean of the exact predictive, `[1, nt, dy]`, or None.
        exact_stddev: its standard deviation, `[1, nt, dy]`, or None.
        image_shape: rows and columns of the targets when they are pixels.
    """

    batch: TaskBatch
    mean: Tensor
    stddev: Tensor
    truth: Tensor | None = None
    exact_mean: Tensor | None = None
    exact_stddev: Tensor | None = None
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
        labels: below the lowest panels, and beside the first of each row.
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
        for axis in axes[:, 0]:
            axis.set_ylabel(labels[1])
        for column in range(columns):
            axes[(len(panels) - 1 - column) // columns, column].set_xlabel(labels[0])
        # The panels may show different things: collect each label once.
        entries = {
            label: handle for axis in axes.flat for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
        }
        figure.legend(entries.values(), entries.keys(), loc="outside upper center", ncols=len(entries))
    return figure


def draw_curve(axis: Axes, panel: Panel) -> None:
    """Draws one task on a matplotlib axis.

    Args:
        axis: where to draw.
        panel: the task, with `dx` = 1.
    """
    x = _flat(panel.batch.xt)
    order = x.argsort()
    x = x[order]

    def line(values: Tensor) -> Any:
        return _flat(values)[order]

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
    xc, yc = _flat(_real(panel.batch.xc, panel.batch.mask_c)), _flat(_real(panel.batch.yc, panel.batch.mask_c))
    axis.plot(xc, yc, "o", color=BLACK, markersize=3.5, markeredgecolor="white", markeredgewidth=0.5, label="context")
    axis.set_title(f"{len(xc)} context points", loc="left")
    axis.margins(x=0)


def image_figure(panels: Sequence[Panel]) -> Figure:
    """Draws image tasks, one per row: context pixels, truth, the model's mean and its standard deviation.

    Args:
        panels: the tasks, with `image_shape`, inputs (row, column) and outputs that are a grey value, a colour, or
            else drawn side by side.
    """
    import matplotlib
    from matplotlib.figure import Figure

    titles = ("context", "truth", "model, mean", "model, std. dev.")
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(1.7 * len(titles) + 0.6, 1.75 * len(panels) + 0.3), layout="constrained")
        axes = figure.subplots(len(panels), len(titles), squeeze=False)
        for axis, title in zip(axes[0], titles, strict=True):
            axis.set_title(title)
        for row, panel in zip(axes, panels, strict=True):
            draw_image(row, panel)
    return figure


def draw_image(axes: Sequence[Axes], panel: Panel) -> None:
    """Draws one image task on four matplotlib axes.

    Args:
        axes: where to draw context, truth, mean and standard deviation.
        panel: the task.
    """
    import matplotlib
    from matplotlib.colors import to_rgb

    height, width = panel.image_shape
    truth = panel.batch.yt if panel.truth is None else panel.truth
    picture, mean, stddev = (_picture(v, height, width) for v in (truth, panel.mean, panel.stddev))
    low, high = picture.min(), picture.max()
    scale = lambda v: (v - low).clip(0) / max(high - low, 1e-12)  # noqa: E731

    # Pixels are found by their place in the grid of targets, whatever units the inputs are in.
    seen = torch.full(panel.batch.yt.shape[1:], torch.nan)
    xc, yc = _real(panel.batch.xc, panel.batch.mask_c), _real(panel.batch.yc, panel.batch.mask_c)
    if len(xc):
        seen[torch.cdist(xc.float(), panel.batch.xt[0].float().cpu()).argmin(1)] = yc.float()
    context = _picture(seen, height, width)
    shown = np.where(np.isnan(context), to_rgb("#9ecae1"), scale(context).clip(max=1))
    gray = {"cmap": "gray", "vmin": 0, "vmax": 1, "interpolation": "nearest"}
    axes[0].imshow(shown, interpolation="nearest")
    axes[0].set_ylabel(f"{len(xc)} of {height * width} pixels", fontsize=8)
    axes[1].imshow(scale(picture).squeeze(), **gray)
    axes[2].imshow(scale(mean).clip(max=1).squeeze(), **gray)
    spread = axes[3].imshow(stddev.mean(-1), cmap=matplotlib.colormaps["cividis"], vmin=0, interpolation="nearest")
    bar = axes[3].figure.colorbar(spread, ax=axes[3], fraction=0.046, pad=0.04)
    bar.outline.set_visible(False)
    for axis in axes:
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set_visible(False)


def _real(points: Tensor, mask: Tensor | None) -> Tensor:
    """The real points of a single task, `[n, d]`, on the CPU."""
    return (points[0] if mask is None else points[0][mask[0]]).detach().cpu()


def _flat(points: Tensor) -> Any:
    """The first column of the only task as a NumPy array, `[n]`."""
    return points.detach().cpu().double().reshape(-1, points.shape[-1])[:, 0].numpy()


def _picture(values: Tensor, height: int, width: int) -> Any:
    """The values as `[height, width, 1 or 3]`; any other number of outputs lies side by side in a wide picture."""
    picture = values.detach().cpu().float().reshape(height, width, -1)
    return (picture if picture.shape[2] in (1, 3) else picture.mT.reshape(height, -1, 1)).numpy()
