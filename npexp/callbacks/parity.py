"""Figures of observed against predicted values, for tasks whose inputs are neither a line nor a grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from npexp.callbacks.figures import BLUE, GREY, VERMILION, panel_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEVELS = (0.025, 0.975)
MOST_OUTPUTS = 4  # of a task; more would be too small to read
MOST_POINTS = 200  # of an output; the bars of more hide each other


class Parity(NamedTuple):
    """One output of one task at `n` targets.

    Args:
        title: what it is.
        observed: `[n]`.
        mean: predicted, `[n]`.
        low: lower end of the central 95 % of what is predicted, noise included, `[n]`.
        high: its upper end, `[n]`.
    """

    title: str
    observed: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def parity_figure(tasks: Sequence[Sequence[Parity]], columns: int = 3) -> Figure:
    """Draws tasks, one per row with its outputs side by side; with one output, several tasks in a row.

    Args:
        tasks: outputs of each task, as many for each.
        columns: tasks in a row where there is one output.
    """
    panels = [panel for outputs in tasks for panel in outputs]
    columns = len(tasks[0]) if len(tasks[0]) > 1 else min(columns, len(tasks))
    return panel_figure(panels, columns, draw_parity, (3.1, 2.7), ("observed", "predicted"))


def draw_parity(axis: Axes, panel: Parity) -> None:
    """Draws one output of one task on a matplotlib axis; what was observed outside its 95 % stands out.

    Args:
        axis: where to draw.
        panel: the output; without targets nothing but its title is drawn.
    """
    inside = (panel.low <= panel.observed) & (panel.observed <= panel.high)
    for chosen, colour, label in ((inside, BLUE, "model, mean and 95 %"), (~inside, VERMILION, "observed outside")):
        x = panel.observed[chosen]
        axis.vlines(x, panel.low[chosen], panel.high[chosen], color=colour, alpha=0.4, linewidth=1.2)
        axis.plot(x, panel.mean[chosen], "o", color=colour, markersize=3, label=label)
    through = panel.observed[0] if len(panel.observed) else 0.0  # some point of the diagonal that is in sight
    style = {"color": GREY, "linestyle": (0, (4, 2)), "linewidth": 1.0, "zorder": 1}
    axis.axline((through, through), slope=1, label="predicted = observed", **style)
    axis.set_title(panel.title, loc="left")
    axis.set_aspect("equal", adjustable="datalim")
