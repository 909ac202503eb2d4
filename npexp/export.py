"""ONNX files of a constant-memory model, for places without PyTorch.

Three graphs, with any number of tasks b, points n and targets nt:

    encode.onnx    x [b, n, dx], y [b, n, dy], mask [b, n]     -> state_0, state_1, ...
    update.onnx    x, y, mask, state_0, state_1, ...           -> new_state_0, new_state_1, ...
    predict.onnx   xt [b, nt, dx], state_0, state_1, ...       -> mean, stddev, both [b, nt, dy]

`manifest.json` beside them says what the tensors are and, where a model knows a domain of inputs only, which: graphs do
not check it. A stream is encoded by its first chunk and updated by each further one; False in the mask marks padding,
and n may be 0. The state does not grow:

    from onnxruntime import InferenceSession
    encode, update, predict = (InferenceSession(f"folder/{name}.onnx") for name in ("encode", "update", "predict"))
    names = [tensor["name"] for tensor in json.load(open("folder/manifest.json"))["state"]]
    state = encode.run(None, {"x": x, "y": y, "mask": mask})
    state = update.run(None, {"x": x, "y": y, "mask": mask} | dict(zip(names, state)))
    mean, stddev = predict.run(None, {"xt": xt} | dict(zip(names, state)))

Where the model was trained on a table, `columns` in the manifest says how its rows become points and back. A task is
the rows with one value in the column `task`. Inputs are the columns `x` side by side, in raw units, which the graphs
scale:

    number      as it is
    date        time since `dates`' "origin", in its "unit"; written as `date_format` says (null: ISO 8601), in UTC
    category    a 0 or 1 for each of `levels`, in that order

With `relative`, the largest first input among a task's context is then taken off its first inputs, the targets' too.
Outputs are the columns `y`, in raw units. Unless `separate` is null, each output that was observed is a point of its
own: its y is (value - separate[0][k]) / separate[1][k] for the k-th of them, and where there are several, its inputs
end in a 0 or 1 per output; mean and stddev go back by the same numbers.
"""

import copy
import json
import logging
import os
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from npexp.batch import count
from npexp.columns import ORIGIN
from npexp.errors import ConfigError, UnsupportedError
from npexp.layers.domain import Domain
from npexp.models.base import NeuralProcess, Points, State
from npexp.ops.tree import tensors, tree_map
from npexp.predict import Predictor
from npexp.runs import package_versions
from npexp.scaling import Scaling

GRAPHS = ("encode", "update", "predict")
CHUNK = ("x", "y", "mask")
INSTEAD = "models that can be: rmnp, lpnp, rmnp_hybrid, cnp, np, cmanp, linear_tnp_raw, hypermixer_tnp_raw"
TOLERANCE = 0.01  # of a predicted standard deviation; a graph that is wrong is off by far more
# what PyTorch's exporter says about its own insides, in warnings and through loggers
CHATTER = (".*isinstance.treespec, LeafSpec.*", ".*The axis name: .* will not be used.*")
LOGGERS = ("torch.onnx._internal.exporter._registration", "torch.fx.experimental.symbolic_shapes")


class Sizes(NamedTuple):
    """How many tasks, points and targets; the fields name the axes in the graphs."""

    b: int
    n: int
    nt: int


TRACED = Sizes(3, 5, 7)
CHECKED = (Sizes(1, 1, 1), Sizes(2, 11, 4), Sizes(4, 0, 9))


