"""What can be measured: models by name, with any mixer, as an experiment sets them up, or trained."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from npexp.config import config_names, expand, read_config
from npexp.errors import UnknownNameError
from npexp.registry import build, instantiate, names
from npexp.runs import checkpoint_at

MIXER = "tnp:"  # in front of a mixer's name


class Subject(NamedTuple):
    """A model and how it is trained.

    Args:
        net: the model.
        training: the merged settings under `model` and `trainer`, see `recipe`.
    """

    net: Any
    training: dict[str, Any]


def check(models: Sequence[str], mixers: Sequence[str]) -> list[str]:
    """Names that `load` knows, those of mixers as "tnp:NAME", each once.

    Raises:
        UnknownNameError: no such model, experiment, run or mixer.
        ConfigError: a folder without a checkpoint.
    """
    known = [*names("model"), *config_names("experiment")]
    for name in models:
        if name not in known:
            if not Path(name).exists():
                raise UnknownNameError("model", name, known)
            checkpoint_at(name)
    if mixers:
        from npexp.mixers.base import find_mixer

        for name in mixers:
            find_mixer(name)
    return list(dict.fromkeys([*models, *(MIXER + name for name in mixers)]))


def load(name: str) -> Subject:
    """The model of that name; the sizes of inputs and outputs are 1 unless an experiment or a run says otherwise."""
    if name.startswith(MIXER):
        return Subject(build("tnp", dx=1, dy=1, mixer=name.removeprefix(MIXER)), recipe(["base"]))
    if name in names("model"):
        usual = f"experiment/gp_rbf_{Path(name).name}"
        return Subject(build(name, dx=1, dy=1), recipe([usual if usual in config_names("experiment") else "base"]))
    if name in config_names("experiment"):
        settings = recipe([name])
        net, data = settings["model"]["net"], instantiate(settings["data"])
        return Subject(instantiate({**net, "init_args": {**net["init_args"], "dx": data.dx, "dy": data.dy}}), settings)
    from npexp.predict import load_predictor

    checkpoint = checkpoint_at(name)
    config = checkpoint.parent.parent / "config.yaml"
    return Subject(load_predictor(checkpoint).model, recipe([str(config) if config.is_file() else "base"]))


def recipe(configs: Sequence[str]) -> dict[str, Any]:
    """All settings of these configurations, layered; a class given anew forgets the arguments of the old one."""
    whole: dict[str, Any] = {}
    for path in expand(configs):
        whole = _layered(whole, read_config(path))
    return whole


def _layered(low: Any, high: Any) -> Any:
    if not (isinstance(low, dict) and isinstance(high, dict)):
        return high
    if high.get("class_path", low.get("class_path")) != low.get("class_path"):
        return high
    return {**low, **{key: _layered(low.get(key), value) for key, value in high.items()}}
