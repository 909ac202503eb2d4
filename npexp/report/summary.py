"""A table for each family of tasks: models in rows, metrics in columns, a block for each test set and likelihood."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from npexp.report.estimates import Estimate, best, over_batches, over_seeds, pooled
from npexp.report.finished import Finished, Row, same_tasks, shared
from npexp.report.published import Published, comparable, published

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
    "pooled": Column("marginal per target ↑", 0),
    "joint": Column("joint per target ↑", 0),
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
        """Those with an entry; scores in the units of published tables where one was published."""
        scores = {row.score for line in self.lines for row in line.published}
        having = {key for line in self.lines for key in line.cells} - {"pooled", "joint"} | scores
        having |= {"published"} if scores else set()
        return [key for key in COLUMNS if key in having]


def blocks(rows: Sequence[Row]) -> list[Block]:
    """The blocks of a family, factorised ones first in each test set."""
    test_sets = list(dict.fromkeys(name for row in rows for run in row.runs for name in run.test_sets))
    found = []
    for test_set in test_sets:
        for kind in LAW:
            having = [row for row in rows if row.kind == kind]
            lines = [one for one in (line(row, test_set) for row in having) if "loglik" in one.cells]
            if lines:
                lines.sort(key=lambda one: np.nan_to_num(one.cells["loglik"].mean, nan=-np.inf), reverse=True)
                tables = [table for row in having for table in row.tables(test_set)]
                ranked = not any(same_tasks(tables[0], table) for table in tables[1:])
                marked = {
                    key: _bold(lines, key, test_set, LAW[kind])
                    for key, column in COLUMNS.items()
                    if column.better and ranked
                }
                exact = ceiling([one for one in lines if "oracle_gap" in one.cells], test_set, kind)
                found.append(Block(test_set, kind, exact + lines, marked))
    return found


def line(row: Row, test_set: str) -> Line:
    """A row's estimates on a test set: of the metrics that all its replicates have."""
    law, facts = LAW[row.kind], row.runs[0].facts
    known = published(facts["data"], test_set, facts["model"])
    if known and not all(comparable(run.facts, run.config) for run in row.runs):
        known = []
    names = {key: key for key in COLUMNS} | {"loglik": f"loglik_{law}", "oracle_gap": f"oracle_gap_{law}"}
    names |= {"pooled": "loglik_pooled", "joint": "loglik_joint"}
    cells = {}
    for key, name in names.items():
        metric, scale = f"{test_set}/{name}", float(facts["dy"]) if key == "joint" else 1.0
        if all(metric in run.metrics for run in row.runs):
            values, errors = (
                [scale * run.metrics.get(k, np.nan) for run in row.runs] for k in (metric, f"{metric}_sem")
            )
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
        table, dy = run.tasks[test_set], float(run.facts["dy"])
        exact = {name: table[f"loglik_{name}"] + table[f"oracle_gap_{name}"] for name in LAW.values()}
        cells = {
            "loglik": over_batches(exact[law], table["batch"]),
            "pooled": Estimate(*(dy * x for x in pooled(exact["marginal"], table["batch"], table["num_target"]))),
            "joint": Estimate(*(dy * x for x in over_batches(exact["joint"], table["batch"]))),
        }
    return [Line(EXACT, [], cells, [])]


def other_tasks(rows: Sequence[Row]) -> list[str]:
    """Remarks on runs that were not tested on the tasks of the first one."""
    remarks = []
    for test_set in dict.fromkeys(name for row in rows for run in row.runs for name in run.tasks):
        first, *others = (run for row in rows for run in row.runs if test_set in run.tasks)
        for run in others:
            a, b = first.tasks[test_set], run.tasks[test_set]
            if why := same_tasks(a, b):
                why += "; the best of both are not marked"
            elif len(a["batch"]) != len(b["batch"]):
                why = f"{len(b['batch']):,} in place of {len(a['batch']):,}"
            if why:
                remarks.append(f"{run.folder} was tested on other {test_set} tasks than {first.folder}: {why}")
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
    if not single:
        return float(np.hypot(a.cells[key].error, b.cells[key].error))
    here, there = shared(*tables)
    gain = tables[0][score][here] - tables[1][score][there]
    # The difference of two roots is that of the squares, divided by the sum of the roots.
    scale = a.cells[key].mean + b.cells[key].mean if key == "rmse" else 1.0
    return over_batches(gain, tables[0]["batch"][here]).error / scale
