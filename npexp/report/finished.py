"""Tested runs as their folders hold them, and which of them are replicates."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from glob import glob
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np

from npexp.callbacks.examples import unpack
from npexp.config import flatten, read_config
from npexp.errors import ConfigError, DataError
from npexp.run_files import EXAMPLES, METRICS, RESULTS, TASKS, read_arrays, read_rows

Table = dict[str, np.ndarray]  # the tasks of a test set: see `npexp.metrics.Evaluation.task_table`
FACTS = ("model", "data", "seed", "likelihood", "dy", "steps", "parameters")
MOST_SETTINGS = 3  # in a label; of more the run's folder stands there
SAME = 1e-5  # of the spread over tasks: means of a task's outputs that differ by more are of other tasks
IMMATERIAL = (  # settings that may differ between replicates: seeds, names, and how a run is watched and kept
    *("seed_everything", "step_seed", "name", "version", "runs_dir", "ckpt_path", "defaults", "figures", "last"),
    *("trainer.enable_progress_bar", "trainer.enable_model_summary", "trainer.logger", "trainer.default_root_dir"),
    *("trainer.log_every_n_steps", "trainer.profiler", "trainer.accelerator", "trainer.plugins"),
    *("data.init_args.num_workers", "data.init_args.cache_dir", "model.energy_score", "model.decoding"),
)


class Finished:
    """A run that `npexp test` has measured.

    Args:
        folder: of the run.

    Attributes:
        facts: what the run says about itself, e.g. model, data, seed.
        metrics: values by "<test set>/<metric>"; an error's name ends in "_sem", NaN where it is unknown.
        test_sets: their names, the in-distribution one first.

    Raises:
        DataError: its results cannot be read, or lack a fact.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        try:
            content = json.loads((folder / RESULTS).read_text())
            self.metrics = {k: float("nan") if v is None else float(v) for k, v in content.items() if "/" in k}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise DataError(f"cannot read {folder / RESULTS} ({error}): run npexp test again") from error
        self.facts = {k: v for k, v in content.items() if "/" not in k}
        if missing := [name for name in FACTS if self.facts.get(name) is None]:
            raise DataError(f"{folder / RESULTS} does not say {', '.join(missing)}: run npexp test again")
        self.test_sets = list(dict.fromkeys(name.partition("/")[0] for name in self.metrics))

    @property
    def seed(self) -> int:
        """Of its training, where the run says it; a test may have another one."""
        return self.config.get("seed_everything", self.facts["seed"])

    @cached_property
    def config(self) -> dict[str, Any]:
        """What it was trained with, flat; empty where there is no `config.yaml`."""
        path = self.folder / "config.yaml"
        return flatten(read_config(path)) if path.is_file() else {}

    @cached_property
    def tasks(self) -> dict[str, Table]:
        """The tasks of each test set; empty where the file is missing.

        Raises:
            DataError: they are those of another test than the means.
        """
        tables: dict[str, Table] = {}
        for name, values in self._arrays.items():
            test_set, _, column = name.partition("/")
            if column:
                tables.setdefault(test_set, {})[column] = values
        for name, table in tables.items():
            known = self.metrics.get(f"{name}/loglik_joint", np.nan)
            mean = table["loglik_joint"].mean()  # infinities are null in the other file
            if not np.isclose(mean if np.isfinite(mean) else np.nan, known, rtol=1e-6, atol=1e-9, equal_nan=True):
                raise DataError(f"{TASKS} and {RESULTS} in {self.folder} are of two tests: run npexp test again")
        return tables

    @property
    def levels(self) -> np.ndarray:
        """Levels of the intervals in the tasks' "coverage", `[k]`."""
        return self._arrays["levels"]

    @cached_property
    def examples(self) -> list[Any]:
        """Predictions for a few tasks; empty where the file is missing."""
        return unpack(_read(self.folder / EXAMPLES))

    @cached_property
    def seconds(self) -> float:
        """Time of training, from the tasks per second that were logged and the tasks seen; NaN where unknown."""
        rates = [row["perf/tasks_per_second"] for row in self._rows.values() if "perf/tasks_per_second" in row]
        steps = max(self._rows, default=-1) + 1
        return steps * self._tasks_per_step * float(np.mean(np.reciprocal(rates))) if rates else float("nan")

    @property
    def _tasks_per_step(self) -> float:
        """Over all processes; NaN where the data do not come in batches of one size."""
        if wanted := self.config.get("global_batch_size"):
            return float(wanted)
        factors = [self.config.get(f"trainer.{key}") for key in ("devices", "num_nodes", "accumulate_grad_batches")]
        counts = [n for n in factors if isinstance(n, int) and n > 0]  # others, such as "auto", stand for one here
        return float(self.config.get("data.init_args.batch_size", "nan")) * math.prod(counts)

    @cached_property
    def memory(self) -> float:
        """Peak memory of training in MiB; NaN where unknown."""
        peaks = [row["perf/peak_memory_mb"] for row in self._rows.values() if "perf/peak_memory_mb" in row]
        return max(peaks, default=float("nan"))

    @cached_property
    def _arrays(self) -> dict[str, np.ndarray]:
        return _read(self.folder / TASKS)

    @cached_property
    def _rows(self) -> dict[int, dict[str, Any]]:
        path = self.folder / METRICS
        return read_rows(path) if path.is_file() else {}