def export_onnx(predictor: Predictor, folder: str | Path) -> dict[str, Any]:
    """Writes encode.onnx, update.onnx, predict.onnx and manifest.json into a new folder, all of them or none.

    They compute in float32, apart from what the model keeps in float64; where the predictor has a scaling, x, y and xt
    are raw float64. Takes some ten seconds for a deep set, half a minute for RMNP, a minute or two for six layers.
    Before they are kept, the graphs are run by onnxruntime on streams of several sizes and compared with PyTorch.

    Args:
        predictor: of a model whose traits say constant_state and update: exact.
        folder: must not exist, or be empty.

    Returns:
        The manifest: names, shapes and types of the tensors, what the model is, the columns of its table or None, and
        the largest difference from PyTorch that was seen, in units of the predicted standard deviation.

    Raises:
        UnsupportedError: a model that keeps its context or cannot be updated exactly, that decodes block by block, or
            that PyTorch cannot write.
        ConfigError: a package is missing, or the folder holds something or cannot be written.
    """
    folder = Path(folder).absolute()
    _refuse(predictor.model, folder)
    model = copy.deepcopy(predictor.model).float().cpu().eval().requires_grad_(False)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        temporary.mkdir(parents=True)
        columns = predictor.columns and {**predictor.columns.plain(), "dates": {"origin": ORIGIN, "unit": "days"}}
        manifest = {**_write(model, predictor.scaling, temporary), "columns": columns}
        (temporary / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
        temporary.rename(folder)
    except OSError as error:
        raise ConfigError(f"cannot write to {folder} ({error.strerror or error}): give another folder") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return manifest


def _refuse(model: NeuralProcess, folder: Path) -> None:
    """Raises what `export_onnx` says, as far as it can be known before the work."""
    name, traits = type(model).__name__, model.traits
    if not (traits["constant_state"] and traits["update"] == "exact"):
        raise UnsupportedError(f"{name} cannot be exported, since it needs its whole context again; {INSTEAD}")
    if hasattr(model, "lattice"):
        raise UnsupportedError(f"{name} cannot be exported, since it refuses inputs outside its domain; {INSTEAD}")
    if model.decoding is not None:
        raise UnsupportedError(
            f"{name} cannot be exported as it decodes targets in several steps: set its `decoding` (block_size) to None"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"expected a new or empty folder to write to, {folder} is there already: give another one")
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if find_spec(package) is None:
            raise ConfigError(f'writing ONNX files needs {package}: pip install "npexp[onnx]"')


def flatten(state: State) -> tuple[Tensor, ...]:
    """The tensors of a state, in the order of the graphs' inputs and outputs."""
    return tuple(tensors(state))


def unflatten(template: State, flat: Sequence[Tensor]) -> State:
    """The state of the template's structure that holds these tensors."""
    left = iter(flat)
    return tree_map(lambda _: next(left), template)


class _Graph(nn.Module):
    """What is traced: one verb of the model, from tensors to tensors, around the checks that tracing cannot take."""

    def __init__(self, model: NeuralProcess, scaling: Scaling | None, template: State):
        super().__init__()
        self.model, self.scaling, self.template = model, scaling, template

    def points(self, x: Tensor, y: Tensor, mask: Tensor) -> Points:
        """A chunk with zeros in its padding, and one more padded slot: some kernels get empty axes wrong."""
        if self.scaling is not None:
            x, y = self.scaling.x(x).float(), self.scaling.y(y).float()
        x, y, mask = (torch.cat([v, v.new_zeros(v.shape[0], 1, *v.shape[2:])], 1) for v in (x, y, mask))
        x, y = (torch.where(mask[..., None], v, torch.zeros_like(v)) for v in (x, y))
        return Points(x, y, mask)


class _Encode(_Graph):
    def forward(self, x: Tensor, y: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        return flatten(State(self.model._encode(self.points(x, y, mask)), count(mask, x), None))


class _Update(_Graph):
    def forward(self, x: Tensor, y: Tensor, mask: Tensor, *flat: Tensor) -> tuple[Tensor, ...]:
        state = unflatten(self.template, flat)
        summary = self.model._extend(state.summary, self.points(x, y, mask))
        return flatten(State(summary, state.n + count(mask, x), None))


class _Predict(_Graph):
    def forward(self, xt: Tensor, *flat: Tensor) -> tuple[Tensor, Tensor]:
        x = xt if self.scaling is None else self.scaling.x(xt).float()
        law = self.model._predict(unflatten(self.template, flat), x, None)
        return _raw(self.scaling, law.mean, law.stddev)


def _raw(scaling: Scaling | None, mean: Tensor, stddev: Tensor) -> tuple[Tensor, Tensor]:
    """In raw units; what a predictor does."""
    if scaling is None:
        return mean, stddev
    shift, scale = mean.new_tensor(scaling.y_shift), mean.new_tensor(scaling.y_scale)
    return shift + scale * mean, scale * stddev


def _write(model: NeuralProcess, scaling: Scaling | None, folder: Path) -> dict[str, Any]:
    scaled, raw = _example(model, scaling, TRACED)
    with torch.no_grad():
        template = model.encode(*(scaled[name] for name in CHUNK))
    names = [f"state_{i}" for i in range(len(flatten(template)))]
    stored = dict(zip(names, flatten(template), strict=True))
    parts = (model, scaling, template)
    chunk, xt = {name: raw[name] for name in CHUNK}, {"xt": raw["xt"]}
    _trace(folder / "encode.onnx", _Encode(*parts), chunk, {}, names)
    _trace(folder / "update.onnx", _Update(*parts), chunk, stored, [f"new_{name}" for name in names])
    _trace(folder / "predict.onnx", _Predict(*parts), xt, stored, ["mean", "stddev"])
    return {
        "model": model.spec or type(model).__name__,
        "dx": model.dx,
        "dy": model.dy,
        "inputs": _dtype(raw["x"]),
        "domain": _ends(_domain(model), scaling),
        "state": [{"name": k, "shape": ["b", *v.shape[1:]], "dtype": _dtype(v)} for k, v in stored.items()],
        "scaling": None if scaling is None else scaling._asdict(),
        "largest_difference": _check(model, scaling, folder, names),  # in predicted standard deviations
        "versions": package_versions(("npexp", "torch", "onnx", "onnxruntime")),
    }


def _trace(path: Path, graph: _Graph, given: dict[str, Tensor], stored: dict[str, Tensor], outputs: list[str]) -> None:
    import onnx

    from npexp.onnx_operators import TRANSLATIONS, define

    b, n, nt = (torch.export.Dim(name, max=2**31 - 1) for name in Sizes._fields)
    axes = [{0: b, 1: nt if name == "xt" else n} for name in given]
    axes += [tuple({0: b} for _ in stored)] if stored else []
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                graph.eval(),
                (*given.values(), *stored.values()),
                input_names=[*given, *stored],
                output_names=outputs,
                dynamic_shapes=tuple(axes),
                dynamo=True,
                verbose=False,
                custom_translation_table=TRANSLATIONS,
            )
    except torch.onnx.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().partition("\n")[0].rstrip(".")
        raise UnsupportedError(
            f"{type(graph.model).__name__} cannot be exported: PyTorch cannot write {path.name} ({reason}); {INSTEAD}"
        ) from error
    model = program.model_proto
    define(model)
    for node in model.graph.node:
        node.ClearField("metadata_props")  # the stack traces of this machine
    onnx.save(model, path)


def _check(model: NeuralProcess, scaling: Scaling | None, folder: Path, names: list[str]) -> float:
    """Largest difference of a mean or standard deviation from PyTorch, in predicted standard deviations.

    Raises:
        UnsupportedError: it is more than rounding, or onnxruntime cannot run the graphs.
    """
    from onnxruntime import InferenceSession
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    names_of_failures = ("Fail", "InvalidArgument", "InvalidGraph", "NotImplemented", "RuntimeException")
    failures = tuple(getattr(errors, name) for name in names_of_failures)
    try:
        run = {verb: InferenceSession(folder / f"{verb}.onnx", providers=["CPUExecutionProvider"]) for verb in GRAPHS}
        # a tensor's maximum is NaN when an element is
        difference = float(torch.tensor([_difference(model, scaling, run, names, size) for size in CHECKED]).max())
    except failures as error:
        raise UnsupportedError(
            f"{type(model).__name__} cannot be exported: onnxruntime cannot run it ({error}); {INSTEAD}"
        ) from error
    if not difference <= TOLERANCE:
        raise UnsupportedError(
            f"{type(model).__name__} cannot be exported: its graphs differ from PyTorch by {difference:.2g} standard "
            f"deviations, more than rounding explains; {INSTEAD}"
        )
    return difference


def _difference(
    model: NeuralProcess, scaling: Scaling | None, run: dict[str, Any], names: list[str], size: Sizes
) -> float:
    """For a stream of three chunks of different sizes; NaN when a value is."""
    state, stored = None, None
    for n in (size.n, size.n + 2, 2 * size.n):
        scaled, raw = _example(model, scaling, size._replace(n=n))
        chunk, feed = [scaled[name] for name in CHUNK], {name: raw[name].numpy() for name in CHUNK}
        with torch.no_grad():
            state = model.encode(*chunk) if state is None else model.update(state, *chunk)
        found = run["encode"].run(None, feed) if stored is None else run["update"].run(None, feed | stored)
        stored = dict(zip(names, found, strict=True))
    with torch.no_grad():
        law = model.predict(state, scaled["xt"])
        mean, stddev = _raw(scaling, law.mean, law.stddev)
    found = [torch.as_tensor(values) for values in run["predict"].run(None, {"xt": raw["xt"].numpy()} | stored)]
    return float(((torch.stack(found) - torch.stack([mean, stddev])).abs() / stddev).max())


def _example(model: NeuralProcess, scaling: Scaling | None, size: Sizes) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Arbitrary x, y, mask and xt inside the model's domain, as the model wants them and as the graphs do."""
    g = torch.Generator().manual_seed(sum(size))
    shapes = {"x": (size.b, size.n, model.dx), "y": (size.b, size.n, model.dy), "xt": (size.b, size.nt, model.dx)}
    scaled = {name: 2 * torch.randn(shape, generator=g) for name, shape in shapes.items()}
    if (domain := _domain(model)) is not None:
        for name in ("x", "xt"):
            scaled[name] = domain.centre + domain.unit * 2 * scaled[name].tanh()
    raw = dict(scaled)
    if scaling is not None:
        for name, value in scaled.items():
            shift, scale = scaling[2:] if name == "y" else scaling[:2]
            raw[name] = value.double() * torch.tensor(scale).double() + torch.tensor(shift).double()
    mask = {"mask": torch.rand(size.b, size.n, generator=g) < 0.6}
    return scaled | mask, raw | mask


def _domain(model: NeuralProcess) -> Domain | None:
    return next((part for part in model.children() if isinstance(part, Domain)), None)


def _ends(domain: Domain | None, scaling: Scaling | None) -> list[list[float]] | None:
    """Lowest and highest input on every axis, in raw units: graphs do not refuse others, as the model does."""
    if domain is None:
        return None
    ends = torch.stack([domain.centre - 2 * domain.unit, domain.centre + 2 * domain.unit]).double()
    if scaling is not None:
        ends = ends * ends.new_tensor(scaling.x_scale) + ends.new_tensor(scaling.x_shift)
    return ends.tolist()


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences CHATTER and LOGGERS."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for message in CHATTER:
                warnings.filterwarnings("ignore", message)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
