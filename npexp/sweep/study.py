"""What a sweep is: a YAML file in Optuna's own terms, and the Optuna study that it becomes."""

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, check_distribution_compatibility
from optuna.exceptions import ExperimentalWarning
from optuna.trial import Trial, TrialState

from npexp.config import conf_dir, construct, find_config, read_config
from npexp.errors import ConfigError, UnknownNameError, at_least, suggest
from npexp.sweep import table
from npexp.sweep.stale import lost_its_worker
from npexp.sweep.storage import hidden, open_storage, reaching

SEED = 0  # of the default sampler
COUNTED = (TrialState.COMPLETE, TrialState.PRUNED)  # trials that --trials counts
DIRECTIONS = ("maximize", "minimize")


@dataclass
class Sweep:
    """A sweep as its YAML file describes it.

    Args:
        name: of the study.
        configs: what every trial starts from: names or files, layered as `npexp fit` layers them.
        metrics: what is optimised; the first is a metric of validation, of which a trial's best counts, the others are
            any of a trial's final numbers, such as "perf/train_seconds", "perf/peak_memory_mb" or "parameters".
        directions: "maximize" or "minimize", one per metric.
        space: Optuna's distributions by option of `npexp fit`.
        overrides: options that all trials share.
        enqueue: settings that are tried first, such as the published one; what they leave out is sampled.
        constraints: largest values of final numbers; a trial beyond them is not feasible.
        trials: how many, unless the command says.
        sampler: Optuna's; None is `TPESampler`.
        pruner: Optuna's; None is `MedianPruner`. Sweeps with several metrics are not pruned.

    Raises:
        ConfigError: settings that contradict each other.
        UnknownNameError: no such configuration, or a queued option that is not in the space.
    """

    name: str
    configs: list[str]
    metrics: list[str]
    directions: list[str]
    space: dict[str, BaseDistribution]
    overrides: dict[str, int | float | bool | str | list | None] = field(default_factory=dict)
    enqueue: list[dict[str, int | float | bool | str | None]] = field(default_factory=list)
    constraints: dict[str, float] = field(default_factory=dict)
    trials: int = 40
    sampler: optuna.samplers.BaseSampler | None = None
    pruner: optuna.pruners.BasePruner | None = None

    def __post_init__(self) -> None:
        if len(self.metrics) != len(self.directions) or not set(self.directions) <= set(DIRECTIONS):
            raise ConfigError(
                f"expected one of {' and '.join(DIRECTIONS)} per metric, got {self.directions} for {self.metrics}"
            )
        if not self.metrics or not self.metrics[0].startswith("val/"):
            raise ConfigError(f"expected the first of metrics to be one of validation (val/...), got {self.metrics}")
        if not self.space:
            raise ConfigError("expected space to hold at least one option: a sweep has something to choose")
        if self.pruner is not None and len(self.metrics) > 1:
            raise ConfigError("several metrics cannot be pruned: leave out the pruner, or all metrics but the first")
        at_least("trials", self.trials, 1)
        for name in self.configs:
            find_config(name)
        for setting in self.enqueue:
            for key, value in setting.items():
                if key not in self.space:
                    raise UnknownNameError("option in enqueue", key, self.space)
                if not _contains(self.space[key], value):
                    raise ConfigError(f"enqueue sets {key} to {value!r}, which is not in {self.space[key]}")

    def make_pruner(self) -> optuna.pruners.BasePruner:
        """Its pruner; studies do not store one."""
        if len(self.metrics) > 1:
            return optuna.pruners.NopPruner()
        return self.pruner or optuna.pruners.MedianPruner()

    def make_sampler(self, alone: bool) -> optuna.samplers.BaseSampler:
        """Its sampler.

        Args:
            alone: whether this is the first worker of a new study; others would draw what the first has drawn.
        """
        sampler = self.sampler or optuna.samplers.TPESampler(seed=SEED)
        if not alone:
            sampler.reseed_rng()
        return sampler


def find_sweep(name: str) -> Path:
    """The file of a sweep given by path, or by its name among those shipped, as "latents" or "sweeps/latents.yaml".

    Raises:
        UnknownNameError: there is no such file.
    """
    home = conf_dir().parent / "sweeps"
    for path in (Path(name), home / name, home / f"{name}.yaml", home.parent / name):
        if path.is_file():
            return path
    raise UnknownNameError("sweep", name, [path.stem for path in home.glob("*.yaml")])


def parse(content: Mapping[str, Any], origin: str) -> Sweep:
    """The sweep that plain data describe.

    Args:
        content: the YAML file.
        origin: what messages call it.

    Raises:
        ConfigError: what `Sweep` refuses, a value of another type, or a class that Optuna does not have.
    """
    return construct(Sweep, content, origin)


