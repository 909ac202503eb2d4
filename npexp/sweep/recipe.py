"""A trial as something to run again: a command, and a configuration for `conf/experiment/`."""

import os
import shlex
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from optuna.study import Study
from optuna.trial import FrozenTrial

from npexp.config import conf_dir, find_config
from npexp.config import words as as_words
from npexp.errors import ConfigError
from npexp.sweep.table import metrics, state, sweep, value

WIDTH = 118  # characters of a comment line


def command(study: Study, trial: FrozenTrial) -> str:
    """The `npexp fit` that trains a trial's model: the study's configurations, its shared settings, the trial's own."""
    words = [word for name in sweep(study)["configs"] for word in ("--config", name)]
    return shlex.join(["npexp", "fit", *words, *as_words(settings(study, trial))])


def settings(study: Study, trial: FrozenTrial) -> dict[str, Any]:
    """What a trial sets, by option: which checkpoint is the best, what all trials share, and what this one chose."""
    found = sweep(study)
    best = {"best.monitor": found["metrics"][0], "best.mode": found["directions"][0][:3]}
    said = {**(found.get("overrides") or {}), **trial.params}
    return {**best, **{option: _plain(setting) for option, setting in said.items()}}


def write_recipe(study: Study, trial: FrozenTrial, path: str | Path, force: bool = False) -> None:
    """Writes a configuration that trains a trial's model: `npexp fit --config FILE`.

    Args:
        study: where the trial is from.
        trial: the trial.
        path: the file, ending in .yaml; its folder is made.
        force: overwrites a file that exists.

    Raises:
        ConfigError: a file of another kind, one that exists, or one that cannot be written.
    """
    path = Path(path)
    if path.suffix != ".yaml":
        raise ConfigError(f"expected --write to be a .yaml file such as conf/experiment/best.yaml, got {path}")
    if path.exists() and not force:
        raise ConfigError(f"{path} exists: give another --write, or --force to replace it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(recipe(study, trial, path))
    except OSError as error:
        raise ConfigError(f"cannot write {path} ({error.strerror}): give --write another place") from error


def recipe(study: Study, trial: FrozenTrial, path: Path) -> str:
    """The text of the configuration.

    Args:
        study: where the trial is from.
        trial: the trial.
        path: where it will stand: configurations that are not shipped ones are named from its folder.
    """
    names = metrics(study)
    results = ((name, value(trial, name, names)) for name in names)
    came = ", ".join(f"{name} {found:.6g}" for name, found in results if found is not None) or state(trial)
    shared = ", ".join(sweep(study).get("overrides") or {})
    comment = [
        f"Trial {trial.number} of {len(study.get_trials(deepcopy=False))} of the study '{study.study_name}': {came}.",
        f"Chosen by the trial: {', '.join(trial.params)}.",
        *([f"Shared by all trials: {shared}."] if shared else []),
        f"Written by npexp sweep best; run it with npexp fit --config {path.as_posix()}.",
    ]
    below = [default(name, path.parent) for name in sweep(study)["configs"]]
    content = {"defaults": below, "name": path.stem, **nested(settings(study, trial))}
    text = yaml.safe_dump(content, sort_keys=False, default_flow_style=None, allow_unicode=True, width=WIDTH)
    lines = (textwrap.wrap(words, WIDTH, break_long_words=False, break_on_hyphens=False) for words in comment)
    return "".join(f"# {line}\n" for wrapped in lines for line in wrapped) + text


def default(name: str, folder: Path) -> str:
    """How a configuration in a folder names another: a shipped one by its name, any other by the way to it.

    Args:
        name: the other, by path or by name.
        folder: the folder of the one that names it.
    """
    found, home = find_config(name), conf_dir().resolve()
    if found.is_relative_to(home):
        return found.relative_to(home).with_suffix("").as_posix()
    return Path(os.path.relpath(found, folder.resolve())).as_posix()


def nested(options: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted options as the mapping of mappings that a configuration is.

    A class that is chosen by its name alone (`model.net: npexp.models.IST`) becomes its `class_path`, so that its
    arguments can stand beside it.
    """
    tree: dict[str, Any] = {}
    for option, found in sorted(options.items(), key=lambda item: item[0].count(".")):
        node, *rest = tree, *option.split(".")
        for key in rest[:-1]:
            if not isinstance(node.setdefault(key, {}), dict):
                node[key] = {"class_path": node[key]}
            node = node[key]
        node[rest[-1]] = found
    return tree


def _plain(found: Any) -> Any:
    """A value as the command line reads it: Optuna's categories cannot hold lists, so these are written as text."""
    return yaml.safe_load(found) if isinstance(found, str) else found
