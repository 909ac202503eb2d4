"""Trained models in files: the checkpoints of runs, and folders made to be given away, some of which ship with npexp.

Such a folder holds `model.safetensors`, the weights, and `config.json`, what they are the weights of; see
`npexp.publish`, which writes it. Nothing is unpickled, and what is read here is plain data and tensors.
"""

import hashlib
import json
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from npexp.config import conf_dir
from npexp.errors import ConfigError, DataError, UnknownNameError
from npexp.run_files import RESULTS

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
FACTS = ("model", "data", "likelihood", "parameters", "steps", "seed")


class Trained(NamedTuple):
    """A model as plain data.

    Args:
        net: its class and arguments, `{class_path, init_args}`.
        weights: its parameters and buffers by name.
        scaling: what was done to its data, see `npexp.scaling.Scaling`, or None.
        columns: what the columns of its table mean, see `npexp.columns.Columns`, or None.
        steps: of training; None where the file does not say.
    """

    net: dict[str, Any]
    weights: dict[str, Tensor]
    scaling: Any
    columns: Any
    steps: int | None


def pretrained_dir() -> Path:
    """The folder of the models that ship with npexp: beside the package in a checkout, inside it when installed."""
    return conf_dir().with_name("pretrained")


def available_pretrained() -> dict[str, dict[str, Any]]:
    """Names of the models that ship with npexp, for `npexp.load_predictor`, with what they are and have scored.

    "loglik" is the joint log-likelihood of the test set in nats per target and output; each model's card,
    `pretrained/<name>/README.md`, says more.
    """
    found = {}
    for folder in sorted(path.parent for path in pretrained_dir().glob(f"*/{WEIGHTS}")):
        size, results = _json(folder / CONFIG)["net"]["init_args"], _json(folder / RESULTS)
        scores = {"loglik": results["test/loglik_joint"], "loglik_sem": results["test/loglik_joint_sem"]}
        found[folder.name] = {"dx": size["dx"], "dy": size["dy"], **{k: results[k] for k in FACTS}, **scores}
    return found


def published(place: str | Path) -> Path | None:
    """The folder of a published model, given by its path or by its name among those that ship; else None.

    Whatever lies at the path comes before the name.
    """
    path = Path(place)
    folder = path if path.exists() else pretrained_dir() / path
    return folder if (folder / WEIGHTS).is_file() else None


def read(place: str | Path) -> Trained:
    """The model at a place.

    Args:
        place: a checkpoint file, the folder of a run or of one of its versions, whose best checkpoint is taken, the
            folder of a published model, or the name of one that ships with npexp.

    Raises:
        UnknownNameError: there is nothing of that name.
        ConfigError: a run without a checkpoint, or a file that does not describe its model.
        DataError: weights that are damaged.
    """
    if (folder := published(place)) is not None:
        return _read_published(folder)
    path = Path(place)
    if not path.exists():
        raise UnknownNameError("run, checkpoint or pretrained model", str(place), available_pretrained())
    if path.is_dir():
        newest = max((p for p in path.iterdir() if p.name.isdigit()), key=lambda p: int(p.name), default=path)
        path = newest / "checkpoints" / "best.ckpt"
    if not path.is_file():
        raise ConfigError(f"expected a checkpoint or a run folder, found nothing at {path}")
    return _read_checkpoint(path)


def _read_checkpoint(path: Path) -> Trained:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        net, found = content["hyper_parameters"]["net"], content["state_dict"]
    except (RuntimeError, UnpicklingError, EOFError, LookupError, TypeError, AttributeError):
        net = None
    if not isinstance(net, dict) or "class_path" not in net:
        raise ConfigError(
            f"{path} does not describe its model: only checkpoints written by `npexp fit` load by themselves"
        )
    weights = {name.removeprefix("net."): value for name, value in found.items() if name.startswith("net.")}
    return Trained(net, weights, content.get("scaling"), content.get("columns"), content.get("global_step"))


def _read_published(folder: Path) -> Trained:
    config, content = _json(folder / CONFIG), (folder / WEIGHTS).read_bytes()
    net = config.get("net")
    if not isinstance(net, dict) or "class_path" not in net:
        raise ConfigError(f"{folder / CONFIG} does not describe its model: copy the folder again")
    damaged = DataError(f"{folder / WEIGHTS} is damaged, or not the file that {CONFIG} describes: copy both again")
    if hashlib.sha256(content).hexdigest() != config.get("sha256"):
        raise damaged
    try:
        weights = load(content)
    except SafetensorError as error:
        raise damaged from error
    return Trained(net, weights, config.get("scaling"), config.get("columns"), None)


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {path} ({error}): copy the folder again") from error
    if not isinstance(content, dict):
        raise ConfigError(f"expected {path} to hold an object, got a {type(content).__name__}: copy the folder again")
    return content
