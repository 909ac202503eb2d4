"""Figures of a study as HTML, to move about in: Optuna's own, drawn by Plotly."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
from optuna.study import Study
from optuna.trial import TrialState, create_trial

from npexp.errors import ConfigError
from npexp.sweep.figures import costs, has_importance, judged, options
from npexp.sweep.table import metrics, short, snapshot, value


def write_pages(study: Study, folder: str | Path) -> list[str]:
    """Writes pareto.html and its like into a folder, which is made. They share one file of Plotly's, beside them.

    Returns:
        The names of the files; none where Plotly is not installed.

    Raises:
        ConfigError: the folder cannot be written.
    """
    try:
        import plotly  # noqa: F401
    except ModuleNotFoundError:
        return []
    folder, names = Path(folder), []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, figure in pages(study):
            figure.write_html(folder / f"{name}.html", include_plotlyjs="directory")
            names.append(f"{name}.html")
    except OSError as error:
        raise ConfigError(f"cannot write to {folder} ({error.strerror}): give another --out") from error
    return names


def pages(study: Study) -> Iterator[tuple[str, Any]]:
    """Names and Plotly figures. Those of one metric show the first."""
    tried = dict.fromkeys(option for trial in study.get_trials(deepcopy=False) for option in trial.distributions)
    study = snapshot(study, short(tried))  # in full the names of options would lie on top of each other
    draw, names = optuna.visualization, metrics(study)
    several = len(names) > 1
    first = {"target": (lambda trial: trial.values[0]) if several else None, "target_name": names[0]}
    axes = [names[0], *costs(study)][:3]  # no more can be shown
    if len(axes) > 1:
        yield "pareto", draw.plot_pareto_front(tradeoff(study, axes), target_names=axes)
    yield "history", draw.plot_optimization_history(study, **first)
    yield "slices", draw.plot_slice(study, **first)
    if len(options(study)) > 1:
        yield "contours", draw.plot_contour(study, **first)
    if not several:
        yield "curves", draw.plot_intermediate_values(study)
        if has_importance(study):  # of several metrics Optuna's would show what makes each of them low, good or bad
            yield "importance", draw.plot_param_importances(judged(study))


def tradeoff(study: Study, axes: list[str]) -> Study:
    """A study in memory of what accuracy costs: the complete trials of another, with other metrics for values.

    Args:
        study: the other.
        axes: the metrics; those that it does not optimise are costs.
    """
    names = metrics(study)
    ways = [study.directions[names.index(axis)].name.lower() if axis in names else "minimize" for axis in axes]
    view = optuna.create_study(directions=ways, study_name=study.study_name)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        values = [value(trial, axis, names) for axis in axes]
        if None not in values:
            same = {"params": trial.params, "distributions": trial.distributions, "constraints": trial.constraints}
            view.add_trial(create_trial(values=values, **same))
    return view
