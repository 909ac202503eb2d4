"""Using a model on data in memory or on a stream: arrays in, distributions out. Needs no Lightning."""

import copy
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from npexp.batch import check_finite, check_points
from npexp.columns import Columns
from npexp.errors import ConfigError, DataError, PrecisionError, ShapeError, at_least
from npexp.likelihoods import Decoding, Predictive
from npexp.models.base import NeuralProcess, Points, State, join
from npexp.registry import instantiate
from npexp.scaling import Scaling
from npexp.states import load_state, save_state
from npexp.trained import read

Array = Any  # NumPy array, pandas Series or DataFrame, nested list, or tensor
Chunks = Iterable[tuple[Array, Array]]
MARGINAL_POOL = 256  # joint draws at least, from which marginal ones are made
TRUSTED = ("npexp.models", "npexp.likelihoods")  # where the classes of a checkpoint may come from


class Predictor:
    """Conditions any model on plain arrays, in inference mode.

    Arrays are `[n, d]` for one task or `[b, n, d]` for several; a one-dimensional `[n]` is one column. What comes back
    always has the task axis.

    States from which points can be removed are made in float64, by a copy of the model, so that what is taken out is
    what was put in: about half as slow again on a CPU.

    Args:
        model: the model; it is put in eval mode and moved.
        device: where to compute.
        scaling: what was done to the data that the model was trained on, as `npexp.scaling.Scaling` has it: everything
            here is then in raw units, arrays that come and laws that go. None where nothing was done.
        keep_points: states remember their points too, O(n) memory, for models that would not. A removal that rounding
            would spoil, as when a window leaves a region behind, then encodes the points that are left.
        columns: what the columns of the training table meant, as `npexp.columns.Columns` has it, for
            `npexp.predict_files.predict_table`; arrays here are numbers already. None where there was no table.

    Raises:
        ConfigError: a scaling or columns that do not fit the model.
    """

    def __init__(
        self,
        model: NeuralProcess,
        device: str | torch.device = "cpu",
        scaling: dict[str, list[float]] | None = None,
        keep_points: bool = False,
        columns: dict[str, Any] | None = None,
    ):
        if not isinstance(model, NeuralProcess):
            raise ConfigError(
                f"expected a NeuralProcess, got {type(model).__name__}: npexp.build makes one from a name"
            )
        self.model = model.eval().to(_device(device))
        self._modules = tuple(model.modules())
        parameter = next(model.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype
        self.scaling = None if scaling is None else Scaling.make(scaling, model.dx, model.dy)
        self.columns = None if columns is None else Columns.make(columns)
        if self.columns is not None and (self.columns.dx, self.columns.dy) != (model.dx, model.dy):
            raise ConfigError(
                f"the columns make {self.columns.dx} inputs and {self.columns.dy} outputs, the model has {model.dx} "
                f"and {model.dy}: give the columns it was trained on"
            )
        self.keep_points = keep_points and model.update_rule == "exact"  # other states hold their points anyway
        self._copy: tuple[Any, NeuralProcess] | None = None

    @torch.inference_mode()
    def condition(self, x: Array | Chunks, y: Array | None = None) -> State:
        """A state that has seen the points.

        Args:
            x: inputs; or, without y, an iterable of (x, y) chunks, which a model with exact updates reads one at a
                time, in constant memory.
            y: outputs.
        """
        learner = self._learner()
        chunks = self._chunks(x, y, learner)
        if learner.update_rule == "exact":
            state = None
            for cx, cy in chunks:
                new = Points(cx, cy, None)
                state = self._keep(learner.encode(cx, cy), new) if state is None else self._add(learner, state, new)
        else:  # re-encoding after every chunk would be wasted
            parts = list(chunks)
            state = learner.encode(*(torch.cat(p, 1) for p in zip(*parts, strict=True))) if parts else None
        if state is None:
            raise DataError("expected at least one (x, y) chunk, got an empty stream: pass an empty array for no data")
        return state

    @torch.inference_mode()
    def update(self, state: State, x: Array | Chunks, y: Array | None = None) -> State:
        """A state that has seen these points too; takes chunks like `condition`."""
        learner = self._learner()
        for cx, cy in self._chunks(x, y, learner):
            state = self._add(learner, state, Points(cx, cy, None))
        return state

    @torch.inference_mode()
    def remove(self, state: State, x: Array | Chunks, y: Array | None = None) -> State:
        """A state without these points, which must have been given to `condition` or `update`; takes chunks too.

        Raises:
            UnsupportedError: the model's traits say remove: none.
            DataError: more points than the state has seen, or with `keep_points` others than it has.
            PrecisionError: so little is left of what some softmax saw that rounding would spoil it, even in float64,
                and the points are not kept.
        """
        learner = self._learner()
        for cx, cy in self._chunks(x, y, learner):
            if not self.keep_points or state.context is None:
                state = learner.remove(state, cx, cy)
                continue
            left = without(state.context, cx, cy)
            try:
                state = learner.remove(state, cx, cy)
            except PrecisionError:
                state = learner.encode(left.x, left.y)
            state = self._keep(state, left)
        return state

    @torch.inference_mode()
    def merge(self, a: State, b: State) -> State:
        """A state that has seen the points of both, as from two sensors or two shards of a data set.

        Raises:
            UnsupportedError: the model's traits do not say additive.
            ShapeError: states of different numbers of tasks, or of different models.
        """
        state = self._learner().merge(a, b)
        known = self.keep_points and a.context is not None and b.context is not None
        return state._replace(context=join(a.context, b.context)) if known else state

    @torch.inference_mode()
    def decay(self, state: State, gamma: float) -> State:
        """A state in which every point counts gamma times what it did, for data that drift; see the model's `decay`.

        Raises:
            UnsupportedError: the model's traits do not say additive.
            ConfigError: gamma is not in (0, 1].
        """
        return self._learner().decay(state, gamma)

    def save(self, state: State, path: str | Path) -> None:
        """Writes a state to a file of plain tensors, whole or not at all; see `npexp.states`."""
        save_state(self.model, state, path, self.scaling)

    def load(self, path: str | Path) -> State:
        """Reads what `save` wrote, bit for bit.

        Raises:
            ConfigError: there is no such file.
            DataError: the file is damaged, is no state, or is that of another model.
        """
        return load_state(self.model, path, self.device, self.scaling)

    @torch.inference_mode()
    def predict(self, state: State, xt: Array, decoding: Decoding | None = None) -> Predictive:
        """The distribution over the outputs at xt, `[b, nt, dy]`.

        Args:
            state: from `condition` or `update`.
            xt: target inputs.
            decoding: makes the law autoregressive over targets or blocks of them, see `Decoding`: scores and draws
                then take in what came before. None is what the model does by itself.
        """
        x = self._inputs(xt)
        law = self.model.predict(state, x) if decoding is None else self.model.chain(state, x, None, decoding)
        return self._raw(law)

    @torch.inference_mode()
    def sample(
        self,
        state: State,
        xt: Array,
        n: int = 100,
        mode: Literal["joint", "autoregressive", "marginal"] = "joint",
        decoding: Decoding | None = None,
    ) -> Tensor:
        """Draws of the outputs at xt, `[n, b, nt, dy]`, in the order of xt.

        Args:
            state: from `condition` or `update`.
            xt: target inputs.
            n: number of draws.
            mode: "joint" draws from the model's own law of all targets; "autoregressive" draws target by target,
                each draw updating a state of its own (Bruinsma et al. 2023, arXiv 2303.14468): coherent functions from
                a factorised model, at nt updates; "marginal" keeps each target's law but makes targets independent.
            decoding: with "autoregressive", blocks, order and anchors; None is target by target in the order of xt.
        """
        at_least("n", n, 0)
        if mode not in ("joint", "autoregressive", "marginal"):
            raise ConfigError(f"expected mode 'joint', 'autoregressive' or 'marginal', got '{mode}'")
        if decoding is not None and mode != "autoregressive":
            raise ConfigError(f"a decoding belongs to mode 'autoregressive', got '{mode}'")
        if mode != "marginal":
            return self.predict(state, xt, decoding or (Decoding() if mode == "autoregressive" else None)).sample(n)
        # the law in one step; each target takes its n from many joint draws in an order of its own
        draws = self._raw(self.model.chain(state, self._inputs(xt)).alone).sample(max(n, MARGINAL_POOL))
        order = torch.rand(draws.shape[:3], device=draws.device).argsort(0)[:n]
        return draws.gather(0, order[..., None].expand(-1, -1, -1, draws.shape[-1]))

    def _raw(self, law: Predictive) -> Predictive:
        """The model's law in raw units."""
        return law if self.scaling is None else self.scaling.law(law)

    def _keep(self, state: State, points: Points) -> State:
        return state._replace(context=points) if self.keep_points else state

    def _add(self, learner: NeuralProcess, state: State, new: Points) -> State:
        after = learner.update(state, new.x, new.y)
        if state.context is None and bool(state.n.any()):  # made by someone who kept no points: there are none to keep
            return after
        return self._keep(after, new if state.context is None else join(state.context, new))

    def _learner(self) -> NeuralProcess:
        """What makes states: the model, or its copy in float64 where points can be taken out again."""
        if self.model.remove_rule != "exact" or self.dtype == torch.float64 or self.device.type == "mps":
            return self.model
        # At each update: `parameters()` and `buffers()` would take four times as long, to make names and drop doubles.
        owned = (t for m in self._modules for t in (*m._parameters.values(), *m._buffers.values()) if t is not None)
        weights = [(t.data_ptr(), _version(t)) for t in owned]
        if self._copy is None or self._copy[0] != weights:
            self._copy = weights, copy.deepcopy(self.model).double()
            self._copy[1].chunk_size = max(1, self.model.chunk_size // 2)  # for as many bytes
        return self._copy[1]

    def _chunks(self, x: Array | Chunks, y: Array | None, model: NeuralProcess) -> Iterable[tuple[Tensor, Tensor]]:
        if y is None and hasattr(x, "shape"):
            raise DataError("expected y beside x, or an iterable of (x, y) chunks: got one array alone")
        dtype = next(model.parameters()).dtype
        for chunk in [(x, y)] if y is not None else _iterate(x):
            if not isinstance(chunk, tuple | list) or len(chunk) != 2:
                raise DataError(
                    f"expected (x, y) chunks, got a {type(chunk).__name__}: pass x and y as two arguments, or pairs"
                )
            tx, ty = self._tensor(chunk[0], model.dx), self._tensor(chunk[1], model.dy)
            check_points("context", tx, ty)
            check_finite("context", tx, ty)
            if self.scaling is not None:
                tx, ty = self.scaling.x(tx), self.scaling.y(ty)
            tx, ty = (v.to(self.device, dtype, copy=True) for v in (tx, ty))  # the caller may overwrite what was given
            check_finite(f"context (in {self.dtype})", tx.to(self.dtype), ty.to(self.dtype))
            yield tx, ty

    def _inputs(self, xt: Array) -> Tensor:
        x = self._tensor(xt, self.model.dx)
        check_finite("target", x)
        if self.scaling is not None:
            x = self.scaling.x(x)
        x = x.to(self.device, self.dtype)
        check_finite(f"target (in {self.dtype})", x)
        return x

    def _tensor(self, values: Array, size: int) -> Tensor:
        """The values as they are, `[b, n, size]`."""
        if not isinstance(values, Tensor):
            try:
                values = torch.tensor(np.asarray(values, dtype=np.float64))
            except (TypeError, ValueError) as error:
                raise DataError(f"expected numbers, got {type(values).__name__}: {error}") from error
        if values.ndim == 1:
            values = values[:, None]
        if values.ndim == 2:
            values = values[None]
        if values.ndim != 3 or values.shape[-1] != size:
            raise ShapeError(f"expected [n, {size}] or [b, n, {size}], got {list(values.shape)}")
        return values


def _version(parameter: Tensor) -> int:
    """Changes when the model is trained on; weights made under inference mode never are."""
    return 0 if parameter.is_inference() else parameter._version


def without(points: Points, x: Tensor, y: Tensor) -> Points:
    """The points that are left when x `[b, n, dx]` and y `[b, n, dy]` are taken out, each of them once: O(n) passes.

    Raises:
        DataError: one of them is not among the points.
    """
    kept, gone = torch.cat([points.x, points.y], -1), torch.cat([x, y], -1)
    there = torch.ones(kept.shape[:2], dtype=torch.bool, device=kept.device)
    for i in range(gone.shape[1]):
        found = there & (kept == gone[:, i : i + 1]).all(-1)
        if not bool(found.any(1).all()):
            task = int((~found.any(1)).nonzero()[0])
            raise DataError(f"point {i} of task {task} is not among those the state has seen: it cannot be removed")
        there = there.scatter(1, found.to(torch.uint8).argmax(1, keepdim=True), False)
    left = kept.shape[1] - gone.shape[1]
    rows = kept[there].unflatten(0, (len(kept), left))
    return Points(rows[..., : x.shape[2]], rows[..., x.shape[2] :], None)


def load_predictor(place: str | Path, device: str | torch.device = "cpu", keep_points: bool = False) -> Predictor:
    """The predictor of a trained model: of a run of yours, or of a model that ships with npexp, by its name.

    Arrays and predictions are in the raw units of the data, whatever they were scaled to for training. Files from
    elsewhere can do no harm: weights are read as tensors, and nothing but npexp's models and likelihoods is made.

    Args:
        place: a checkpoint file, the folder of a run or of one of its versions, whose best checkpoint is taken, the
            folder of a published model, or a name of `npexp.available_pretrained()` where no such path exists.
        device: where to compute.
        keep_points: see `Predictor`.

    Raises:
        UnknownNameError: there is nothing of that name.
        ConfigError: a file that was not written by npexp, or one that names other classes.
        DataError: weights that are damaged.
    """
    device, trained = _device(device), read(place)
    model = instantiate(trained.net, trusted=TRUSTED)
    if not isinstance(model, NeuralProcess):
        raise ConfigError(f"expected {place} to describe a neural process, got a {type(model).__name__}")
    try:
        model.load_state_dict(trained.weights)
    except RuntimeError as error:
        raise ConfigError(f"the weights in {place} are not those of the model it describes: {error}") from error
    return Predictor(model, device, trained.scaling, keep_points, trained.columns)


def _device(device: str | torch.device) -> torch.device:
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"there is no device '{device}' here: {str(error).splitlines()[0]}") from error


def _iterate(chunks: Any) -> Iterable[Any]:
    if isinstance(chunks, dict | str) or not isinstance(chunks, Iterable):
        raise DataError(f"expected x and y, or an iterable of (x, y) chunks, got {type(chunks).__name__}")
    return chunks
