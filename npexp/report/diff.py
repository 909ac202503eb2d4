"""Two runs against each other: settings, metrics, and paired tests over the tasks that both were tested on."""

import math
from pathlib import Path
from typing import NamedTuple

from npexp.errors import DataError
from npexp.files import whole_file
from npexp.report.estimates import Paired, paired
from npexp.report.finished import Finished, same_tasks, shared
from npexp.tables import markdown, plus_minus, terminal

HEADS = ("test set", "metric", "A", "B", "B less A", "p, t test", "p, sign flips", "batches")
AS_MEAN = {"rmse": "mse"}  # the mean of tasks behind a metric that is none itself
ABOUT_RUNS = ("name", "version", "runs_dir", "ckpt_path", "defaults")
NOTE = (
    "Differences over the test tasks that both runs have, with standard errors for which batches are independent and "
    "tasks within one are not. p-values are two-sided: Student's t on batches, and flips of the signs of whole "
    "batches. They are for one row each, not corrected for the number of rows, and say nothing about other seeds."
)


class Change(NamedTuple):
    """A metric of two runs.

    Args:
        test_set: the tasks.
        metric: its name; "mse" stands in for "rmse" in tests.
        first: its value in the one run.
        second: its value in the other.
        test: on the same tasks; None where the metric is no mean over tasks, or no scores of tasks are known.
    """

    test_set: str
    metric: str
    first: float
    second: float
    test: Paired | None


def compare(first: Finished, second: Finished, out: Path | None = None) -> None:
    """Prints what differs.

    Args:
        first: A.
        second: B.
        out: a folder for the same as `diff.md`.

    Raises:
        DataError: the runs were not tested on the same tasks, or one has no scores of tasks.
    """
    names = f"A: {first.folder} ({_title(first)})\nB: {second.folder} ({_title(second)})"
    found, other = [_cells(change) for change in changes(first, second)], settings(first, second)
    print(names, end="\n\n")
    heads = ("setting", "A", "B")
    title = "Settings that differ." if other else "No setting differs."
    if unknown := [str(run.folder) for run in (first, second) if not run.config]:
        title = f"Settings are not known without config.yaml in {' and '.join(unknown)}."
    terminal(title, heads, other, words=heads, wrapped="B")
    terminal("Metrics.", HEADS, found, words=HEADS[:2], notes=NOTE)
    if out is not None:
        parts = [names.replace("\n", "  \n"), title, markdown(heads, other), markdown(HEADS, found), NOTE]
        with whole_file(out / "diff.md") as file:
            file.write("\n".join(["# Two runs\n", *(f"{part.strip()}\n" for part in parts)]))


def settings(first: Finished, second: Finished) -> list[list[str]]:
    """Rows (setting, A, B) where the two differ, "-" for no such setting; none where a run's settings are not known."""
    rows = []
    if not (first.config and second.config):
        return rows
    for key in dict.fromkeys([*first.config, *second.config]):
        values = [run.config.get(key, "-") for run in (first, second)]
        if values[0] != values[1] and key not in ABOUT_RUNS:
            rows.append([key, *map(str, values)])
    return rows


def changes(first: Finished, second: Finished) -> list[Change]:
    """Every metric that both have, bins of context sizes aside, and gaps, which differ as log-likelihoods do.

    Raises:
        DataError: see `compare`.
    """
    test_sets = [name for name in first.test_sets if name in second.test_sets]
    if not test_sets:
        raise DataError(f"{first.folder} and {second.folder} have no test set in common: compare runs on the same data")
    found = []
    for test_set in test_sets:
        for run in (first, second):
            if test_set not in run.tasks:
                raise DataError(f"{run.folder} has no scores of {test_set} tasks: run npexp test again")
        a, b = first.tasks[test_set], second.tasks[test_set]
        if why := same_tasks(a, b):
            raise DataError(
                f"{first.folder} and {second.folder} were not tested on the same {test_set} tasks ({why}): run "
                "npexp test with the same data settings for both"
            )
        here, there = shared(a, b)
        for key, value in first.metrics.items():
            name, _, metric = key.partition("/")
            if name != test_set or "/" in metric or metric.endswith("_sem") or key not in second.metrics:
                continue
            if metric.startswith("oracle_gap"):
                continue
            column = AS_MEAN.get(metric, metric)
            known = column in a and not (math.isnan(a[column][here].sum()) or math.isnan(b[column][there].sum()))
            test = paired(a[column][here], b[column][there], a["batch"][here]) if known else None
            found.append(Change(test_set, metric, value, second.metrics[key], test))
    return found


def _cells(change: Change) -> list[str]:
    test_set, metric, first, second, test = change
    start = [test_set, metric, plus_minus(first, digits=4), plus_minus(second, digits=4)]
    if test is None:
        return [*start, f"{second - first:.4f}", "", "", ""]
    unit = " (mse)" if metric in AS_MEAN else ""
    p_values = ("" if math.isnan(p) else f"{p:.2g}" for p in (test.p_t, test.p_flip))
    return [*start, plus_minus(test.difference, test.error, 4) + unit, *p_values, str(test.batches)]


def _title(run: Finished) -> str:
    return f"{run.facts['model']} on {run.facts['data']}, seed {run.seed}, {run.facts['steps']:,} steps"
