"""A family's blocks as Markdown, LaTeX and CSV."""

import csv
import math
import re
from collections.abc import Sequence
from pathlib import Path

from npexp.files import whole_file
from npexp.report.published import Published
from npexp.report.summary import COLUMNS, Block, Line
from npexp.tables import markdown, plus_minus

CAPTION = (
    "Log-likelihoods in nats per target and output; ± is the standard error over training seeds; where there is one "
    "seed, and for the exact posterior, it is over batches of test tasks, which all models share. Bold: the best of a "
    "block, and those no further from it than the standard error of the difference, {}. Steps are those of the "
    "tested weights, training is the time of all steps of the run, without validations, as logged."
)
PAIRED = (
    "which is over the same test tasks where both have one seed and else that of independent seeds; npexp report "
    "--diff tests two runs"
)
UNPAIRED = "taken as if errors were independent, since the scores of single tasks are not kept with these results"
GAPS = (
    " The exact posterior knows the law and the hyperparameters of each task, which models have to infer; the gap to "
    "it is taken task by task."
)
PUBLISHED = (
    " Per target is the unit of published tables, all outputs of a target together; marginal scores are averaged over "
    "the targets of a batch, then over batches. Published are models of these names in their published sizes and "
    "training, with ± as printed, perhaps a standard deviation; models with another likelihood, mixer or decoding, or "
    "other data, have none beside them."
)
UNCHECKED = " †: not yet checked against the printed page or by another run."
TITLES = {
    "factorised": "factorised likelihoods: marginal log-likelihood",
    "joint": "joint likelihoods: joint log-likelihood",
}
LIKELIHOODS = ("loglik", "oracle_gap", "pooled", "joint", "published")  # columns of the first of two tables
FIRST = ("model", "seeds", "parameters", "steps", "training")
CSV_COLUMNS = ("data", "test_set", "likelihood", "model", "seeds", "metric", "value", "error", "error_over", "best")
ESCAPES = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "|": r"\textbar{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "†": r"$^\dagger$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
}


def caption(blocks: Sequence[Block]) -> str:
    """What the numbers mean."""
    known = [row for block in blocks for line in block.lines for row in line.published]
    paired = any(run.tasks for block in blocks for line in block.lines for run in line.runs)
    text = CAPTION.format(PAIRED if paired else UNPAIRED) + (
        GAPS if any("oracle_gap" in block.columns for block in blocks) else ""
    )
    return text + (PUBLISHED if known else "") + (UNCHECKED if any(row.checked == "no" for row in known) else "")


def origins(blocks: Sequence[Block]) -> list[str]:
    """The sources of published values, in the order of their numbers."""
    return list(dict.fromkeys(row.origin for block in blocks for line in block.lines for row in line.published))


def to_markdown(blocks: Sequence[Block]) -> str:
    """A table for each block under a heading, then the caption and the sources."""
    sources = origins(blocks)
    parts = []
    for block in blocks:
        heads = [*FIRST, *(COLUMNS[key].head for key in block.columns)]
        rows = [
            [text if not bold else f"**{text}**" for text, bold in _cells(block, line, sources)] for line in block.lines
        ]
        parts.append(f"### {block.test_set}, {TITLES[block.kind]}\n\n{markdown(heads, rows)}")
    notes = "".join(f"\n[{i}] {origin}.\n" for i, origin in enumerate(sources, 1))
    return "\n".join([*parts, caption(blocks), *([notes] if notes else [])])


def to_latex(family: str, blocks: Sequence[Block]) -> str:
    """A `table` environment of two tables with booktabs rules, no wider than the text: log-likelihoods, then the other
    metrics. What the caption does not say follows the tables; needs the packages booktabs and graphicx."""
    sources = origins(blocks)
    keys = [key for key in COLUMNS if any(key in block.columns for block in blocks)]
    first, _, notes = caption(blocks).partition(". ")
    notes += "".join(f" [{i}] {origin}." for i, origin in enumerate(sources, 1))
    others = [key for key in keys if key not in LIKELIHOODS]
    parts = [_tabular(blocks, FIRST, [key for key in keys if key in LIKELIHOODS], sources)]
    parts += [_tabular(blocks, FIRST[:1], others, sources)] if others else []
    return (
        "% \\usepackage{booktabs,graphicx}\n\\begin{table}\n  \\centering\n"
        f"  \\caption{{{escape(family)}. {escape(first)}.}}\n  \\label{{tab:{family}}}\n"
        + "  \\par\\medskip\n".join(parts)
        + f"  \\par\\medskip\n  \\parbox{{\\textwidth}}{{\\footnotesize {escape(notes)}}}\n\\end{{table}}\n"
    )


