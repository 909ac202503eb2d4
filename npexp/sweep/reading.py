"""`npexp sweep status | best | export | plot`: what is read out of a study, while it runs or after."""

import argparse
import csv
import io
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from optuna.study import Study
from optuna.trial import FrozenTrial

from npexp.commands import Parser
from npexp.errors import ConfigError, suggest
from npexp.sweep.recipe import command, write_recipe
from npexp.sweep.storage import default_url, quiet, reaching
from npexp.sweep.study import load, read
from npexp.sweep.table import (
    counts,
    front,
    metrics,
    number,
    published,
    row,
    setting,
    short,
    snapshot,
    state,
    value,
    why,
)
from npexp.tables import terminal


def status(words: Sequence[str]) -> int:
    """Shows the trials of a study."""
    parser = _parser("status", "Shows the trials of a study, and how many there are of each state.")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args, study = _open(parser, words)
    names, trials = metrics(study), study.get_trials(deepcopy=False)
    if args.json:
        found = {"study": study.study_name, "counts": counts(study), "trials": [row(trial, names) for trial in trials]}
        print(json.dumps(_finite(found), indent=2))
        return 0
    total = ", ".join(f"{many} {word}" for word, many in sorted(counts(study).items()))
    _print_trials(f"{study.study_name}, {len(trials)} trials: {total}", trials, names)
    return 0


def best(words: Sequence[str]) -> int:
    """Shows the best trial of a study, or writes a configuration from it."""
    parser = _parser(
        "best",
        "Shows the best trial that keeps all constraints: its settings, its folder and the command that trains it. "
        "With several metrics there are many, the Pareto front; the most accurate stands first.",
    )
    parser.add_argument("--trial", type=int, metavar="N", help="this trial instead")
    parser.add_argument("--write", metavar="FILE", help="write a configuration: conf/experiment/NAME.yaml")
    parser.add_argument("--force", action="store_true", help="replace a FILE that exists")
    args, study = _open(parser, words)
    found = front(study) if args.trial is None else [_trial(study, args.trial)]
    if not found:
        states = ", ".join(f"{many} {word}" for word, many in counts(study).items()) or "none"
        raise ConfigError(f"study '{study.study_name}' has no feasible complete trial yet; its trials: {states}")
    if args.write:
        write_recipe(study, found[0], args.write, args.force)
        print(f"{args.write}: trial {found[0].number} of {study.study_name}; npexp fit --config {args.write}")
        return 0
    first, names = published(study), metrics(study)
    if len(found) > 1:
        _print_trials(f"The Pareto front of {study.study_name}.", found, names)
    _describe(study, found[0], first, Path(args.runs_dir))
    return 0


