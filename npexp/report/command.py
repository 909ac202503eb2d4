"""`npexp report`: from finished runs to tables, figures and one page; or two runs against each other."""

from collections.abc import Sequence
from pathlib import Path

from npexp.commands import Parser
from npexp.errors import ConfigError
from npexp.report.finished import Finished, find


def report(words: Sequence[str]) -> int:
    """Writes a report, or compares two runs."""
    parser = Parser(
        "report",
        "Writes tables (Markdown, LaTeX, CSV) and figures (PNG, PDF) from runs that npexp test has measured; needs no "
        "model and no data. Runs with the same model, data and settings are replicates by seed. See docs/report.md.",
    )
    parser.add_argument(
        "runs", nargs="*", metavar="RUN", help="run folders, folders above them such as runs/gp_rbf_cnp, or patterns"
    )
    parser.add_argument(
        "--out", metavar="DIR", help="the folder to write, index.md first; for --diff, where diff.md goes"
    )
    parser.add_argument("--diff", nargs=2, metavar=("A", "B"), help="compare two runs on the same test tasks")
    args = parser.read(words)
    if args.diff:
        if args.runs:
            raise ConfigError(f"--diff takes two runs and no other one: leave out {' '.join(args.runs)}")
        from npexp.report.diff import compare

        compare(*map(_newest, args.diff), None if args.out is None else Path(args.out))
        return 0
    if not args.runs or args.out is None:
        raise ConfigError("expected RUN ... --out DIR, or --diff A B: see npexp report --help")
    from npexp.report.page import write

    runs, untested = find(args.runs)
    write(runs, untested, Path(args.out), ["report", *words])
    print(f"{Path(args.out) / 'index.md'}: {len(runs)} runs")
    return 0


def _newest(place: str) -> Finished:
    """The run in a place; of several versions of one run the newest one."""
    runs, _ = find([place])
    if len({run.folder.parent for run in runs}) > 1:
        names = ", ".join(str(run.folder) for run in runs[:3])
        raise ConfigError(f"expected one run in {place}, got {len(runs)}, such as {names}: give the folder of one")
    return runs[-1]
