"""States in files: plain tensors under plain names, nothing that could run."""

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from uuid import uuid4

import torch
from torch import Tensor

from npexp.errors import ConfigError, DataError
from npexp.models.base import NeuralProcess, Points, State

NO_STATE = "no state, or is damaged: condition anew, or give a file that `save` wrote"
FORMAT = 1  # raise it whenever the same names mean something else


def save_state(model: NeuralProcess, state: State, path: str | Path, units: object = None) -> None:
    """Writes what a model remembers, whole or not at all.

    Args:
        model: the model that made the state; its fingerprint goes into the file.
        state: the state.
        path: of the file.
        units: what the values were scaled by; a state is of no use in others.

    Raises:
        ConfigError: the file cannot be written.
        DataError: this is no state.
    """
    if not isinstance(state, State):
        raise DataError(f"expected a state as `condition` gives it, got {type(state).__name__}")
    path = Path(path)
    leaves = dict(_leaves("state", state))
    content = {"npexp_state": FORMAT, "model": fingerprint(model, units), "digest": _digest(leaves), **leaves}
    if path.is_dir():
        raise ConfigError(f"expected a file to write to, {path} is a folder: give a name in it")
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        torch.save(content, temporary)
        temporary.replace(path)
    except (OSError, RuntimeError) as error:  # torch reports a folder that does not exist as a RuntimeError
        raise ConfigError(f"cannot write {path} ({str(error).splitlines()[0]}): give another file") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def load_state(
    model: NeuralProcess, path: str | Path, device: str | torch.device = "cpu", units: object = None
) -> State:
    """What `save_state` wrote, bit for bit.

    The form of a state is the model's and only its numbers are the file's, so that no file can name a class.

    Args:
        model: the model that made the state, or another one with the same weights.
        path: of the file.
        device: where the state shall be.
        units: what values are scaled by, as when the state was saved.

    Raises:
        ConfigError: there is no such file.
        DataError: the file is damaged, is no state, or is that of another model.
    """
    if not Path(path).is_file():
        raise ConfigError(f"there is no file {path}")
    try:
        content = torch.load(path, map_location=device, weights_only=True)
        version, owner = content.pop("npexp_state"), str(content.pop("model"))
        intact = content.pop("digest") == _digest(content)
    except (
        RuntimeError,
        OSError,
        EOFError,
        UnpicklingError,
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
    ) as error:
        raise DataError(f"{path} is {NO_STATE}") from error
    if not intact:
        raise DataError(f"{path} is {NO_STATE}")
    if version != FORMAT:
        raise DataError(f"{path} is a state of format {version}, this is format {FORMAT}: condition anew")
    if owner != fingerprint(model, units):
        raise DataError(
            f"{path} is a state of another {owner.partition(' ')[0]} than this {type(model).__name__}: "
            "states fit the weights and the scaling that made them: load that checkpoint, or condition anew"
        )
    parameter = next(model.parameters())
    with torch.inference_mode():
        form = model.encode(*(parameter.new_zeros(1, 0, d) for d in (model.dx, model.dy)))
    if "state.context.x" in content:  # also where a predictor kept the points for a model that does not
        form = form._replace(context=Points(None, None, None))
    state = _fill("state", form, content)
    needed, found = ({name for name, _ in _leaves("state", tree)} for tree in (form, state))
    if not needed <= found == content.keys():
        raise DataError(f"{path} holds a state of another form than this {type(model).__name__}'s: condition anew")
    return state


def fingerprint(model: NeuralProcess, units: object = None) -> str:
    """The model's class, a hash of its weights, and the units of its data."""
    return f"{type(model).__name__} {_digest(model.state_dict())} {units}"


def _digest(tensors: dict[str, Tensor]) -> str:
    """A hash of names, types, shapes and values; the file format does not check its own."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return found.hexdigest()


def _leaves(name: str, node: Any) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a nested (named) tuple under dotted names."""
    if isinstance(node, Tensor):
        yield name, node.detach().clone()  # a view would drag all it is a view of into the file
    elif isinstance(node, tuple):
        for field, part in zip(getattr(node, "_fields", range(len(node))), node, strict=True):
            yield from _leaves(f"{name}.{field}", part)


def _fill(name: str, form: Any, content: dict[str, Any]) -> Any:
    """The tuple `form` with the tensors of a file in place of its own, and None where the file has none."""
    if isinstance(form, tuple):
        fields = getattr(form, "_fields", range(len(form)))
        parts = [_fill(f"{name}.{field}", part, content) for field, part in zip(fields, form, strict=True)]
        return type(form)(*parts) if hasattr(form, "_fields") else tuple(parts)
    return content.get(name)
