"""`npexp table`: what is asked for, the workers that do it, and how far tables are."""

import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from npexp.commands import Parser
from npexp.config import conf_dir
from npexp.errors import ConfigError, UnknownNameError, at_least, positive
from npexp.experiments.page import TABLE, chapters, write
from npexp.experiments.plan import Cell, Plan, cells, names, read
from npexp.experiments.run import Bench
from npexp.files import whole_file
from npexp.processes import hearing
from npexp.run_files import RESULTS
from npexp.sweep.slots import Slot, gpus, share

OF_TRAININGS = ("rows", "seeds", "minutes", "write")  # options that say nothing about tables which scripts make


def table(words: Sequence[str]) -> int:
    """Works on a table, lists its cells, or writes the chapters.

    Returns:
        0; 1 when cells are missing in the end; 128 and the number of the signal when interrupted.
    """
    args = _parser().read(words)
    results, runs = Path(args.results), Path(args.runs_dir)
    if args.name is None and not names():
        raise ConfigError("tables come with a checkout, in its folder experiments/: run npexp there, or give a file")
    if args.chapters is not None:
        if args.name is not None:
            raise ConfigError(f"--chapters writes those of all tables: leave out {args.name}")
        text = chapters({name: read(name) for name in names()}, results, _way(args.chapters, results))
        with whole_file(args.chapters) as file:
            file.write(text)
        return 0
    given = [f"--{name}" for name in OF_TRAININGS if getattr(args, name) not in (None, False)]
    if args.name is None:
        if given:
            raise ConfigError(f"{given[0]} is about one table: give its name, one of {', '.join(names())}")
        for name in names():
            plan = read(name)
            print(f"{name:<14} {summary(plan, name, results):<18} {plan.title}")
        return 0
    plan, name = read(args.name), Path(args.name).stem
    if plan.commands:
        if given:
            raise ConfigError(f"{name} is made by scripts, of which {given[0]} says nothing: leave it out")
        return _list_pages(plan, results) if args.list else _scripts(plan)
    wanted = _chosen(cells(plan, name), args.rows, args.seeds)
    minutes = None if args.minutes is None else positive("--minutes", args.minutes)
    works = not (args.list or args.write)
    slots = share(at_least("--workers", args.workers, 1), 1, gpus()) if works else [Slot()]
    benches = [Bench(results, runs, slot, say) for slot in slots]
    if args.list:
        for cell in wanted:
            print(f"{cell!s:<40} {benches[0].state(cell)}{', being worked on' if benches[0].busy(cell) else ''}")
        return 0
    status = work(benches, wanted, minutes) if works else 0
    if any(benches[0].done(cell) for cell in cells(plan, name)):
        write(plan, name, results)
        print(f"{results / name / TABLE}: {summary(plan, name, results)}")
    return status


def work(benches: Sequence[Bench], wanted: Sequence[Cell], minutes: float | None = None) -> int:
    """Works on cells until all are done, time is up, or somebody interrupts.

    Args:
        benches: one for each worker.
        wanted: the cells.
        minutes: after which to stop; None is never.
    """
    stop, free, heard = threading.Event(), list(benches), list[int]()
    clock = threading.Timer(60 * minutes, stop.set) if minutes is not None else None

    def hear(number: int, _: Any) -> None:
        heard.append(number)
        stop.set()

    def one(cell: Cell) -> bool:
        bench = free.pop()
        try:
            return not stop.is_set() and bench.work(cell, stop)
        finally:
            free.append(bench)

    with hearing(hear), ThreadPoolExecutor(len(benches)) as pool:
        if clock is not None:
            clock.start()
        try:
            done = list(pool.map(one, wanted))
        finally:
            stop.set()
            if clock is not None:
                clock.cancel()
    return 128 + heard[0] if heard else int(not all(done))


def summary(plan: Plan, name: str, results: Path) -> str:
    """How far a table is."""
    if plan.commands:
        there = sum((results / page).is_file() for page in plan.pages)
        return f"{there} of {len(plan.pages)} pages"
    wanted = cells(plan, name)
    done = sum((results / cell.place / RESULTS).is_file() for cell in wanted)
    return f"{done} of {len(wanted)} cells"


def say(line: str) -> None:
    """Prints a line at once."""
    print(line, flush=True)


def _list_pages(plan: Plan, results: Path) -> int:
    """Says which of the pages that a table's commands write are there."""
    for page in plan.pages:
        print(f"{page:<40} {'written' if (results / page).is_file() else 'missing'}")
    return 0


def _scripts(plan: Plan) -> int:
    """Executes a table's commands in turn; the status of the first that fails."""
    for command in plan.commands:
        say(command)
        program, *rest = shlex.split(command)
        program = sys.executable if program == "python" else program
        environment = {"OMP_NUM_THREADS": "1", **os.environ}
        with hearing(signal.default_int_handler):  # a script does not outlive the command
            done = subprocess.run([program, *rest], cwd=conf_dir().parent, env=environment)
        if done.returncode:
            return done.returncode
    return 0


def _chosen(found: Sequence[Cell], rows: Sequence[str] | None, seeds: Sequence[int] | None) -> list[Cell]:
    """The cells of these rows and seeds.

    Raises:
        UnknownNameError: a row or a seed that the table does not have.
    """
    for kind, asked, having in (
        ("row", rows, dict.fromkeys(cell.row for cell in found)),
        ("seed", seeds, dict.fromkeys(cell.seed for cell in found)),
    ):
        for one in asked or ():
            if one not in having:
                raise UnknownNameError(kind, str(one), map(str, having))
    return [cell for cell in found if (rows is None or cell.row in rows) and (seeds is None or cell.seed in seeds)]


def _way(page: str, results: Path) -> str:
    """How a page reaches the folder of results."""
    return Path(os.path.relpath(results.resolve(), Path(page).resolve().parent)).as_posix()


def _parser() -> Parser:
    parser = Parser(
        "table",
        "Runs what is missing of a table of recipes and seeds, experiments/NAME.yaml: each cell a training and a test "
        "in runs/NAME/ROW/SEED; then writes results/NAME/table.md. After Ctrl-C the same command goes on where it was; "
        "several may run at once, also on machines that share the folders. Without NAME: how far the tables are.",
    )
    add = parser.add_argument
    add("name", nargs="?", metavar="NAME", help="a table, such as gp_1d, or a file")
    add("--rows", nargs="+", metavar="ROW", help="only these")
    add("--seeds", nargs="+", type=int, metavar="S", help="only these")
    add(
        "--workers",
        type=int,
        default=1,
        metavar="W",
        help="cells at once, a GPU each where there are any; default: %(default)s",
    )
    add("--minutes", type=float, metavar="M", help="stop after so many; the same command goes on later")
    add("--list", action="store_true", help="only say how far each cell is")
    add("--write", action="store_true", help="only write the table from what is there")
    add("--chapters", metavar="FILE", help="write the chapters on all tables, such as docs/experiments.md")
    add("--results", default="results", metavar="DIR", help="the folder of all results; default: %(default)s")
    add("--runs_dir", default="runs", metavar="DIR", help="the folder of all runs; default: %(default)s")
    return parser