def _tabular(blocks: Sequence[Block], facts: Sequence[str], keys: Sequence[str], sources: Sequence[str]) -> str:
    """All blocks below one another, in these columns; shrunk to the width of the text where they are wider."""
    heads = [*facts, *(COLUMNS[key].head for key in keys)]
    lines = [r"\toprule", " & ".join(map(escape, heads)) + r" \\"]
    for block in blocks:
        title = escape(f"{block.test_set}, {TITLES[block.kind]}")
        lines += [r"\midrule", rf"\multicolumn{{{len(heads)}}}{{l}}{{\emph{{{title}}}}} \\"]
        for line in block.lines:
            cells = _cells(block, line, sources, keys)
            own = cells[len(FIRST) :]
            if not any(text for text, _ in own):  # as the exact posterior in the second table
                continue
            texts = [
                rf"\textbf{{{escape(text)}}}" if bold else escape(text) for text, bold in [*cells[: len(facts)], *own]
            ]
            lines.append(" & ".join(texts) + r" \\")
    body = "\n".join(f"    {line}" for line in [*lines, r"\bottomrule"])
    return (
        "  \\resizebox{\\ifdim\\width>\\textwidth\\textwidth\\else\\width\\fi}{!}{%\n"
        f"  \\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}\n{body}\n  \\end{{tabular}}}}\n"
    )


def write_csv(path: Path, family: str, blocks: Sequence[Block]) -> None:
    """One line for each number, digits as many as there are."""
    with whole_file(path, newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(CSV_COLUMNS)
        for block in blocks:
            for line in block.lines:
                seeds = len(line.runs)
                start = [family, block.test_set, block.kind, line.label, seeds or ""]
                over = "seeds" if seeds > 1 else "batches"
                for key, (mean, error) in line.cells.items():
                    writer.writerow([*start, key, mean, error, over, int(line.label in block.best.get(key, ()))])
                for row in line.published:
                    writer.writerow([*start, "published", row.value, row.error, f"as printed by {row.origin}", 0])


def escape(text: str) -> str:
    """Text for LaTeX; a minus before a number is a minus there, and two hyphens are no dash."""
    plain = "".join(ESCAPES.get(character, character) for character in text)
    return re.sub(r"(?<![\w-])-(?=\d)", "$-$", plain).replace("--", "-{}-")


def _cells(
    block: Block, line: Line, sources: Sequence[str], columns: Sequence[str] | None = None
) -> list[tuple[str, bool]]:
    """Text of each cell of a line, and whether it is bold."""
    found = [(line.label, False), (str(len(line.runs) or ""), False)]
    found += [(span([run.facts[name] for run in line.runs]), False) for name in FIRST[2:4]]
    found.append((duration([run.seconds for run in line.runs]), False))
    for key in block.columns if columns is None else columns:
        if key == "published":
            found.append(("; ".join(_quoted(row, sources) for row in line.published), False))
        else:
            estimate = line.cells.get(key)
            text = "" if estimate is None else plus_minus(*estimate)
            found.append((text, line.label in block.best.get(key, ())))
    return found


def duration(seconds: Sequence[float]) -> str:
    """The mean of times in the largest fitting unit; empty where one is unknown."""
    mean = sum(seconds) / len(seconds) if seconds else math.nan
    if math.isnan(mean):
        return ""
    for unit, size in (("h", 3600), ("min", 60)):
        if mean >= size:
            return f"{mean / size:.1f} {unit}"
    return f"{mean:.1f} s"


def span(numbers: Sequence[int]) -> str:
    """Least and largest of some numbers; one where they agree, none where there is none."""
    return " to ".join(f"{n:,}" for n in sorted({min(numbers), max(numbers)})) if numbers else ""


def _quoted(row: Published, sources: Sequence[str]) -> str:
    error = f" ± {row.error}" if row.error else ""
    return f"{row.value}{error}{'†' if row.checked == 'no' else ''} [{sources.index(row.origin) + 1}]"