def read(name: str) -> tuple[Sweep, dict[str, Any]]:
    """A sweep file, as a sweep and as plain data."""
    path = find_sweep(name)
    content = read_config(path)
    return parse(content, str(path)), content


def open_study(name: str, url: str, content: Mapping[str, Any]) -> tuple[optuna.Study, bool]:
    """The study of a sweep, made if it is not there, and whether it is new.

    Args:
        name: of the study.
        url: its storage, see `npexp.sweep.storage`.
        content: the sweep as plain data; the study keeps it, for workers and readers.

    Raises:
        ConfigError: the study is of another sweep.
        Unreachable: the storage cannot be reached.
    """
    sweep = parse(content, "sweep")
    storage = open_storage(url)
    with reaching(url):
        try:
            study, new = optuna.create_study(storage=storage, study_name=name, directions=sweep.directions), True
        except optuna.exceptions.DuplicatedStudyError:
            study, new = optuna.load_study(study_name=name, storage=storage), False
            _check_same(study, sweep)
        study.set_user_attr("sweep", dict(content))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            study.set_metric_names(sweep.metrics)
    return study, new


def enqueue(study: optuna.Study, sweep: Sweep) -> None:
    """Queues the settings that are tried first, unless they were; one that has failed by itself is tried again."""
    trials = study.get_trials(deepcopy=False)
    for setting in sweep.enqueue:
        tried = [trial for trial in trials if setting.items() <= table.setting(trial).items()]
        if all(trial.state == TrialState.FAIL and not lost_its_worker(trial) for trial in tried):
            study.enqueue_trial(setting)


def load(study_name: str, storage: str) -> optuna.Study:
    """The study of that name in a storage given by its URL.

    Raises:
        ConfigError: the storage has no such study.
        Unreachable: it cannot be reached.
    """
    opened = open_storage(storage)
    with reaching(storage):
        names = optuna.get_all_study_names(opened)
        if study_name not in names:
            hint = suggest(study_name, names) if names else "it is empty"
            raise ConfigError(f"there is no study '{study_name}' in {hidden(storage)}; {hint}")
        return optuna.load_study(study_name=study_name, storage=opened)


def counted(study: optuna.Study) -> int:
    """Trials that are done, whatever came out, or being worked on."""
    return len(study.get_trials(deepcopy=False, states=(*COUNTED, TrialState.RUNNING)))


def suggest_all(trial: Trial, space: Mapping[str, BaseDistribution]) -> dict[str, Any]:
    """A trial's setting of every option in the space."""
    return {name: _suggested(trial, name, kind) for name, kind in space.items()}


def lowest(sweep: Sweep) -> dict[str, Any]:
    """One setting of the space, to see whether `npexp fit` takes it: the queued one, or the lowest of everything."""
    first = {
        name: kind.choices[0] if isinstance(kind, optuna.distributions.CategoricalDistribution) else kind.low
        for name, kind in sweep.space.items()
    }
    return {**first, **(sweep.enqueue[0] if sweep.enqueue else {})}


def _suggested(trial: Trial, name: str, kind: BaseDistribution) -> Any:
    if isinstance(kind, optuna.distributions.CategoricalDistribution):
        return trial.suggest_categorical(name, kind.choices)
    if isinstance(kind, optuna.distributions.IntDistribution):
        return trial.suggest_int(name, kind.low, kind.high, step=kind.step, log=kind.log)
    return trial.suggest_float(name, kind.low, kind.high, step=kind.step, log=kind.log)


def _contains(kind: BaseDistribution, value: Any) -> bool:
    if isinstance(kind, optuna.distributions.CategoricalDistribution):
        return value in kind.choices
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if isinstance(kind, optuna.distributions.IntDistribution) and number and value != int(value):
        return False
    return number and kind.low <= value <= kind.high


def _check_same(study: optuna.Study, sweep: Sweep) -> None:
    """Refuses to go on with a study whose trials cannot be compared with new ones."""
    advice = f"study '{study.study_name}' has other trials already: give another --study, or undo the change"
    done = study.get_trials(deepcopy=False, states=COUNTED)
    before = table.sweep(study)["metrics"] if done else sweep.metrics
    directions = [direction.name.lower() for direction in study.directions]
    if [before, directions] != [sweep.metrics, sweep.directions]:
        raise ConfigError(f"the metrics or their directions have changed; {advice}")
    for trial in study.get_trials(deepcopy=False):
        for name, kind in trial.distributions.items():
            if name in sweep.space:
                try:
                    check_distribution_compatibility(kind, sweep.space[name])
                except ValueError as error:
                    raise ConfigError(f"the choices of {name} have changed ({error}); {advice}") from error
