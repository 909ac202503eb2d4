"""How a run describes itself to readers of its results: names, settings in a row, the machine."""

from typing import Any

import torch
from jsonargparse import Namespace

from npexp.config import config_names, find_config, flatten, read_config


def summary(facts: dict[str, Any], config: Namespace) -> dict[str, Any]:
    """The few settings by which runs are told apart on the board: every plain argument of model and optimiser."""
    net = {k: v for k, v in flatten(namespace_dict(config.model.net)).items() if "class_path" not in k}
    rate = flatten(namespace_dict(config.model.optimizer)).get("init_args.lr")
    chosen = {k.rpartition("init_args.")[2]: v for k, v in net.items() if isinstance(v, (int, float, str, bool))}
    named = {key: facts[key] for key in ("name", "model", "mixer", "data", "seed", "parameters") if key in facts}
    return {**chosen, **named, "lr": rate, "max_steps": config.trainer.max_steps}


def namespace_dict(value: Any) -> Any:
    """A parsed value as plain dictionaries."""
    return value.as_dict() if isinstance(value, Namespace) else value


def class_name(spec: Any) -> str:
    """The bare name in a `class_path`."""
    return spec["class_path"].rpartition(".")[2] if isinstance(spec, (dict, Namespace)) else str(spec)


def result_name(name: str | None, group: str, spec: Namespace) -> str:
    """What results call a model or data set: a configuration's name as long as its class is used, else the class."""
    if f"{group}/{name}" in config_names(group):
        shipped = read_config(find_config(f"{group}/{name}"))[group]
        if class_name(shipped["net"] if group == "model" else shipped) != class_name(spec):
            return class_name(spec)
    return name or class_name(spec)


def device_name(accelerator: str) -> str:
    """What computes, in words."""
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return torch.cuda.get_device_name()
    if accelerator in ("auto", "gpu", "mps") and torch.backends.mps.is_available():
        return "Apple GPU (mps)"
    return "cpu" if accelerator == "auto" else accelerator
