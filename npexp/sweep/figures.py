"""Figures of a study as PNG: what accuracy costs, how the search went, and which settings matter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, create_trial

from npexp.callbacks.figures import BLACK, BLUE, GREY, STYLE, VERMILION
from npexp.errors import ConfigError
from npexp.sweep.table import counts, metrics, published, short, state, value

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Point = tuple[int | float, int | float]
COSTS = ("perf/train_seconds", "perf/peak_memory_mb")  # drawn against accuracy where a study optimises it alone
LABELS = {
    "perf/train_seconds": "training time, seconds",
    "perf/peak_memory_mb": "peak memory, MiB",
    "val/loglik_joint": "val/loglik_joint, nats per target",
}
ENOUGH = 10  # trials that importance is computed from at least: its best tenth are then one
GREEN = "#009E73"  # Okabe & Ito's
MARKS = {
    "complete": {"marker": "o", "color": BLUE, "markersize": 5, "alpha": 0.8, "markeredgewidth": 0},
    "infeasible": {"marker": "X", "color": VERMILION, "markersize": 6, "markeredgewidth": 0},
    "pruned": {"marker": "x", "color": GREY, "markersize": 5},
    "published": {"marker": "*", "color": BLACK, "markersize": 13, "markeredgecolor": "white"},
}
NAMES = {"infeasible": "breaks a constraint", "pruned": "pruned, last value", "published": "published setting"}


def write_figures(study: Study, folder: str | Path) -> tuple[list[str], list[str]]:
    """Writes pareto.png, history.png, slices.png and importance.png into a folder, which is made.

    Returns:
        The names of the files; and what could not be drawn, a line each.

    Raises:
        ConfigError: no trial has values yet, or the folder cannot be written.
    """
    if not any(trial.values for trial in study.get_trials(deepcopy=False)):
        raise ConfigError(f"study '{study.study_name}' has no trial with values yet: wait, or see npexp sweep status")
    folder = Path(folder)
    drawn, missing = [], []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, draw in (("pareto", pareto), ("history", history), ("slices", slices), ("importance", importance)):
            try:
                draw(study).savefig(folder / f"{name}.png", dpi=STYLE["savefig.dpi"])
                drawn.append(f"{name}.png")
            except TooFewError as error:
                missing.append(f"{name}.png: {error}")
    except OSError as error:
        raise ConfigError(f"cannot write to {folder} ({error.strerror}): give another --out") from error
    return drawn, missing


class TooFewError(ConfigError):
    """A study has not enough of something for a figure."""


def costs(study: Study) -> list[str]:
    """What accuracy is drawn against: the study's other metrics, or what its runs report of time and memory."""
    names = metrics(study)
    trials = study.get_trials(deepcopy=False)
    return names[1:] or [cost for cost in COSTS if any(value(trial, cost, names) is not None for trial in trials)]


def pareto(study: Study) -> Any:
    """Accuracy against each cost, the best joined. A figure with a panel per cost.

    Raises:
        TooFewError: no trial has reported a cost.
    """
    names, against = metrics(study), costs(study)
    if not against:
        raise TooFewError(f"no trial reports one of {', '.join(COSTS)}")

    def draw(axis: Axes, cost: str) -> None:
        points = [(t, value(t, cost, names), t.values[0]) for t in _valued(study)]
        points = [point for point in points if point[1] is not None]
        best = front_line(
            [point[1:] for point in points if state(point[0]) == "complete"],
            _lower(study, names.index(cost)) if cost in names else True,
            _lower(study, 0),
        )
        axis.plot([c for c, _ in best], [v for _, v in best], color=GREEN, label="Pareto front", zorder=1)
        _scatter(axis, study, points)
        axis.set(xlabel=LABELS.get(cost, cost), ylabel=LABELS.get(names[0], names[0]))

    return _figure(study, against, draw)


def front_line(points: Sequence[Point], low_cost: bool, low_value: bool) -> list[Point]:
    """The points that no other beats in both, cheapest first.

    Args:
        points: cost and value of each.
        low_cost: less of the cost is better.
        low_value: less of the value is better.
    """
    signs = (1 if low_cost else -1, 1 if low_value else -1)
    line: list[Point] = []
    for cost, found in sorted(points, key=lambda p: (signs[0] * p[0], signs[1] * p[1])):
        if not line or signs[1] * found < signs[1] * line[-1][1]:
            line.append((cost, found))
    return line


def history(study: Study) -> Any:
    """Each metric by trial, and the best so far. A figure with a panel per metric."""
    names = metrics(study)

    def draw(axis: Axes, metric: str) -> None:
        i = names.index(metric)
        points = [(t, t.number, t.values[i]) for t in _valued(study)]
        pick = min if _lower(study, i) else max
        kept = [(number, found) for t, number, found in points if state(t) == "complete"]
        best = [pick(found for _, found in kept[: k + 1]) for k in range(len(kept))]
        axis.step([number for number, _ in kept], best, where="post", color=GREEN, label="best so far", zorder=1)
        _scatter(axis, study, points)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.set(xlabel="trial", ylabel=LABELS.get(metric, metric))

    return _figure(study, names, draw)


