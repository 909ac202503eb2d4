"""Configuration files: finding them by name and layering them.

A configuration is a YAML file of constructor arguments. `--config` takes a path, or a name under `conf/` with or
without `.yaml`. A file may start from others: `defaults: [model/cmanp, data/gp_rbf]` puts those below itself.
"""

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import yaml

from npexp.errors import ConfigError, UnknownNameError

T = TypeVar("T")


def conf_dir() -> Path:
    """The folder of shipped configurations: beside the package in a checkout, inside it when installed."""
    package = Path(__file__).resolve().parent
    installed = package / "conf"
    return installed if installed.is_dir() else package.parent / "conf"


def config_names(group: str = "") -> list[str]:
    """Names of the shipped configurations, such as "model/cmanp", sorted.

    Args:
        group: only those below this folder, e.g. "model".
    """
    root = conf_dir()
    return sorted(p.relative_to(root).with_suffix("").as_posix() for p in (root / group).rglob("*.yaml"))


def find_config(name: str) -> Path:
    """The absolute path of a configuration given by path or by name.

    Raises:
        UnknownNameError: there is no such file; the message lists the nearest names.
    """
    for path in (Path(name), conf_dir() / name, conf_dir() / f"{name}.yaml"):
        if path.is_file():
            return path.resolve()
    raise UnknownNameError("config", name, config_names())


def read_config(path: Path) -> dict[str, Any]:
    """The content of a YAML file that holds a mapping.

    Raises:
        ConfigError: the file is not YAML, or something other than a mapping.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path} is not valid YAML: {reason}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"expected {path} to hold 'key: value' lines, got a {type(content).__name__}")
    return content


def expand(names: Sequence[str]) -> list[Path]:
    """The files to layer for these configurations, lowest first, each one's `defaults` before itself.

    A file reached through `defaults` is layered once, so that a base shared by two configurations does not undo what
    was set in between. Expanding the result again gives the result: processes that re-read the command line agree.

    Raises:
        ConfigError: `defaults` form a cycle, or are no list of names.
        UnknownNameError: a name that does not exist.
    """
    layers: list[Path] = []
    for name in names:
        _add(find_config(name), layers, ())
    return layers


def _add(path: Path, layers: list[Path], above: tuple[Path, ...]) -> None:
    if path in above:
        raise ConfigError("'defaults' form a cycle: " + " -> ".join(p.stem for p in (*above, path)))
    below = read_config(path).get("defaults") or []
    if not isinstance(below, list) or not all(isinstance(name, str) for name in below):
        raise ConfigError(f"expected 'defaults' in {path} to be a list of config names, got {below!r}")
    for name in below:
        # A relative name means a neighbour of the file first, so that a folder of configurations can be moved around.
        beside = path.parent / name
        default = beside.resolve() if beside.is_file() else find_config(name)
        if default in (*above, path) or default not in layers:
            _add(default, layers, (*above, path))
    layers.append(path)


def setting(key: str, layers: Sequence[Path]) -> Any:
    """The value of a top-level key in the highest layer that has one, else None."""
    for path in reversed(layers):
        value = read_config(path).get(key)
        if value is not None:
            return value
    return None


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, with dotted keys."""
    if not isinstance(value, dict):
        return {prefix: value}
    return {k: v for key, inner in value.items() for k, v in flatten(inner, f"{prefix}.{key}".strip(".")).items()}


def words(settings: Mapping[str, Any]) -> list[str]:
    """Settings as arguments of `npexp fit`."""
    return [f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in settings.items()]


def construct(kind: type[T], content: Mapping[str, Any], origin: str) -> T:
    """The dataclass that plain data describe, of the types that it says.

    Args:
        kind: the dataclass.
        content: a YAML file's content.
        origin: what messages call it.

    Raises:
        ConfigError: what the class refuses, or a value of another type.
        UnknownNameError: a field that it does not have.
    """
    from jsonargparse import ArgumentParser  # a quarter of a second, which no other function here needs

    known = [field.name for field in fields(kind)]
    for key in content:
        if key not in known:
            raise UnknownNameError(f"key in {origin}", key, known)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind, "it")
    try:
        return parser.instantiate(parser.parse_object({"it": deepcopy(dict(content))})).it
    except ConfigError:
        raise
    except Exception as error:  # jsonargparse and the classes raise many kinds
        why = " ".join(str(error).split()).replace('Parser key "it.', '"')
        raise ConfigError(f"{origin}: {why}") from error
