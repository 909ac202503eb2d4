"""Figures of predictions: tasks in rows, models in columns."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np

from npexp.callbacks.figures import Z95, Panel, draw_curve, image_grid, panel_figure
from npexp.callbacks.parity import Parity, draw_parity
from npexp.report.finished import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_TASKS = 4
MOST_MODELS = 6
LETTERS = 36  # of a label, as many as stand above a panel
MARGIN = 0.25  # of what was observed, above and below it
SIZES = {"curve": (3.2, 2.4), "parity": (3.1, 2.7)}
LABELS = {"curve": ("x", "y"), "parity": ("observed", "predicted")}


def prediction_figures(rows: Sequence[Row]) -> dict[str, Figure]:
    """Predictions of the first models, with their first seeds, for the first tasks of each kind.

    Args:
        rows: the models; those without predictions, or for other tasks than the first one's, are left out.

    Returns:
        Figures by kind: "curve", "image" or "parity".
    """
    models = [(row.label, row.runs[0].examples) for row in rows if row.runs[0].examples]
    models = [(label, found) for label, found in models if _same(found, models[0][1])][:MOST_MODELS]
    figures = {}
    for kind in ("curve", "image", "parity"):
        chosen = [(label, [e for e in found if _kind(e) == kind][:MOST_TASKS]) for label, found in models]
        if chosen and chosen[0][1]:
            figures[kind] = image_grid(chosen) if kind == "image" else _grid(kind, chosen)
    return figures


def _grid(kind: str, models: Sequence[tuple[str, list[Any]]]) -> Figure:
    panels = [
        (label, example)
        for task in zip(*(found for _, found in models), strict=True)
        for (label, _), example in zip(models, task, strict=True)
    ]

    def draw(axis: Axes, panel: tuple[str, Any]) -> None:
        label, example = panel
        if kind == "curve":
            draw_curve(axis, example)
            axis.set_ylim(*_limits(example))
        else:
            draw_parity(axis, example[0])
        axis.set_title(f"{fill(label, LETTERS)}\n{axis.get_title(loc='left')}", loc="left")

    return panel_figure(panels, len(models), draw, SIZES[kind], LABELS[kind])


def _limits(panel: Panel) -> tuple[float, float]:
    """A task's range of y, the same for every model: a model's band may leave it."""
    shown = [values[:, 0] for values in (panel.yc, panel.yt if panel.truth is None else panel.truth)]
    if panel.exact_mean is not None and panel.exact_stddev is not None:
        shown += [(panel.exact_mean + sign * Z95 * panel.exact_stddev)[:, 0] for sign in (-1, 1)]
    low, high = np.concatenate(shown).min(), np.concatenate(shown).max()
    margin = MARGIN * max(high - low, 1e-12)
    return float(low - margin), float(high + margin)


def _kind(example: Panel | list[Parity]) -> str:
    if not isinstance(example, Panel):
        return "parity"
    return "curve" if example.image_shape is None else "image"


def _same(a: Sequence[Any], b: Sequence[Any]) -> bool:
    """Whether two models predicted for the same tasks."""
    return len(a) == len(b) and all(_equal(_observed(x), _observed(y)) for x, y in zip(a, b, strict=True))


def _observed(example: Panel | list[Parity]) -> list[np.ndarray]:
    return [example.yc, example.yt] if isinstance(example, Panel) else [output.observed for output in example]


def _equal(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> bool:
    return len(a) == len(b) and all(x.shape == y.shape and np.allclose(x, y) for x, y in zip(a, b, strict=True))
