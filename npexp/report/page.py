"""The files of a report: a page, and beside it tables and figures for each family of tasks."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from npexp.files import whole_file
from npexp.report.figures import calibration_figure, context_figure, cost_figure
from npexp.report.finished import Finished, Row, group
from npexp.report.formats import to_latex, to_markdown, write_csv
from npexp.report.predictions import MOST_MODELS, prediction_figures
from npexp.report.summary import blocks, other_tasks
from npexp.tables import markdown

SHOWN = f"first seeds of the first models, at most {MOST_MODELS}"
LEGENDS = {
    "context": "Log-likelihood against the number of context points: means over tasks in bins of about equal counts, "
    "with standard errors as in the table.",
    "calibration": "Share of test targets inside the central intervals of each level. Below the diagonal: too sure.",
    "cost": "Log-likelihood against time and peak memory of training, as logged. Time is that of training steps alone, "
    "from their mean rate. The Pareto front joins the models that no other beats in both; joint and factorised ones do "
    "not compare, nor do times on different devices.",
    "curve": f"Predictions for validation tasks, {SHOWN}; bands may leave the picture.",
    "image": f"Predictions for validation images, {SHOWN}; blue pixels are unknown.",
    "parity": f"Observed against predicted values of validation tasks, {SHOWN}.",
}


def write(runs: Sequence[Finished], untested: Sequence[str], folder: Path, command: Sequence[str]) -> None:
    """Writes a report.

    Args:
        runs: the tested runs.
        untested: folders of runs without a test, to be named.
        folder: where; made if it does not exist.
        command: the words after `npexp`, for the record.
    """
    families, remarks = group(runs)
    remarks += [f"{place} was never tested" for place in untested]
    parts = ["# Report"]
    for family, rows in families.items():
        found = blocks(rows)
        slug = family.replace("/", "-")
        with whole_file(folder / f"{slug}.tex") as file:
            file.write(to_latex(slug, found))
        write_csv(folder / f"{slug}.csv", family, found)
        parts += [f"## {family}", to_markdown(found), f"The same as [LaTeX]({slug}.tex) and as [CSV]({slug}.csv)."]
        parts += _figures(folder, slug, rows)
        remarks += other_tasks(rows)
        devices = {str(run.facts.get("device", "unknown")) for row in rows for run in row.runs}
        if len(devices) > 1:
            remarks.append(f"Times and memory of {family} are of different devices: {', '.join(sorted(devices))}")
        remarks += [
            f"{run.folder} has no scores of tasks: run npexp test again for its curves"
            for row in rows
            for run in row.runs
            if not run.tasks
        ]
    if remarks:
        parts += ["## Remarks", "".join(f"* {remark}\n" for remark in remarks)]
    parts += ["## Runs", _listing(families), f"`{shlex.join(['npexp', *command])}`"]
    with whole_file(folder / "index.md") as file:
        file.write("\n\n".join(part.strip() for part in parts) + "\n")


def _figures(folder: Path, slug: str, rows: Sequence[Row]) -> list[str]:
    """Draws, and returns Markdown for each figure."""
    drawn = {"context": context_figure(rows), "calibration": calibration_figure(rows), "cost": cost_figure(rows)}
    parts = []
    for name, figure in {**drawn, **prediction_figures(rows)}.items():
        if figure is not None:
            for suffix in ("png", "pdf"):
                with whole_file(folder / f"{slug}-{name}.{suffix}", "wb") as file:
                    figure.savefig(file, format=suffix, dpi=150)
                figure.set_layout_engine("none")  # done, and half of the time
            parts.append(f"![{name}]({slug}-{name}.png)\n\n{LEGENDS[name]} ([PDF]({slug}-{name}.pdf))")
    return parts


def _listing(families: dict[str, list[Row]]) -> str:
    heads = ["data", "model", "seed", "steps", "revision", "device", "folder"]
    rows = [
        [family, row.label, str(run.seed), *(str(run.facts.get(key, "")) for key in heads[3:-1]), str(run.folder)]
        for family, members in families.items()
        for row in members
        for run in row.runs
    ]
    return markdown(heads, rows)
