"""ONNX files of a constant-memory model, for places without PyTorch.

Three graphs, with any number of tasks b, points n and targets nt:

    encode.onnx    x [b, n, dx], y [b, n, dy], mask [b, n]            -> state_0, state_1, ...
    update.onnx    x, y, mask, state_0, state_1, ...                  -> new_state_0, new_state_1, ...
    predict.onnx   xt [b, nt, dx], state_0, state_1, ...              -> mean, stddev, both [b, nt, dy]

`manifest.json` beside them says what the tensors are. A stream is encoded by its first chunk and updated by each
further one; False in the mask marks padding, n may be 0. The state does not grow:

    from onnxruntime import InferenceSession
    encode, update, predict = (InferenceSession(f"folder/{name}.onnx") for name in ("encode", "update", "predict"))
    names = [tensor["name"] for tensor in json.load(open("folder/manifest.json"))["state"]]
    state = encode.run(None, {"x": x, "y": y, "mask": mask})
    state = update.run(None, {"x": x, "y": y, "mask": mask} | dict(zip(names, state)))
    mean, stddev = predict.run(None, {"xt": xt} | dict(zip(names, state)))
"""

import copy
import json
import logging
import os
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from npexp.batch import count
from npexp.errors import ConfigError, UnsupportedError
from npexp.models.base import NeuralProcess, Points, State
from npexp.ops.tree import tensors, tree_map
from npexp.registry import available_models
from npexp.runs import package_versions

GRAPHS = ("encode", "update", "predict")
INSTALL = 'pip install "npexp[onnx]"'
TOLERANCE = 0.01  # of a predicted standard deviation; a graph that is wrong is off by far more
# What PyTorch's exporter says about itself, and no user can change.
CHATTER = (".*isinstance.treespec, LeafSpec.*", ".*The axis name: .* will not be used.*")


def export_onnx(model: NeuralProcess, folder: str | Path) -> dict[str, Any]:
    """Writes encode.onnx, update.onnx, predict.onnx and manifest.json into a new folder, all of them or none.

    Takes seconds for a deep set, half a minute for six layers. The files are run by `onnxruntime` on a stream of
    several sizes and compared with PyTorch before they are kept.

    Args:
        model: a model whose traits say constant_state and update: exact; it is copied to the CPU.
        folder: must not exist, or be empty.

    Returns:
        The manifest: sizes, names, shapes and types of the state's tensors, the model's description, and the largest
        difference from PyTorch that was seen.

    Raises:
        UnsupportedError: a model that keeps its context or cannot be updated exactly, or that decodes target by
            target, or whose graph cannot be written.
        ConfigError: a package is missing, or the folder holds something or cannot be written.
    """
    folder = Path(folder)
    check_exportable(model)
    check_folder(folder)
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"writing ONNX files needs the package {error.name}: {INSTALL}") from error
    model = copy.deepcopy(model).cpu().eval().requires_grad_(False)
    temporary = folder.absolute().with_name(f".{folder.absolute().name}.{os.getpid()}")
    try:
        temporary.mkdir(parents=True)
        manifest = _write(model, temporary)
        (temporary / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
        temporary.rename(folder)
    except OSError as error:
        raise ConfigError(f"cannot write to {folder} ({error.strerror or error}): give another folder") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return manifest


def check_exportable(model: NeuralProcess) -> None:
    """Raises `UnsupportedError` unless the model predicts in one step from a state of constant size."""
    traits, name = model.traits, type(model).__name__
    if not _streams(traits):
        able = [known for known, t in available_models().items() if _streams(t) and not known.startswith("paper/")]
        raise UnsupportedError(
            f"{name} cannot be exported: it must look at its context again to be updated or to predict. Models that "
            f"can: {', '.join(able)}, and tnp with mixer linear or hypermixer and context raw"
        )
    if model.decoding is not None:
        raise UnsupportedError(
            f"{name} cannot be exported with block_size={model.decoding.block_size}, which predicts in as many steps "
            "as there are blocks: set block_size to null"
        )


def check_folder(folder: str | Path) -> None:
    """Raises `ConfigError` unless the folder is new or empty."""
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"expected --out to be a new or empty folder, {folder} is there already: give another one")


def flatten(state: State) -> tuple[Tensor, ...]:
    """The tensors of a state, in the order of the graphs' inputs and outputs."""
    return tuple(tensors(state))


def unflatten(template: State, flat: Sequence[Tensor]) -> State:
    """The state of the template's structure that holds these tensors."""
    left = iter(flat)
    return tree_map(lambda _: next(left), template)


class Sizes(NamedTuple):
    """How many tasks, points and targets."""

    b: int
    n: int
    nt: int


TRACED = Sizes(3, 5, 7)
CHECKED = (Sizes(1, 1, 1), Sizes(2, 11, 4), Sizes(4, 0, 9))


class _Encode(nn.Module):
    def __init__(self, model: NeuralProcess):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, y: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        return flatten(State(self.model._encode(_points(x, y, mask)), count(mask, x), None))


class _Update(nn.Module):
    def __init__(self, model: NeuralProcess, template: State):
        super().__init__()
        self.model, self.template = model, template

    def forward(self, x: Tensor, y: Tensor, mask: Tensor, *flat: Tensor) -> tuple[Tensor, ...]:
        state = unflatten(self.template, flat)
        summary = self.model._extend(state.summary, _points(x, y, mask))
        return flatten(State(summary, state.n + count(mask, x), None))