def slices(study: Study) -> Any:
    """The first metric against each setting. A figure with a panel per setting."""
    trials, spaces, metric = _valued(study), options(study), metrics(study)[0]
    labels = short(spaces)

    def draw(axis: Axes, option: str) -> None:
        space, own = spaces[option], [trial for trial in trials if option in trial.params]
        named = isinstance(space, CategoricalDistribution)
        places = {choice: i for i, choice in enumerate(space.choices)} if named else {}
        _scatter(axis, study, [(t, places.get(t.params[option], t.params[option]), t.values[0]) for t in own])
        if named:
            axis.set_xticks(range(len(places)), [str(choice).rpartition(".")[2] for choice in places])
            axis.margins(x=0.3)
        elif space.log and isinstance(space, IntDistribution):
            axis.set_xscale("log", base=2)
            axis.xaxis.set_major_formatter("{x:g}")
        elif space.log:
            axis.set_xscale("log")
        axis.set(xlabel=labels[option], ylabel=LABELS.get(metric, metric))

    return _figure(study, list(spaces), draw)


def importance(study: Study) -> Any:
    """How much each setting decides whether a trial is among the best tenth (PED-ANOVA; Watanabe et al. 2023).

    Raises:
        TooFewError: fewer than `ENOUGH` trials with values, or one setting alone.
    """
    if not has_importance(study):
        raise TooFewError(f"needs {ENOUGH} trials of two settings that have values, there are {len(_valued(study))}")
    found = optuna.importance.get_param_importances(judged(study))
    labels = short(found)

    def draw(axis: Axes, _: str) -> None:
        bars = axis.barh([labels[option] for option in found], list(found.values()), color=BLUE, height=0.6)
        axis.bar_label(bars, fmt="%.2f", padding=3, fontsize=8)
        axis.invert_yaxis()
        axis.margins(x=0.12)
        axis.set_xlabel("importance for being among the best tenth, of 1")

    return _figure(study, [""], draw)


def has_importance(study: Study) -> bool:
    """Whether a study has enough trials and settings to say which settings matter."""
    return len(_valued(study)) >= ENOUGH and len(options(study)) > 1


def judged(study: Study) -> Study:
    """A study in memory whose pruned trials are complete with their last values.

    Optuna's importance looks at complete trials alone, and where poor ones are pruned these are the good ones: what
    tells them from the others could not be seen.
    """
    view = optuna.create_study(study_name=study.study_name, directions=study.directions)
    for trial in _valued(study):
        view.add_trial(create_trial(values=trial.values, params=trial.params, distributions=trial.distributions))
    return view


def options(study: Study) -> dict[str, Any]:
    """The settings that trials with values chose, each with its `optuna.distributions.BaseDistribution`."""
    return {option: space for trial in _valued(study) for option, space in trial.distributions.items()}


def _valued(study: Study) -> list[FrozenTrial]:
    """The trials with values, finished or pruned."""
    return [t for t in study.get_trials(deepcopy=False) if t.values and state(t) in MARKS]


def _lower(study: Study, i: int) -> bool:
    return study.directions[i] == StudyDirection.MINIMIZE


def _scatter(axis: Axes, study: Study, points: Sequence[tuple[FrozenTrial, int | float, int | float]]) -> None:
    """Draws trials, each kind with its mark, and a star on the published setting."""
    first = published(study)
    star = None if first is None else first.number
    for kind, style in MARKS.items():
        chosen = [t.number == star if kind == "published" else state(t) == kind for t, _, _ in points]
        own = [point[1:] for point, shown in zip(points, chosen, strict=True) if shown]
        if own:
            axis.plot(*zip(*own, strict=True), linestyle="none", label=NAMES.get(kind, "trial"), **style)


def _figure(study: Study, panels: Sequence[str], draw: Callable[[Axes, str], None]) -> Any:
    """Draws panels side by side, three in a row, with the study above and one legend below that."""
    import matplotlib
    from matplotlib.figure import Figure

    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    with matplotlib.rc_context(STYLE):
        width = max(3.6 * columns, 5.4)
        figure = Figure(figsize=(width, 2.7 * rows + 0.7), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).flat
        for axis, panel in zip(axes, panels, strict=False):
            draw(axis, panel)
            axis.grid(True, linewidth=0.4, alpha=0.5)
            axis.set_axisbelow(True)
        for axis in list(axes)[len(panels) :]:
            axis.set_axis_off()
        total = counts(study)
        words = ", ".join(f"{number} {kind}" for kind, number in total.items())
        figure.suptitle(f"{study.study_name}: {sum(total.values())} trials, {words}", fontsize=10)
        drawn = [zip(*axis.get_legend_handles_labels(), strict=True) for axis in figure.axes]
        entries = {label: handle for panel in drawn for handle, label in panel}
        if entries:
            figure.legend(
                entries.values(), entries.keys(), loc="outside lower center", ncols=int(width / 1.75), fontsize=8
            )
    return figure