class Row(NamedTuple):
    """A model with its settings, as a table shows it.

    Args:
        label: its name, and what sets it apart from rows of the same name.
        runs: its replicates, by seed.
    """

    label: str
    runs: list[Finished]

    @property
    def kind(self) -> str:
        """Of its likelihood: joint or factorised."""
        return self.runs[0].facts["likelihood"]

    def tables(self, test_set: str) -> list[Table]:
        """The tasks of a test set, of each replicate that has their scores."""
        return [run.tasks[test_set] for run in self.runs if test_set in run.tasks]


def _read(path: Path) -> dict[str, np.ndarray]:
    """The arrays in a file; none where there is no file."""
    try:
        return read_arrays(path) if path.is_file() else {}
    except (OSError, ValueError, BadZipFile) as error:
        raise DataError(f"cannot read {path} ({error}): run npexp test again") from error


def find(places: Sequence[str]) -> tuple[list[Finished], list[str]]:
    """The tested runs in these places.

    Args:
        places: run folders, folders of any height above them, or patterns such as "runs/gp_rbf_*".

    Returns:
        The runs, and folders of runs that were never tested.

    Raises:
        ConfigError: a place where there is no tested run.
    """
    tested: dict[Path, None] = {}
    waiting: dict[Path, None] = {}
    for place in places:
        folders = [Path(name) for name in sorted(glob(place))]
        here = [file.parent for folder in folders for file in sorted(folder.rglob(RESULTS))]
        if not here:
            raise ConfigError(
                f"expected a tested run in {place}, got none: run npexp test first, or give another place"
            )
        tested |= dict.fromkeys(here)
        waiting |= {p.parent: None for folder in folders for p in folder.rglob("config.yaml") if p.parent not in tested}
    names = list(dict.fromkeys(folder.parent for folder in tested))
    ordered = sorted(tested, key=lambda folder: (names.index(folder.parent), _version(folder)))
    return [Finished(folder) for folder in ordered], [str(folder) for folder in waiting]


def _version(folder: Path) -> int:
    return int(folder.name) if folder.name.isdigit() else -1


