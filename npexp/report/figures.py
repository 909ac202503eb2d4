"""Figures of a family of tasks: accuracy against context size and against cost, calibration, and predictions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from npexp.callbacks.figures import BLACK, COLOURS, GREY, MARKERS, panel_figure
from npexp.report.estimates import Estimate, over_batches, over_seeds, pareto
from npexp.report.finished import Row, Table
from npexp.report.summary import LAW, line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_BINS = 8  # of context sizes
LEAST_TASKS = 20  # in one of them
WIDE = 3  # ratio of costs from which their axis is logarithmic
COSTS = {"seconds": "training time, s", "memory": "peak memory of training, MiB"}


class Curve(NamedTuple):
    """Values of one model with their errors, `[n]` each."""

    label: str
    x: np.ndarray
    y: np.ndarray
    error: np.ndarray


class Cost(NamedTuple):
    """Models of one kind against one cost: label, cost and log-likelihood of each."""

    kind: str
    cost: str
    ylabel: str
    points: list[tuple[str, Estimate, Estimate]]


class Panel(NamedTuple):
    """What one pair of axes shows."""

    title: str
    ylabel: str
    curves: list[Curve]
    reference: Curve | None


def context_figure(rows: Sequence[Row]) -> Figure | None:
    """Log-likelihood against the size of the context; None without scores of tasks.

    A row for each kind of likelihood, a column for each test set. Sizes are put into bins of about as many tasks.
    """
    panels = list(_by_context(rows))
    if not panels:
        return None
    style = Style(rows)

    def draw(axis: Axes, panel: Panel) -> None:
        for curve in panel.curves:
            axis.fill_between(
                curve.x, curve.y - curve.error, curve.y + curve.error, color=style.colour(curve.label), alpha=0.2, lw=0
            )
            axis.plot(curve.x, curve.y, label=curve.label, markersize=4, **style.of(curve.label))
        if panel.reference is not None:
            axis.plot(*panel.reference[1:3], color=BLACK, linestyle=(0, (4, 2)), lw=1.2, label=panel.reference.label)
        axis.set(title=panel.title, ylabel=panel.ylabel)

    return panel_figure(panels, _columns(rows), draw, (3.6, 2.7), ("context points", ""))


def calibration_figure(rows: Sequence[Row]) -> Figure | None:
    """Share of targets inside central intervals against the intervals' level; None without scores of tasks."""
    panels = list(_coverages(rows))
    if not panels:
        return None
    style = Style(rows)

    def draw(axis: Axes, panel: Panel) -> None:
        axis.plot([0, 1], [0, 1], color=GREY, linestyle=(0, (4, 2)), lw=1.0, label="calibrated")
        for curve in panel.curves:
            axis.plot(curve.x, curve.y, label=curve.label, markersize=3, markevery=3, **style.of(curve.label))
        axis.set(title=panel.title, xlim=(0, 1), ylim=(0, 1), aspect="equal")

    columns = min(3, len(panels))
    return panel_figure(panels, columns, draw, (3.3, 3.2), ("level of the interval", "share of targets inside"))


def cost_figure(rows: Sequence[Row]) -> Figure | None:
    """Log-likelihood on the first test set against time and memory of training, with the front that no model beats.

    A row for each kind of likelihood; None where no run knows its cost.
    """
    panels = list(_costs(rows))
    if not panels:
        return None
    style = Style(rows)

    def draw(axis: Axes, panel: Cost) -> None:
        kind, cost, ylabel, points = panel
        values = [(x.mean, y.mean) for _, x, y in points]
        front = [values[i] for i in pareto(values)]
        xs, ys = zip(*front, strict=True)
        axis.step(xs, ys, where="post", color=GREY, lw=1.0, zorder=1, label="Pareto front")
        for label, x, y in points:
            marked = style.of(label) | {"linestyle": "none"}
            axis.errorbar(x.mean, y.mean, xerr=_or_none(x), yerr=_or_none(y), label=label, lw=1.0, **marked)
        axis.set(title=f"{kind} likelihoods", xlabel=COSTS[cost], ylabel=ylabel)
        if max(xs) > WIDE * min(xs):
            _logarithmic(axis)

    columns = len({panel.cost for panel in panels})
    return panel_figure(panels, columns, draw, (4.0, 3.0), ("", ""))


