"""The `npexp` command: a dispatcher that imports only what the chosen command needs.

Adding a command is one line in `COMMANDS`: its name, what it does, and the function that runs it with the arguments
after the name.
"""

import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import NamedTuple

from npexp.errors import NPError, UnknownNameError


class Command(NamedTuple):
    """A command of `npexp`.

    Args:
        summary: one line for the help text.
        target: "module:function"; imported when the command is chosen.
    """

    summary: str
    target: str


COMMANDS = {
    "fit": Command("train a model; one folder runs/<name>/<version>/ holds all about it", "npexp.cli:train"),
    "validate": Command("measure a trained model on the validation tasks", "npexp.cli:train"),
    "test": Command("measure a trained model on the test tasks; prints a table", "npexp.cli:train"),
    "replay": Command("compute a training step again, also one that diverged, and look at it", "npexp.replay:replay"),
    "predict": Command("predict for your own data from a trained model: CSV, Parquet or NPZ", "npexp.commands:predict"),
    "export": Command("write a trained model as ONNX files, or with a model card", "npexp.commands:export"),
    "bench": Command("measure time and memory of models against the size of the context", "npexp.bench.command:bench"),
    "sweep": Command("search settings with Optuna, each trial a training run; resumes", "npexp.sweep.command:sweep"),
    "table": Command("run what is missing of a table of recipes and seeds", "npexp.experiments.command:table"),
    "report": Command("tables and figures from finished runs, or two runs compared", "npexp.report.command:report"),
    "models": Command("list the models, with size and traits", "npexp.commands:models"),
    "mixers": Command("list the token mixers, with cost and traits", "npexp.commands:mixers"),
    "data": Command("list the task families", "npexp.commands:data"),
}

HELP = """\
npexp: efficient Neural Processes, trained, compared and used under one protocol.

usage: npexp COMMAND [options]

{commands}

example
  npexp fit --config experiment/gp_rbf_cmanp --trainer.max_steps=2000
  npexp test --config experiment/gp_rbf_cmanp

npexp COMMAND --help lists the options of a command."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status: 0, or that of an error, see `npexp.errors`."""
    try:
        status = dispatch(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # whoever reads has seen enough, as `| head` has; at its end Python would try again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def dispatch(words: Sequence[str]) -> int:
    """Chooses the command, and tells of a mistake in one line."""
    name, rest = (words[0], words[1:]) if words else ("--help", [])
    if name in ("-h", "--help", "help"):
        width = max(map(len, COMMANDS))
        print(HELP.format(commands="\n".join(f"  {n:<{width}}  {c.summary}" for n, c in COMMANDS.items())))
        return 0
    try:
        if name == "--version":
            from npexp.runs import package_versions

            print(package_versions(("npexp",))["npexp"])
            return 0
        if name not in COMMANDS:
            raise UnknownNameError("command", name, COMMANDS)
        module, function = COMMANDS[name].target.split(":")
        run = getattr(import_module(module), function)
        return run(name, rest) if run is train else run(rest)
    except NPError as error:
        if error.status:
            print(f"npexp: {' '.join(str(error).split())}", file=sys.stderr)  # one line, whatever it quotes
        return error.status


def train(command: str, words: list[str]) -> int:
    """Runs `fit`, `validate` or `test`."""
    from npexp.exchange import TRIAL, end_with_worker
    from npexp.processes import end_with_parent, is_launched
    from npexp.runs import complete, only_prints, reserve

    if is_launched():
        end_with_parent()
    elif TRIAL in os.environ:
        end_with_worker()
    fresh, typed = None, [command, *words]
    if not {"-h", "--help"} & set(words):
        start = complete(command, words)
        words = start.words
        if not start.continues and not only_prints(words) and reserve(start.run):
            fresh = start.run.folder
    # Lightning starts the processes of further devices by executing sys.argv.
    sys.argv = [sys.argv[0], command, *words]
    # Lightning calls functions that jsonargparse is about to rename; nothing a user could do about it.
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    try:
        from npexp.training_cli import run_command

        run_command(typed)
    finally:
        if fresh is not None:
            for folder in (fresh, fresh.parent):
                with suppress(OSError):
                    folder.rmdir()  # only when empty: a run refused before it began uses up no version
    return 0
