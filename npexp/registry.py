"""Names: every model is a YAML under `conf/model`, every data set one under `conf/data`, every mixer a registration."""

import importlib
import inspect
import itertools
import re
from typing import Any

from npexp.config import config_names, find_config, read_config
from npexp.errors import ConfigError, UnknownNameError, suggest


def build(name: str, **overrides: Any) -> Any:
    """Builds the model that `conf/model/<name>.yaml` describes.

    Args:
        name: e.g. "cmanp" or "paper/tnpd".
        **overrides: constructor arguments; dx and dy are always needed.

    Raises:
        UnknownNameError: no such YAML.
        ConfigError: an argument that the model does not have, or a missing one.
    """
    spec = _spec("model", name)
    spec = {**spec, "init_args": {**(spec.get("init_args") or {}), **overrides}}
    model = instantiate(spec)
    if is_plain(spec):
        model.spec = spec
    return model


def is_plain(value: Any) -> bool:
    """Whether a description holds nothing but numbers, words, lists and mappings."""
    if isinstance(value, dict):
        return all(is_plain(v) for v in value.values())
    if isinstance(value, list | tuple):
        return all(is_plain(v) for v in value)
    return value is None or isinstance(value, bool | int | float | str)


def build_data(name: str, **overrides: Any) -> Any:
    """Builds the LightningDataModule that `conf/data/<name>.yaml` describes, with some arguments replaced."""
    spec = _spec("data", name)
    return instantiate({**spec, "init_args": {**(spec.get("init_args") or {}), **overrides}})


def available_models(measured: bool = False) -> dict[str, dict[str, Any]]:
    """Model names with their traits and parameter counts, at dx = dy = 1.

    Args:
        measured: whether to add what `npexp.cost.measure` finds, which takes a few seconds.
    """
    from npexp.cost import measure

    found = {}
    for name in names("model"):
        model = build(name, dx=1, dy=1)
        costs = measure(model)._asdict() if measured else {}
        found[name] = {"parameters": sum(p.numel() for p in model.parameters()), **costs, **model.traits}
    return found


def available_mixers(measured: bool = False) -> dict[str, dict[str, Any]]:
    """Mixer names with their traits.

    Args:
        measured: whether to add the bytes of a state, which takes a few seconds to find out, and the powers of nc that
            time and memory were measured to grow with.
    """
    from npexp import mixer_costs
    from npexp.mixers.base import registered

    found = {name: cls.describe() for name, cls in registered().items()}
    if measured:
        cells = mixer_costs.read_measured()
        for name, traits in found.items():
            time, memory = mixer_costs.slopes(cells.get(name, {}))
            traits |= {"state_bytes": mixer_costs.state_bytes(name), "time_slope": time, "memory_slope": memory}
    return found


def available_data() -> dict[str, dict[str, Any]]:
    """Data names with their traits; the description is the first sentence of the YAML.

    The sizes of a table are unknown, None, until someone brings one.
    """
    return {name: {**_data_traits(name), "description": description(f"data/{name}")} for name in names("data")}


def _data_traits(name: str) -> dict[str, Any]:
    try:
        return build_data(name).traits
    except ConfigError:
        if (_spec("data", name).get("init_args") or {}).get("path", name) is not None:
            raise
        return {"dx": None, "dy": None, "oracle": False, "test_sets": ["test"]}


def description(config: str) -> str:
    """The first sentence of a shipped configuration, such as "data/gp_rbf"."""
    comment = itertools.takewhile(lambda line: line.startswith("#"), find_config(config).read_text().splitlines())
    words = " ".join(line.lstrip("# ") for line in comment)
    return re.split(r"(?<!et al)\.\s+(?=[A-Z0-9\"`])", words)[0].rstrip(".") + "."


def names(group: str) -> list[str]:
    """Names of the YAMLs in one group of `conf`."""
    return [name.removeprefix(f"{group}/") for name in config_names(group)]


def instantiate(spec: Any, trusted: tuple[str, ...] = ("npexp", "datamodules")) -> Any:
    """Turns `{class_path, init_args}` into an object, depth first; anything else is returned as it is.

    Args:
        spec: the description, as it stands in YAML files and checkpoints.
        trusted: packages or modules that classes may come from, both by their path and by where they were defined:
            what a trusted module merely imports is not trusted.

    Raises:
        ConfigError: a class from elsewhere or unknown, a module whose import fails, or arguments a class does not take.
    """
    if isinstance(spec, list):
        return [instantiate(item, trusted) for item in spec]
    if not isinstance(spec, dict):
        return spec
    if "class_path" not in spec:
        return {key: instantiate(value, trusted) for key, value in spec.items()}
    path = str(spec["class_path"])
    module, _, name = path.rpartition(".")
    refusal = ConfigError(f"expected a class of {' or '.join(trusted)}, got '{path}': refusing to load it")
    if not _within(module, trusted):
        raise refusal
    try:
        cls = getattr(importlib.import_module(module), name, None)
    except ImportError as error:
        if error.name is not None and _within(module, (error.name,)):
            raise ConfigError(f"there is no module '{module}': {error}") from error
        raise ConfigError(f"importing '{module}' failed: {error}: install or repair what it imports") from error
    if not inspect.isclass(cls):
        raise ConfigError(f"expected a class, '{path}' is none")
    if not _within(cls.__module__, trusted):
        raise refusal
    arguments = {key: instantiate(value, trusted) for key, value in (spec.get("init_args") or {}).items()}
    parameters = inspect.signature(cls).parameters
    for key in arguments:
        if key not in parameters:
            raise ConfigError(f"{name} has no argument '{key}'; {suggest(key, parameters)}")
    missing = [k for k, p in parameters.items() if p.default is p.empty and k not in arguments]
    if missing:
        raise ConfigError(f"{name} needs {', '.join(missing)}: pass them by name")
    return cls(**arguments)


def _within(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def _spec(group: str, name: str) -> dict[str, Any]:
    if name not in names(group):
        raise UnknownNameError(group, name, names(group))
    node: Any = read_config(find_config(f"{group}/{name}"))[group]
    return node["net"] if group == "model" else node
