"""Using a model on data in memory or on a stream: arrays in, distributions out. Needs no Lightning."""

from collections.abc import Iterable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from npexp.batch import check_finite, check_points
from npexp.errors import ConfigError, DataError, ShapeError
from npexp.likelihoods.base import Predictive
from npexp.models.base import NeuralProcess, State
from npexp.ops.tree import tree_map
from npexp.registry import instantiate

Array = Any  # NumPy array, pandas Series or DataFrame, nested list, or tensor
Chunks = Iterable[tuple[Array, Array]]


class Predictor:
    """Conditions any model on plain arrays, in inference mode.

    Arrays are `[n, d]` for one task or `[b, n, d]` for several; a one-dimensional `[n]` is one column. What comes back
    always has the task axis.

    Args:
        model: the model; it is put in eval mode and moved.
        device: where to compute.
    """

    def __init__(self, model: NeuralProcess, device: str | torch.device = "cpu"):
        self.model = model.eval().to(device)
        parameter = next(model.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype

    @torch.inference_mode()
    def condition(self, x: Array | Chunks, y: Array | None = None) -> State:
        """A state that has seen the points.

        Args:
            x: inputs; or, without y, an iterable of (x, y) chunks, which a model with exact updates reads one at a
                time, in constant memory.
            y: outputs.
        """
        chunks = self._chunks(x, y)
        if self.model.update_rule == "exact":
            state = None
            for cx, cy in chunks:
                state = self.model.encode(cx, cy) if state is None else self.model.update(state, cx, cy)
        else:  # re-encoding after every chunk would be wasted
            parts = list(chunks)
            state = self.model.encode(*(torch.cat(p, 1) for p in zip(*parts, strict=True))) if parts else None
        if state is None:
            raise DataError("expected at least one (x, y) chunk, got an empty stream: pass an empty array for no data")
        return state

    @torch.inference_mode()
    def update(self, state: State, x: Array | Chunks, y: Array | None = None) -> State:
        """A state that has seen these points too; takes chunks like `condition`."""
        for cx, cy in self._chunks(x, y):
            state = self.model.update(state, cx, cy)
        return state

    @torch.inference_mode()
    def remove(self, state: State, x: Array | Chunks, y: Array | None = None) -> State:
        """A state without these points; `UnsupportedError` where the model's traits say remove: none."""
        for cx, cy in self._chunks(x, y):
            state = self.model.remove(state, cx, cy)
        return state

    @torch.inference_mode()
    def predict(self, state: State, xt: Array) -> Predictive:
        """The distribution over the outputs at xt, `[b, nt, dy]`."""
        return self.model.predict(state, self._inputs(xt))

    @torch.inference_mode()
    def sample(
        self,
        state: State,
        xt: Array,
        n: int = 100,
        mode: Literal["joint", "autoregressive", "marginal"] = "joint",
    ) -> Tensor:
        """Draws of the outputs at xt, `[n, b, nt, dy]`.

        Args:
            state: from `condition` or `update`.
            xt: target inputs.
            n: number of draws.
            mode: "joint" draws from the model's own law of all targets; "autoregressive" draws target by target,
                each draw updating a state of its own (Bruinsma et al. 2023, arXiv 2303.14468): coherent functions from
                a factorised model, at nt updates; "marginal" keeps each target's law but makes targets independent.
        """
        x = self._inputs(xt)
        if mode == "autoregressive":
            return self._roll_out(state, x, n)
        draws = self.model.predict(state, x).sample(n)
        if mode == "joint":
            return draws
        if mode == "marginal":  # shuffling the draws of each target keeps its law and nothing else
            order = torch.rand(draws.shape[:3], device=draws.device).argsort(0)
            return draws.gather(0, order[..., None].expand_as(draws))
        raise ConfigError(f"expected mode 'joint', 'autoregressive' or 'marginal', got '{mode}'")

    def _roll_out(self, state: State, x: Tensor, n: int) -> Tensor:
        b, nt = x.shape[:2]
        state = tree_map(lambda t: t.repeat_interleave(n, 0), state)  # every draw has a state of its own
        x = x.repeat_interleave(n, 0)
        draws = []
        for i in range(nt):
            xi = x[:, i : i + 1]
            yi = self.model.predict(state, xi).sample(1)[0]
            draws.append(yi)
            state = self.model.update(state, xi, yi)
        return torch.cat(draws, 1).unflatten(0, (b, n)).transpose(0, 1)

    def _chunks(self, x: Array | Chunks, y: Array | None) -> Iterable[tuple[Tensor, Tensor]]:
        if y is None and hasattr(x, "shape"):
            raise DataError("expected y beside x, or an iterable of (x, y) chunks: got one array alone")
        for cx, cy in [(x, y)] if y is not None else x:
            tx, ty = self._tensor(cx, self.model.dx), self._tensor(cy, self.model.dy)
            check_points("context", tx, ty)
            check_finite("context", tx, ty)
            yield tx, ty

    def _inputs(self, xt: Array) -> Tensor:
        x = self._tensor(xt, self.model.dx)
        check_finite("target", x)
        return x

    def _tensor(self, values: Array, size: int) -> Tensor:
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
        return values.to(device=self.device, dtype=self.dtype)


def load_predictor(path: str | Path, device: str | torch.device = "cpu") -> Predictor:
    """The predictor of a finished run, from its checkpoint alone: no YAML, and nothing is unpickled.

    Args:
        path: a checkpoint file, or the folder of a run or of one of its versions, whose best checkpoint is taken.
        device: where to compute.

    Raises:
        ConfigError: no such file, or a checkpoint that was not written by `npexp fit`.
    """
    path = Path(path)
    if path.is_dir():
        newest = max((p for p in path.iterdir() if p.name.isdigit()), key=lambda p: int(p.name), default=path)
        path = newest / "checkpoints" / "best.ckpt"
    if not path.is_file():
        raise ConfigError(f"expected a checkpoint or a run folder, found nothing at {path}")
    try:
        device = torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"there is no device '{device}' here: {str(error).splitlines()[0]}") from error
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        spec = checkpoint["hyper_parameters"]["net"]
    except (RuntimeError, UnpicklingError, EOFError, LookupError, TypeError, AttributeError):
        spec = None
    if not isinstance(spec, dict) or "class_path" not in spec:
        raise ConfigError(
            f"{path} does not describe its model: only checkpoints written by `npexp fit` load by themselves"
        )
    model = instantiate(spec, trusted=("npexp",))
    weights = {k.removeprefix("net."): v for k, v in checkpoint["state_dict"].items() if k.startswith("net.")}
    model.load_state_dict(weights)
    return Predictor(model, device)
