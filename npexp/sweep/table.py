"""A study as plain rows: what each trial was, what came out, and which trials are best."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from typing import Any

import optuna
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from npexp.errors import ConfigError


def snapshot(study: Study, names: Mapping[str, str] | None = None) -> Study:
    """A study in memory as it is now: its storage is asked once, and workers may go on.

    Args:
        study: the study.
        names: what the copy calls options; None leaves them their names.
    """
    same = optuna.create_study(study_name=study.study_name, directions=study.directions)
    for key, found in study.user_attrs.items():
        same.set_user_attr(key, found)
    for trial in map(copy, study.get_trials(deepcopy=False)):
        if names is not None:
            trial.params = {names[option]: found for option, found in trial.params.items()}
            trial.distributions = {names[option]: space for option, space in trial.distributions.items()}
        same.add_trial(trial)
    return same


def metrics(study: Study) -> list[str]:
    """The names of a study's values, the accuracy first."""
    return list(sweep(study)["metrics"])


def sweep(study: Study) -> dict[str, Any]:
    """The sweep that a study was made from, as plain data.

    Raises:
        ConfigError: the study is of another program.
    """
    found = study.user_attrs.get("sweep")
    if not isinstance(found, dict):
        raise ConfigError(f"study '{study.study_name}' was not made by npexp sweep: give the name of one that was")
    return found


def counts(study: Study) -> dict[str, int]:
    """Trials by state, e.g. {"complete": 20, "pruned": 9}."""
    return dict(Counter(state(trial) for trial in study.get_trials(deepcopy=False)))


def state(trial: FrozenTrial) -> str:
    """The state in a word; a complete trial that breaks a constraint is "infeasible"."""
    if trial.state == TrialState.PRUNED and "memory" in trial.constraints:
        return "out of memory"
    if trial.state == TrialState.COMPLETE and not feasible(trial):
        return "infeasible"
    return "failed" if trial.state == TrialState.FAIL else trial.state.name.lower()


def feasible(trial: FrozenTrial) -> bool:
    """Whether a trial keeps every constraint."""
    return all(excess <= 0 for excess in trial.constraints.values())


def front(study: Study) -> list[FrozenTrial]:
    """The feasible trials that no other beats in every metric, most accurate first; with one metric, the best."""
    return sorted(study.best_trials, key=lambda t: t.values[0], reverse=study.directions[0] == StudyDirection.MAXIMIZE)


def published(study: Study) -> FrozenTrial | None:
    """The trial of the setting that the sweep enqueues first, which is the published one; None before it ran."""
    wanted = (sweep(study).get("enqueue") or [None])[0]
    if not wanted:
        return None
    same = (t for t in study.get_trials(deepcopy=False) if t.values and wanted.items() <= t.params.items())
    return next(same, None)


def value(trial: FrozenTrial, metric: str, names: Sequence[str]) -> float | None:
    """A metric of a trial, whether the study optimises it or its run only reports it; a pruned trial's is its last.

    Args:
        trial: the trial.
        metric: the metric's name.
        names: the study's own metrics.
    """
    if metric in names:
        return trial.values[names.index(metric)] if trial.values else None
    found = (trial.user_attrs.get("metrics") or {}).get(metric)
    return None if found is None else float(found)


def setting(trial: FrozenTrial) -> dict[str, Any]:
    """What a trial has chosen, or is to try, by option."""
    return {**trial.system_attrs.get("fixed_params", {}), **trial.params}


def why(trial: FrozenTrial) -> str:
    """Why a trial failed, or which bounds it breaks; "" where there is nothing to explain."""
    broken = [f"{name} {excess:,.4g} above its bound" for name, excess in trial.constraints.items() if excess > 0]
    lost = "its worker is gone" if trial.state == TrialState.FAIL else ""  # which says why a trial of its own failed
    return trial.user_attrs.get("why") or "; ".join(broken) or lost


def row(trial: FrozenTrial, names: Sequence[str]) -> dict[str, Any]:
    """A trial as a flat mapping: number, state, values, settings, what its run reported, and where it ran.

    Args:
        trial: the trial.
        names: the study's metrics.
    """
    attrs = trial.user_attrs
    times = {"started": trial.datetime_start, "ended": trial.datetime_complete}
    return {
        "number": trial.number,
        "state": state(trial),
        **{name: value(trial, name, names) for name in names},
        **setting(trial),
        **{key: found for key, found in (attrs.get("metrics") or {}).items() if key not in names},
        **{key: attrs.get(key) for key in ("seconds", "folder", "worker")},
        **{key: time and time.isoformat(timespec="seconds") for key, time in times.items()},
        "why": why(trial),
    }


def number(found: Any) -> str:
    """A value with five digits that count; "" for none."""
    if found is None:
        return ""
    return f"{found:.5g}" if isinstance(found, float) else str(found)


def short(options: Iterable[str]) -> dict[str, str]:
    """The shortest endings that tell options apart, by option: "num_latents" for "model.net.init_args.num_latents"."""
    options = list(options)

    def ends(tail: str) -> int:
        return sum(f".{option}".endswith(f".{tail}") for option in options)

    found = {}
    for option in options:
        parts = option.split(".")
        tails = (".".join(parts[i:]) for i in reversed(range(len(parts))))
        found[option] = next((tail for tail in tails if ends(tail) == 1), option)
    return found