class _Predict(nn.Module):
    def __init__(self, model: NeuralProcess, template: State):
        super().__init__()
        self.model, self.template = model, template

    def forward(self, xt: Tensor, *flat: Tensor) -> tuple[Tensor, Tensor]:
        law = self.model._predict(unflatten(self.template, flat), xt, None)
        return law.mean, law.stddev


def _points(x: Tensor, y: Tensor, mask: Tensor) -> Points:
    """A chunk with zeros in its padding and one more padded slot: some kernels get empty axes wrong."""
    x, y, mask = (torch.cat([v, v.new_zeros(v.shape[0], 1, *v.shape[2:])], 1) for v in (x, y, mask))
    real = mask[..., None]
    return Points(torch.where(real, x, torch.zeros_like(x)), torch.where(real, y, torch.zeros_like(y)), mask)


def _streams(traits: dict[str, Any]) -> bool:
    return traits["constant_state"] and traits["update"] == "exact"


def _write(model: NeuralProcess, folder: Path) -> dict[str, Any]:
    x, y, mask, xt = _example(model, TRACED)
    with torch.no_grad():
        template = model.encode(x, y, mask)
    state = flatten(template)
    b, n, nt = (torch.export.Dim(name, max=2**31 - 1) for name in Sizes._fields)
    chunk, chunk_axes = ["x", "y", "mask"], ({0: b, 1: n},) * 3
    names = [f"state_{i}" for i in range(len(state))]
    state_axes = ({0: b},) * len(state)
    new = [f"new_{name}" for name in names]
    _trace(folder / "encode.onnx", _Encode(model), (x, y, mask), chunk_axes, chunk, names)
    axes = (*chunk_axes, state_axes)
    _trace(folder / "update.onnx", _Update(model, template), (x, y, mask, *state), axes, [*chunk, *names], new)
    axes = ({0: b, 1: nt}, state_axes)
    _trace(folder / "predict.onnx", _Predict(model, template), (xt, *state), axes, ["xt", *names], ["mean", "stddev"])
    return {
        "model": model.spec or type(model).__name__,
        "dx": model.dx,
        "dy": model.dy,
        "dtype": _dtype(x),
        "state": [
            {"name": name, "shape": ["b", *tensor.shape[1:]], "dtype": _dtype(tensor)}
            for name, tensor in zip(names, state, strict=True)
        ],
        "largest_difference": _check(model, folder, names),
        "versions": package_versions(("npexp", "torch", "onnx", "onnxruntime")),
    }


def _trace(
    path: Path, graph: nn.Module, args: tuple[Tensor, ...], axes: tuple[Any, ...], inputs: list[str], outputs: list[str]
) -> None:
    settings = {"input_names": inputs, "output_names": outputs, "external_data": False, "verbose": False}
    try:
        with _quiet(), torch.no_grad():
            torch.onnx.export(graph.eval(), args, path, dynamo=True, dynamic_shapes=axes, **settings)
    except torch.onnx.OnnxExporterError as error:
        raise UnsupportedError(
            f"{type(graph.model).__name__} cannot be exported: PyTorch cannot write its {path.stem} graph "
            f"({error.__cause__ or error}); cnp, np and cmanp can be"
        ) from error


def _check(model: NeuralProcess, folder: Path, names: list[str]) -> float:
    """Largest difference of means and standard deviations from PyTorch over a stream of unequal chunks.

    Raises:
        UnsupportedError: it is more than rounding.
    """
    from onnxruntime import InferenceSession

    run = {name: InferenceSession(folder / f"{name}.onnx", providers=["CPUExecutionProvider"]) for name in GRAPHS}
    largest = 0.0
    for size in CHECKED:
        state, flat = None, None
        for n in (size.n, size.n + 2, 2 * size.n):
            x, y, mask, xt = _example(model, size._replace(n=n))
            chunk = {"x": x.numpy(), "y": y.numpy(), "mask": mask.numpy()}
            with torch.no_grad():
                state = model.encode(x, y, mask) if state is None else model.update(state, x, y, mask)
            flat = run["encode"].run(None, chunk) if flat is None else run["update"].run(None, chunk | _named(names, flat))
        with torch.no_grad():
            law = model.predict(state, xt)
        found = run["predict"].run(None, {"xt": xt.numpy()} | _named(names, flat))
        for values, expected in zip(found, (law.mean, law.stddev), strict=True):
            difference = (torch.as_tensor(values) - expected).abs()
            if not bool((difference <= TOLERANCE * law.stddev).all()):
                raise UnsupportedError(
                    f"{type(model).__name__} cannot be exported: its graphs differ from PyTorch by "
                    f"{float(difference.max()):.2g}, more than rounding explains; cnp, np and cmanp can be"
                )
            largest = max(largest, float(difference.max()))
    return largest


def _example(model: NeuralProcess, size: Sizes) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(sum(size))
    dtype = next(model.parameters()).dtype
    x, y = (torch.randn(size.b, size.n, d, generator=g, dtype=dtype) for d in (model.dx, model.dy))
    mask = torch.rand(size.b, size.n, generator=g) < 0.8
    return x, y, mask, torch.randn(size.b, size.nt, model.dx, generator=g, dtype=dtype)


def _named(names: Sequence[str], values: Sequence[Any]) -> dict[str, Any]:
    return dict(zip(names, values, strict=True))


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences what the exporter says about itself, and about torchvision, which nothing here needs."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for message in CHATTER:
                warnings.filterwarnings("ignore", message)
            yield
    finally:
        logger.setLevel(level)