def export(words: Sequence[str]) -> int:
    """Writes a study as a file."""
    parser = _parser("export", "Writes a study as a file, one row per trial.")
    parser.add_argument("--out", required=True, metavar="FILE", help="a .csv or .json file")
    args, study = _open(parser, words)
    path, names = Path(args.out), metrics(study)
    rows = [row(trial, names) for trial in study.get_trials(deepcopy=False)]
    if path.suffix == ".json":
        text = json.dumps(_finite(rows), indent=2) + "\n"
    elif path.suffix == ".csv":
        table = io.StringIO(newline="")
        writer = csv.DictWriter(table, list(dict.fromkeys(key for line in rows for key in line)), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        text = table.getvalue()
    else:
        raise ConfigError(f"expected --out to be a .csv or .json file, got {path}")
    try:
        path.write_text(text)
    except OSError as error:
        raise ConfigError(f"cannot write {path} ({error.strerror}): give --out another place") from error
    print(f"{path}: {len(rows)} trials of {study.study_name}")
    return 0


def plot(words: Sequence[str]) -> int:
    """Draws a study."""
    parser = _parser(
        "plot",
        "Draws what accuracy costs, how the search went, what each setting did, and which matter: PNG, and HTML where "
        "plotly is installed.",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="the folder for the files; it is made")
    args, study = _open(parser, words)

    from npexp.sweep.figures import write_figures
    from npexp.sweep.pages import write_pages

    drawn, missing = write_figures(study, args.out)
    drawn += write_pages(study, args.out)
    print(f"{args.out}: {', '.join(drawn)}")
    for line in missing:
        print(f"npexp: left out {line}", file=sys.stderr)
    return 0


def _parser(name: str, description: str) -> Parser:
    parser = Parser(f"sweep {name}", description)
    parser.add_argument("study", nargs="?", metavar="STUDY", help="its name")
    parser.add_argument("--config", metavar="FILE", help="the sweep's file instead, if the study has its name")
    parser.add_argument("--storage", metavar="URL", help="default: sqlite:///RUNS_DIR/STUDY/study.db")
    parser.add_argument("--runs_dir", default="runs", metavar="DIR", help="the folder of all runs; %(default)s")
    return parser


def _open(parser: Parser, words: Sequence[str]) -> tuple[argparse.Namespace, Study]:
    """The arguments, and the study that they mean, as it is now.

    Raises:
        ConfigError: no study is named, or there is none of that name.
        Unreachable: its storage cannot be reached.
    """
    args = parser.read(words)
    if (args.study is None) == (args.config is None):
        raise ConfigError(f"{parser.prog} needs STUDY or --config FILE, one of them; {_known(args.runs_dir)}")
    name = args.study or read(args.config)[0].name
    url = args.storage or default_url(args.runs_dir, name)
    kind, _, place = url.partition(":")
    file = {"sqlite": place.removeprefix("///"), "journal": place}.get(kind)
    if file is not None and not Path(file).is_file():  # which opening it would make
        hint = "check --storage" if args.storage else _known(args.runs_dir, name)
        raise ConfigError(f"there is no study '{name}' in {file}; {hint}")
    quiet()
    with reaching(url):
        return args, snapshot(load(name, url))


def _known(runs_dir: str, name: str = "") -> str:
    names = sorted(path.parent.name for path in Path(runs_dir).glob("*/study.db"))
    return suggest(name, names) if names else f"{runs_dir} holds none: see npexp sweep --help"


def _trial(study: Study, wanted: int) -> FrozenTrial:
    trials = study.get_trials(deepcopy=False)
    if not 0 <= wanted < len(trials):
        raise ConfigError(f"study '{study.study_name}' has trials 0 to {len(trials) - 1}, got --trial {wanted}")
    return trials[wanted]


def _describe(study: Study, trial: FrozenTrial, first: FrozenTrial | None, runs_dir: Path) -> None:
    """Prints a trial: what came out, its settings beside the published ones, its folder and its command."""
    names = metrics(study)
    shown = [trial, first] if first is not None and first.number != trial.number else [trial]
    heads = ["", *("published" if t is first else "chosen" for t in shown)]
    rows = [["trial", *(str(t.number) for t in shown)], ["state", *map(state, shown)]]
    rows += [[name, *(number(value(t, name, names)) for t in shown)] for name in names]
    rows += [[option, *(number(t.params.get(option)) for t in shown)] for option in trial.params]
    terminal(f"Trial {trial.number} of {study.study_name}; --trial N for another.", heads, rows, words=("",))
    if folder := trial.user_attrs.get("folder"):
        print(f"folder: {runs_dir / folder}")
    print(command(study, trial))


def _print_trials(title: str, trials: Sequence[FrozenTrial], names: Sequence[str]) -> None:
    """Prints trials: number, state, values, settings, seconds of the process and peak memory; then why some failed."""
    options = short(dict.fromkeys(option for trial in trials for option in setting(trial)))
    rows = []
    for trial in trials:
        found = [value(trial, name, names) for name in names] + [setting(trial).get(option) for option in options]
        spent = [trial.user_attrs.get(key) for key in ("seconds", "peak_memory_mb")]
        spent = ["" if found is None else f"{found:,.0f}" for found in spent]
        rows.append([str(trial.number), state(trial), *map(number, found), *spent])
    headings = [name.partition("/")[2] or name for name in names]
    heads = ["trial", "state", *headings, *options.values(), "seconds", "MiB"]
    reasons = [f"trial {trial.number}: {why(trial)}" for trial in trials if why(trial)]
    terminal(title, heads, rows, words=("state",), notes="\n".join(reasons))


def _finite(found: Any) -> Any:
    """The same with null for NaN and infinities, which JSON has no word for."""
    if isinstance(found, dict):
        return {key: _finite(inner) for key, inner in found.items()}
    if isinstance(found, list):
        return [_finite(inner) for inner in found]
    return None if isinstance(found, float) and not math.isfinite(found) else found
