"""Turns the parser's messages into one line that says what came, what was expected and what is near."""

import inspect
import re
import sys
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

LIMIT = 240  # characters of a type that is spelled out


def explain(message: str, parser: Any) -> str:
    """One line about a mistake, with the nearest known names.

    Args:
        message: what jsonargparse says.
        parser: the parser that refused.
    """
    keys = [action.dest for action in parser._actions if action.dest not in ("help", "print_config")]
    if found := re.search(r"unrecognized arguments: (.*)", message):
        words = [word.split("=")[0] for word in found[1].split() if word.startswith("--")] or found[1].split()
        hints = [f"unknown option '{word}'{_near(word.lstrip('-'), keys)}" for word in words]
        return "; ".join(hints)
    if found := re.search(r"Subcommand '(.*)' does not accept option '(.*)'", message):
        commands = next((action.choices for action in parser._actions if action.dest == "subcommand"), None)
        options = [action.dest for action in commands[found[1]]._actions] if commands else keys
        return f"unknown option '{found[2]}'{_near(found[2], options)}"
    if found := re.search(r"Group '(.*)' does not accept option '(.*)'", message):
        group = re.sub(r"^(fit|validate|test)\.", "", found[1])
        inside = [key.removeprefix(f"{group}.") for key in keys if key.startswith(f"{group}.")]
        return f"unknown option '{group}.{found[2]}'{_near(found[2], inside)}"
    if found := re.search(r"Option '(.*)' is not accepted", message):
        tails = {key.rpartition(".")[2] for key in keys} | arguments()
        name = found[1]
        return f"unknown option '{name}'{_near(name, keys if '.' in name else tails)}"
    if found := re.search(r"the following arguments are required: (.*)", message):
        names = ", ".join(re.sub(r"^(fit|validate|test)\.", "", name) for name in found[1].split(", "))
        return f"missing {names}: give a --config that sets them, such as an experiment"
    if found := re.search(r'Parser key "(.*?)":(.*)', message, re.DOTALL):
        return _wrong_value(found[1], found[2])
    return " ".join(message.split())


def _wrong_value(key: str, details: str) -> str:
    """What is wrong with a value: an unknown class, or another type."""
    found = re.search(r"Expected a dot import path string: (\S+)", details)
    if found and "<class 'float'>" not in details:  # a learning rate may be a number or a tensor; nobody gives a class
        return f"unknown class '{found[1]}' for {key}{_near(found[1], classes())}"
    if found := re.search(r"given class_path '(\S+)': (.*)", details):
        return f"cannot use class '{found[1]}' for {key}: {found[2]}{_near(found[1].rpartition('.')[2], classes())}"
    came = re.search(r"(?:Given value|Got value): ((?:(?!\. Got value).)*)", details)
    wanted = re.findall(r"Expected an? (.*?)(?:\. Got value.*)?$", details, re.MULTILINE)
    types = [_readable(w) for w in wanted if "path" not in w and "NoneType" not in w]
    if came and types:
        return f"{key} expects {' or '.join(dict.fromkeys(types))}, got {came[1].strip()!r}"[:LIMIT]
    return f"{key}: {' '.join(details.split())}"[:LIMIT]


def _readable(kind: str) -> str:
    kind = re.sub(r"<class '(?:.*\.)?(.*?)'>", r"\1", kind)
    return re.sub(r"typing\.(?:Literal\[(.*)\])?", r"\1", kind).strip()


def _near(name: str, known: Iterable[str]) -> str:
    """A hint with the nearest names, or nothing."""
    names = sorted(set(known) - {name})  # which some other class may have
    near = get_close_matches(name, names, n=3, cutoff=0.6)
    # A bare option is often a nested one whose group was left out.
    near = near or [key for key in names if key.rpartition(".")[2] == name.rpartition(".")[2]][:3]
    return "; did you mean " + " or ".join(f"'{n}'" for n in near) + "?" if near else ""


def _types() -> list[type]:
    """The classes that a configuration can name: ours, the optimisers and the schedules."""
    ours = [
        value
        for name, module in list(sys.modules.items())
        if name.split(".")[0] in ("npexp", "datamodules")
        for value in vars(module).values()
        if inspect.isclass(value) and value.__module__.split(".")[0] in ("npexp", "datamodules")
    ]
    import torch

    theirs = [torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]
    return ours + [cls for base in theirs for cls in base.__subclasses__()]


def classes() -> set[str]:
    """Their names."""
    return {cls.__name__ for cls in _types()}


def arguments() -> set[str]:
    """Every argument that one of their constructors takes."""
    found = set()
    for cls in _types():
        try:
            found |= set(inspect.signature(cls).parameters)
        except (TypeError, ValueError):
            continue  # a class without a readable signature has no arguments to suggest
    return found