def group(runs: Iterable[Finished]) -> tuple[dict[str, list[Row]], list[str]]:
    """Families of tasks, and the rows of each: runs with the same model and settings are replicates by seed.

    Returns:
        Rows by family, in the order of the runs; and remarks on runs that were left out, since another one of the same
        settings and seed comes later: the newer version, as `find` has them.
    """
    settings: dict[tuple[str, str], dict[str, dict[int, Finished]]] = {}
    remarks = []
    for run in runs:
        decoding = run.facts.get("decoding")
        name = run.facts["model"] + (f", {decoding}" if decoding else "")
        same = settings.setdefault((run.facts["data"], name), {})
        seeds = same.setdefault(json.dumps(_material(run), sort_keys=True, default=str), {})
        if (old := seeds.pop(run.seed, None)) is not None:
            remarks.append(
                f"{old.folder} ({old.facts['steps']:,} steps) is left out: {run.folder} ({run.facts['steps']:,} steps) "
                "has the same settings and the same seed"
            )
        seeds[run.seed] = run
    families: dict[str, list[Row]] = {}
    for (family, name), found in settings.items():
        rows = [[seeds[seed] for seed in sorted(seeds)] for seeds in found.values()]
        labels = _apart(rows)
        families.setdefault(family, []).extend(
            Row(f"{name} ({label})" if label else name, row) for label, row in zip(labels, rows, strict=True)
        )
    return families, remarks


def _material(run: Finished) -> dict[str, Any]:
    """What replicates agree in: settings, those of callbacks such as averages of weights, and the likelihood."""
    found = {k: v for k, v in run.config.items() if not any(k == i or k.startswith(f"{i}.") for i in IMMATERIAL)}
    for callback in found.pop("trainer.callbacks", None) or []:
        name = callback["class_path"].rpartition(".")[2]
        found |= {f"trainer.{name}": True} | flatten(callback.get("init_args") or {}, f"trainer.{name}")
    return found | {"likelihood": run.facts["likelihood"]}


def _apart(rows: Sequence[Sequence[Finished]]) -> list[str]:
    """What tells rows of one name apart: the settings that differ, or a folder where they are many or not known."""
    if len(rows) == 1:
        return [""]
    settings = [_material(row[0]) for row in rows]
    known = [one for one, row in zip(settings, rows, strict=True) if row[0].config]
    keys = dict.fromkeys(key for one in known for key in one)
    keys = [key for key in keys if len({repr(one.get(key, ...)) for one in known}) > 1]
    ends = {key: [".".join(key.split(".")[-i:]) for i in range(1, key.count(".") + 2)] for key in keys}
    counts = Counter(end for key in keys for end in ends[key])
    names = {key: next((end for end in ends[key] if counts[end] == 1), key) for key in keys}  # the shortest unique ones
    found = []
    for one, row in zip(settings, rows, strict=True):
        words = [f"{name} {one[key]}" for key, name in names.items() if key in one]
        found.append(", ".join(words) if row[0].config and len(words) <= MOST_SETTINGS else str(row[0].folder))
    return found


def same_tasks(a: Table, b: Table) -> str:
    """Why the tasks that both have are not the same ones; "" where they are.

    Tasks are known by their place in the test set, their sizes and the mean of their outputs.
    """
    here, there = shared(a, b)
    if not len(here):
        return "no place in the test set that both have"
    for column in ("num_context", "num_target"):
        if (a[column][here] != b[column][there]).any():
            return f"tasks in the same place differ in {column}"
    gap = np.abs(a["y_mean"][here] - b["y_mean"][there])
    if (gap > SAME * max(float(a["y_mean"].std()), 1e-12)).any():
        return "tasks in the same place differ in their outputs"
    return ""


def shared(a: Table, b: Table) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a and rows of b that stand in the same places of the test set, in its order, `[n]` each."""
    places = [np.stack([table["batch"], table["task"]], axis=1).astype(int) for table in (a, b)]
    widest = 1 + max(place[:, 1].max() for place in places)
    numbers = [place[:, 0] * widest + place[:, 1] for place in places]
    _, here, there = np.intersect1d(*numbers, assume_unique=True, return_indices=True)
    return here, there
