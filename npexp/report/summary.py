"""A table for each family of tasks: models in rows, metrics in columns, a block for each test set and likelihood."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from npexp.report.estimates import Estimate, best, over_batches, over_seeds, pooled
from npexp.report.finished import Finished, Row, same_tasks, shared
from npexp.report.published import Published, published

LAW = {"factorised": "marginal", "joint": "joint"}  # kinds of likelihood, and the score that judges each
EXACT = "exact posterior"


class Column(NamedTuple):
    """A metric as a column.

    Args:
        head: its title; an arrow says which way is better.
        better: 1 where more is better, -1 where less is, 0 where nothing is to be ranked.
        target: the value that the best comes closest to, in place of most or least.
    """

    head: str
    better: int
    target: float | None = None


COLUMNS = {
    "loglik": Column("log-lik. ↑", 1),
    "oracle_gap": Column("gap to exact ↓", -1),
    "per_target": Column("per target ↑", 0),
    "published": Column("published", 0),
    "rmse": Column("RMSE ↓", -1),
    "crps": Column("CRPS ↓", -1),
    "energy_score": Column("energy ↓", -1),
    "calibration_error": Column("calibration error ↓", -1),
    "coverage_95": Column("coverage of 95 %", 1, 0.95),
}


class Line(NamedTuple):
    """A model in a block.

    Args:
        label: what it is called.
        runs: its replicates; none for the exact posterior.
        cells: estimates by column.
        published: what others have published for it.
    """

    label: str
    runs: list[Finished]
    cells: dict[str, Estimate]
    published: list[Published]


class Block(NamedTuple):
    """Models that may be ranked against each other.

    Args:
        test_set: the tasks.
        kind: "factorised" or "joint".
        lines: its rows.
        best: names of lines by column, those that stand in bold.
    """

    test_set: str
    kind: str
    lines: list[Line]
    best: dict[str, set[str]]

    @property
    def columns(self) -> list[str]:
        """Those with an entry."""
        having = {key for line in self.lines for key in line.cells} - {"per_target"}
        having |= {"per_target", "published"} if any(line.published for line in self.lines) else set()
        return [key for key in COLUMNS if key in having]


def blocks(rows: Sequence[Row]) -> list[Block]:
    """The blocks of a family, factorised ones first in each test set."""
    test_sets = list(dict.fromkeys(name for row in rows for name in row.runs[0].test_sets))
    found = []
    for test_set in test_sets:
        for kind in LAW:
            lines = [line(row, test_set) for row in rows if row.kind == kind and test_set in row.runs[0].test_sets]
            if lines:
                lines.sort(key=lambda one: one.cells["loglik"].mean, reverse=True)
                marked = {
                    key: _bold(lines, key, test_set, LAW[kind]) for key, column in COLUMNS.items() if column.better
                }
                exact = ceiling([one for one in lines if "oracle_gap" in one.cells], test_set, kind)
                found.append(Block(test_set, kind, exact + lines, marked))
    return found


def line(row: Row, test_set: str) -> Line:
    """A row's estimates on a test set."""
    law = LAW[row.kind]
    known = published(row.runs[0].facts["data"], test_set, row.runs[0].facts["model"])
    if row.label.partition(" (")[0] != row.runs[0].facts["model"]:
        known = []  # decoded otherwise than published
    names = {key: key for key in COLUMNS} | {"loglik": f"loglik_{law}", "oracle_gap": f"oracle_gap_{law}"}
    joint = known[0].score == "joint" if known else row.kind == "joint"
    names["per_target"] = "loglik_joint" if joint else "loglik_pooled"
    scale = dict.fromkeys(names, 1.0) | {"per_target": float(row.runs[0].facts["dy"]) if joint else 1.0}
    cells = {}
    for key, name in names.items():
        metric = f"{test_set}/{name}"
        having = [run.metrics for run in row.runs if metric in run.metrics]
        if having:
            values, errors = ([scale[key] * m.get(k, np.nan) for m in having] for k in (metric, f"{metric}_sem"))
            cells[key] = over_seeds(values, errors)
    return Line(row.label, row.runs, cells, known)


def ceiling(lines: Sequence[Line], test_set: str, kind: str) -> list[Line]:
    """The line of the law that made the tasks, none where it is unknown: no model can be better but by chance."""
    if not lines:
        return []
    run, law = lines[0].runs[0], LAW[kind]
    value = sum(run.metrics[f"{test_set}/{name}_{law}"] for name in ("loglik", "oracle_gap"))
    cells = {"loglik": Estimate(value, float("nan"))}
    if test_set in run.tasks:
        table = run.tasks[test_set]
        exact = table[f"loglik_{law}"] + table[f"oracle_gap_{law}"]
        cells["loglik"] = over_batches(exact, table["batch"])
        weighed = kind == "factorised"
        per_output = pooled(exact, table["batch"], table["num_target"]) if weighed else cells["loglik"]
        cells["per_target"] = Estimate(*(float(run.facts["dy"]) * number for number in per_output))
    return [Line(EXACT, [], cells, [])]


def other_tasks(rows: Sequence[Row]) -> list[str]:
    """Remarks on runs that were not tested on the tasks of the first one."""
    runs = [run for row in rows for run in row.runs]
    first, remarks = runs[0], []
    for run in runs[1:]:
        for test_set in run.test_sets:
            a, b = first.tasks.get(test_set), run.tasks.get(test_set)
            if a is not None and b is not None:
                differ = "their number" if len(a["batch"]) != len(b["batch"]) else same_tasks(a, b)
                if differ:
                    remarks.append(f"{run.folder} was tested on other {test_set} tasks than {first.folder}: {differ}")
    return remarks


def _bold(lines: Sequence[Line], key: str, test_set: str, law: str) -> set[str]:
    """The labels of the best lines; nobody is best of one."""
    column = COLUMNS[key]
    having = [one for one in lines if key in one.cells]
    values = [one.cells[key].mean for one in having]
    if column.target is not None:
        values = [-abs(value - column.target) for value in values]
    error = lambda i, j: _difference_error(having[i], having[j], key, test_set, law)  # noqa: E731
    marks = best(values, column.better, error) if len(having) > 1 else [False] * len(having)
    return {one.label for one, mark in zip(having, marks, strict=True) if mark}


def _difference_error(a: Line, b: Line, key: str, test_set: str, law: str) -> float:
    """Standard error of a difference: over the same tasks where both have one seed, else of independent errors."""
    score = {"loglik": f"loglik_{law}", "oracle_gap": f"oracle_gap_{law}", "rmse": "mse"}.get(key, key)
    tables = [line.runs[0].tasks.get(test_set, {}) for line in (a, b)]
    single = len(a.runs) == len(b.runs) == 1 and all(score in table for table in tables)
    if not single or same_tasks(*tables):
        return float(np.hypot(a.cells[key].error, b.cells[key].error))
    here, there = shared(*tables)
    gain = tables[0][score][here] - tables[1][score][there]
    # The difference of two roots is that of the squares, divided by the sum of the roots.
    scale = a.cells[key].mean + b.cells[key].mean if key == "rmse" else 1.0
    return over_batches(gain, tables[0]["batch"][here]).error / scale
