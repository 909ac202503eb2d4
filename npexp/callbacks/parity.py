"""Figures of observed against predicted values, for tasks whose inputs are neither a line nor a grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from npexp.batch import TaskBatch, real
from npexp.callbacks.figures import BLUE, GREY, VERMILION, panel_figure
from npexp.columns import Columns
from npexp.likelihoods import Predictive
from npexp.scaling import Scaling

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


def parities(batch: TaskBatch, law: Predictive, scaling: Scaling | None, columns: Columns | None) -> list[Parity]:
    """The first outputs of a task, at targets spread over the real ones.

    Args:
        batch: a single task, `b` = 1.
        law: what is predicted at its targets.
        scaling: from raw units; None where they are not known, or where the batch has them.
        columns: of the table that the task comes from.
    """
    mask = real(batch.mask_t, batch.yt)[0].cpu()
    predicted = torch.cat([law.mean, *law.quantile(LEVELS)]).detach().cpu()
    values = torch.cat([batch.yt.cpu().to(predicted), predicted])[:, mask].double().numpy()
    if scaling is not None:
        values = scaling.y_shift + np.array(scaling.y_scale) * values
    if columns is not None:
        outputs = columns.split(batch.xt[0].cpu()[mask].numpy(), values)
    else:
        outputs = {f"y{i}": values[..., i] for i in range(values.shape[2])}
    size = f"{int(batch.num_context)} context points"
    found = []
    for name, output in list(outputs.items())[:MOST_OUTPUTS]:
        n = output.shape[1]
        spread = output[:, np.linspace(0, n - 1, min(n, MOST_POINTS)).astype(int)]
        found.append(Parity(size if columns is None and len(outputs) == 1 else f"{name}: {size}", *spread))
    return found


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