class Style:
    """Colours and markers of the models of a family, the same in all its figures."""

    def __init__(self, rows: Sequence[Row]):
        self.place = {row.label: i for i, row in enumerate(rows)}

    def colour(self, label: str) -> str:
        """Of a model."""
        return COLOURS[self.place[label] % len(COLOURS)]

    def of(self, label: str) -> dict[str, str]:
        """Colour and marker of a model."""
        return {"color": self.colour(label), "marker": MARKERS[self.place[label] % len(MARKERS)]}


def _columns(rows: Sequence[Row]) -> int:
    return len(_test_sets(rows))


def _test_sets(rows: Sequence[Row]) -> list[str]:
    """Those with scores of tasks."""
    return list(dict.fromkeys(name for row in rows for run in row.runs for name in run.tasks))


def _by_context(rows: Sequence[Row]) -> Iterator[Panel]:
    for kind in LAW:
        for test_set in _test_sets(rows):
            having = [row for row in rows if row.kind == kind and row.tables(test_set)]
            if not having:
                continue
            table, column = having[0].tables(test_set)[0], f"loglik_{LAW[kind]}"
            edges = bin_edges(table["num_context"])
            curves = [binned(row, test_set, column, edges) for row in having]
            exact = table[column] + table[f"oracle_gap_{LAW[kind]}"]
            known = not np.isnan(exact).all()
            reference = _curve("exact posterior", [(table, exact)], edges) if known else None
            yield Panel(f"{test_set}, {kind}", f"{LAW[kind]} log-lik., nats", curves, reference)


def bin_edges(sizes: np.ndarray) -> np.ndarray:
    """Lower ends of bins of context sizes with about as many tasks in each."""
    bins = int(np.clip(len(sizes) // LEAST_TASKS, 1, MOST_BINS))
    return np.unique(np.quantile(sizes, np.arange(bins) / bins, method="lower"))


def binned(row: Row, test_set: str, column: str, edges: np.ndarray) -> Curve:
    """A score of a model by the size of the context: means over seeds."""
    return _curve(row.label, [(table, table[column]) for table in row.tables(test_set)], edges)


def _curve(label: str, scores: Sequence[tuple[Table, np.ndarray]], edges: np.ndarray) -> Curve:
    points = []
    for i in range(len(edges)):
        found, sizes = [], []
        for table, values in scores:
            chosen = np.searchsorted(edges, table["num_context"], side="right") - 1 == i
            if chosen.any():
                found.append(over_batches(values[chosen], table["batch"][chosen]))
                sizes.append(table["num_context"][chosen].mean())
        if found:
            points.append((np.mean(sizes), *over_seeds(*zip(*found, strict=True))))
    x, y, error = np.array(points).T
    return Curve(label, x, y, np.nan_to_num(error))


def _coverages(rows: Sequence[Row]) -> Iterator[Panel]:
    for test_set in _test_sets(rows):
        curves = []
        for row in rows:
            if tables := row.tables(test_set):
                share = np.mean([table["coverage"].mean(0) for table in tables], axis=0)
                levels = next(run.levels for run in row.runs if test_set in run.tasks)
                curves.append(Curve(row.label, levels, share, np.zeros_like(share)))
        yield Panel(test_set, "", curves, None)


def _costs(rows: Sequence[Row]) -> Iterator[Cost]:
    test_set = rows[0].runs[0].test_sets[0]
    for kind in LAW:
        for cost in COSTS:
            points = []
            for row in rows:
                costs = [getattr(run, cost) for run in row.runs]
                score = line(row, test_set).cells.get("loglik")
                if row.kind == kind and score is not None and np.isfinite([*costs, score.mean]).all():
                    points.append((row.label, over_seeds(costs, [np.nan] * len(costs)), score))
            if points:
                yield Cost(kind, cost, f"{LAW[kind]} log-lik. of {test_set}, nats", points)


def _or_none(estimate: Estimate) -> float | None:
    return None if np.isnan(estimate.error) else estimate.error


def _logarithmic(axis: Axes) -> None:
    """With numbers in place of powers."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(StrMethodFormatter("{x:,.4g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())
