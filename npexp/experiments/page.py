"""A table written up: its numbers, its figure, and the chapter with question, protocol and what it shows."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from npexp.experiments.plan import Plan, cells
from npexp.files import whole_file
from npexp.report.figures import cost_figure
from npexp.report.finished import Finished, Row
from npexp.report.formats import span, to_markdown
from npexp.report.summary import EXACT, Block, blocks
from npexp.run_files import RESULTS
from npexp.tables import plus_minus

TABLE, FIGURE = "table.md", "cost-{}.png"  # in a table's folder of results; the latter for a family of tasks
NUMBER = re.compile(r"\{([^{}.@]+)\.(\w+)(?:@(\w+))?\}")
MISSING = "(not run yet)"
CEILINGS = {"factorised": "exact", "joint": "exact_joint"}  # what texts call the exact posterior of a block
ONE_FIGURE = 3  # models, with fewer of which there is nothing to draw

INTRODUCTION = """\
# The experiments

Each chapter is a table: `experiments/NAME.yaml` says what is trained and tested, `npexp table NAME` does what is
missing and goes on where it was stopped, `npexp table` lists what is done, and
`npexp table --chapters docs/experiments.md` writes this page. The raw results of every seed are in `results/NAME/`;
numbers here come from there, and a test compares. Times of training are as logged, on machines that did other things as
well: they compare roughly.
"""


def finished(plan: Plan, name: str, results: Path) -> dict[str, list[Row]]:
    """The rows that have results, by family of tasks, in the order of the plan.

    Args:
        plan: the table.
        name: what it is called.
        results: the folder of all results.
    """
    there: dict[tuple[str, str], list[Finished]] = {}
    for cell in sorted(cells(plan, name), key=lambda cell: list(plan.rows).index(cell.row)):
        if (results / cell.place / RESULTS).is_file():
            run = Finished(results / cell.place)
            there.setdefault((run.facts["data"], cell.row), []).append(run)
    families: dict[str, list[Row]] = {}
    for (family, row), runs in there.items():
        families.setdefault(family, []).append(Row(row, runs))
    return families


def write(plan: Plan, name: str, results: Path) -> None:
    """Writes a table and its figures into its folder of results."""
    for family, rows in finished(plan, name, results).items():
        figure = cost_figure(rows) if len(rows) >= ONE_FIGURE else None
        if figure is not None:
            with whole_file(results / name / FIGURE.format(family), "wb") as file:
                figure.savefig(file, format="png", dpi=150)
    with whole_file(results / name / TABLE) as file:
        file.write(table(plan, name, results))


def table(plan: Plan, name: str, results: Path) -> str:
    """The table in Markdown: a part for each family of tasks, then which cells are missing and what made the others."""
    families = finished(plan, name, results)
    parts = []
    for family, rows in families.items():
        parts += [f"**{family}**"] * (len(families) > 1) + [to_markdown(blocks(rows)).replace("### ", "#### ")]
    return "\n\n".join([*(part.strip() for part in parts), _provenance(plan, name, families)]) + "\n"


def chapter(plan: Plan, name: str, results: Path, root: str) -> str:
    """The chapter on a table.

    Args:
        plan: the table.
        name: what it is called.
        results: the folder of all results.
        root: how the page that it will stand on reaches the folder of results.
    """
    parts = [f"## {plan.title}", plan.question, plan.protocol]
    if plan.rows:
        families = finished(plan, name, results)
        known = numbers([block for rows in families.values() for block in blocks(rows)])
        parts.append(table(plan, name, results))
        figures = [f"{name}/{FIGURE.format(family)}" for family in families]
    else:
        known = {}
        commands = "".join(f"\n{command}" for command in plan.commands)
        parts.append(f"By `npexp table {name}`, which executes\n\n```{commands}\n```")
        parts += [_included(results / page, root) for page in plan.pages]
        figures = plan.figures
    parts += [f"![{Path(figure).stem}]({root}/{figure})" for figure in figures if (results / figure).is_file()]
    shows, failed = (
        NUMBER.sub(lambda match: known.get(_key(match), MISSING), text) for text in (plan.shows, plan.failed)
    )
    parts += [f"**What it shows.** {shows}"] * bool(shows) + [f"**What failed.** {failed}"] * bool(failed)
    return "\n\n".join(part.strip() for part in parts) + "\n"


def chapters(plans: Mapping[str, Plan], results: Path, root: str) -> str:
    """The page of all chapters."""
    return "\n".join([INTRODUCTION, *(chapter(plan, name, results, root) for name, plan in plans.items())])


def numbers(found: Sequence[Block]) -> dict[tuple[str, str, str], str]:
    """What texts may quote, by row, column and test set; "" stands for the first test set of a row.

    The exact posterior is the row `exact` among factorised likelihoods, `exact_joint` among joint ones.
    """
    known: dict[tuple[str, str, str], str] = {}
    for block in found:
        for line in block.lines:
            cells = {key: plus_minus(*estimate) for key, estimate in line.cells.items()}
            if line.runs:
                cells |= {key: span([run.facts[key] for run in line.runs]) for key in ("steps", "parameters")}
            row = CEILINGS[block.kind] if line.label == EXACT else line.label
            for key, text in cells.items():
                known.setdefault((row, key, ""), text)
                known[row, key, block.test_set] = text
    return known


def _key(match: re.Match[str]) -> tuple[str, str, str]:
    row, column, test_set = match.groups()
    return row, column, test_set or ""


def _provenance(plan: Plan, name: str, families: Mapping[str, Sequence[Row]]) -> str:
    """How a table was made, and how complete it is."""
    runs = [run for rows in families.values() for row in rows for run in row.runs]
    wanted = cells(plan, name)
    have = {(row.label, run.seed) for rows in families.values() for row in rows for run in row.runs}
    text = f"By `npexp table {name}`: {len(have)} of {len(wanted)} cells."
    missing: dict[str, list[int]] = {}
    for cell in wanted:
        if (cell.row, cell.seed) not in have:
            missing.setdefault(cell.row, []).append(cell.seed)
    none = [row for row in missing if all(cell.row != row or cell.seed in missing[row] for cell in wanted)]
    parts = [f"seeds {', '.join(map(str, seeds))} of {row}" for row, seeds in missing.items() if row not in none]
    parts += [f"all of {', '.join(none)}"] * bool(none)
    text += f" Missing: {'; '.join(parts)}." if parts else ""
    for fact in ("revision", "device", "versions"):
        said = sorted({str(run.facts[fact]) for run in runs if run.facts.get(fact)})
        text += f" {fact.capitalize()}: {'; '.join(said)}." if said else ""
    return text


def _included(page: Path, root: str) -> str:
    """A page of results inside a chapter, where it is there: below its heading, with links from the chapter's place."""
    if not page.is_file():
        return MISSING
    text = re.sub(r"^#+ ", "### ", page.read_text(), flags=re.MULTILINE)
    return re.sub(r"\]\((?!http|#|/)", f"]({root}/{page.parent.name}/", text)
