"""What every neural process is: a map from data sets to predictive distributions, in four verbs."""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from npexp.batch import check_points
from npexp.errors import ShapeError, UnsupportedError, at_least
from npexp.likelihoods.base import Predictive


class Points(NamedTuple):
    """Observed points: x `[b, n, dx]`, y `[b, n, dy]`, mask `[b, n]` or None; padded slots hold zeros."""

    x: Tensor
    y: Tensor
    mask: Tensor | None


class State(NamedTuple):
    """What a model remembers of its context; an immutable value.

    Args:
        summary: what `predict` reads, a nested tuple of tensors whose first axis is b.
        context: the points themselves where the model must look at them again to update, else None.
    """

    summary: Any
    context: Points | None


class NeuralProcess(nn.Module, ABC):
    """A map from a context set to predictive distributions at any target inputs (Garnelo et al. 2018).

    Users call the four verbs below. A variant implements `_encode` and `_predict`, declares its traits as class
    attributes or properties, and, where they say "exact", implements `_extend` and `_retract`.

    Args:
        dx: input size.
        dy: output size.

    Attributes:
        chunk_size: without gradients, a model with exact updates conditions on this many points at a time, so that
            memory does not grow with the context.
    """

    permutation_invariant: bool = True
    joint: bool = False
    latent: bool = False
    update_rule: str = "recompute"
    remove_rule: str = "none"
    causal: bool = False
    translation_equivariant: bool = False
    constant_state: bool = False

    def __init__(self, dx: int, dy: int):
        super().__init__()
        self.dx, self.dy = at_least("dx", dx, 1), at_least("dy", dy, 1)
        self.chunk_size = 4096

    @property
    def traits(self) -> dict[str, Any]:
        """What holds for this model; the contract suite proves each entry."""
        return {
            "permutation_invariant": self.permutation_invariant,
            "joint": self.joint,
            "latent": self.latent,
            "update": self.update_rule,
            "remove": self.remove_rule,
            "causal": self.causal,
            "translation_equivariant": self.translation_equivariant,
            "constant_state": self.constant_state,
        }

    def encode(
        self,
        xc: Float[Tensor, "b nc dx"],
        yc: Float[Tensor, "b nc dy"],
        mask_c: Bool[Tensor, "b nc"] | None = None,
    ) -> State:
        """Conditions on a context.

        Args:
            xc: context inputs; nc may be 0.
            yc: context outputs.
            mask_c: real points; padded slots may hold anything, NaN included.

        Raises:
            ShapeError: shapes that contradict each other or the model's dx and dy.
        """
        points = self._points(xc, yc, mask_c)
        if self.update_rule != "exact":
            return State(self._encode(points), points)
        # with gradients everything is kept for the backward pass anyway, so chunks would save nothing
        size = points.x.shape[1] if torch.is_grad_enabled() else self.chunk_size
        first, *rest = _chunks(points, size)
        state = State(self._encode(first), None)
        for chunk in rest:
            state = State(self._extend(state.summary, chunk), None)
        return state

    def update(
        self,
        state: State,
        x: Float[Tensor, "b n dx"],
        y: Float[Tensor, "b n dy"],
        mask: Bool[Tensor, "b n"] | None = None,
    ) -> State:
        """A state that has seen the new points too; the old one stays usable.

        Cost O(n) where `traits["update"]` is "exact", that of a new `encode` where it is "recompute". Both give what
        encoding all points at once gives.
        """
        points = self._points(x, y, mask)
        if self.update_rule == "exact":
            summary = state.summary
            for chunk in _chunks(points, points.x.shape[1] if torch.is_grad_enabled() else self.chunk_size):
                summary = self._extend(summary, chunk)
            return State(summary, None)
        together = _join(state.context, points)
        return State(self._encode(together), together)

    def remove(
        self,
        state: State,
        x: Float[Tensor, "b n dx"],
        y: Float[Tensor, "b n dy"],
        mask: Bool[Tensor, "b n"] | None = None,
    ) -> State:
        """A state that has not seen these points, which must have been among its context: O(n).

        Raises:
            UnsupportedError: where `traits["remove"]` is "none".
        """
        if self.remove_rule != "exact":
            raise UnsupportedError(
                f"{type(self).__name__} cannot remove points; encode those that are left, "
                "or use a model whose traits say remove: exact"
            )
        return State(self._retract(state.summary, self._points(x, y, mask)), None)

    def predict(self, state: State, xt: Float[Tensor, "b nt dx"]) -> Predictive:
        """The distribution of the outputs at xt, `[b, nt, dy]`. Deterministic: the same state gives the same law."""
        if xt.ndim != 3 or xt.shape[-1] != self.dx:
            raise ShapeError(f"expected xt [b, nt, {self.dx}], got {list(xt.shape)}")
        return self._predict(state.summary, xt)

    def forward(
        self,
        xc: Float[Tensor, "b nc dx"],
        yc: Float[Tensor, "b nc dy"],
        xt: Float[Tensor, "b nt dx"],
        mask_c: Bool[Tensor, "b nc"] | None = None,
    ) -> Predictive:
        """`encode`, then `predict`."""
        return self.predict(self.encode(xc, yc, mask_c), xt)

    @abstractmethod
    def _encode(self, points: Points) -> Any:
        """Summary of a context."""

    @abstractmethod
    def _predict(self, summary: Any, xt: Tensor) -> Predictive:
        """Distribution at the targets."""

    def _extend(self, summary: Any, points: Points) -> Any:
        raise UnsupportedError(f"{type(self).__name__} has no exact update")

    def _retract(self, summary: Any, points: Points) -> Any:
        raise UnsupportedError(f"{type(self).__name__} has no exact removal")

    def _points(self, x: Tensor, y: Tensor, mask: Tensor | None) -> Points:
        check_points("context", x, y, mask)
        if x.shape[-1] != self.dx or y.shape[-1] != self.dy:
            raise ShapeError(
                f"this model takes x [b, n, {self.dx}] and y [b, n, {self.dy}], got {list(x.shape)} and "
                f"{list(y.shape)}: build it with dx={x.shape[-1]}, dy={y.shape[-1]}"
            )
        if mask is not None:  # from here on padding is zero, whatever it was
            x = torch.where(mask[..., None], x, torch.zeros_like(x))
            y = torch.where(mask[..., None], y, torch.zeros_like(y))
        return Points(x, y, mask)


def _chunks(points: Points, size: int) -> list[Points]:
    """Views of the points, `size` at a time; one empty chunk for an empty set."""
    n = points.x.shape[1]
    starts = range(0, n, size) if n else [0]
    return [
        Points(
            points.x[:, i : i + size],
            points.y[:, i : i + size],
            None if points.mask is None else points.mask[:, i : i + size],
        )
        for i in starts
    ]


def _join(a: Points, b: Points) -> Points:
    mask = None
    if a.mask is not None or b.mask is not None:
        mask = torch.cat(
            [torch.ones_like(p.x[..., 0], dtype=torch.bool) if p.mask is None else p.mask for p in (a, b)], 1
        )
    return Points(torch.cat([a.x, b.x], 1), torch.cat([a.y, b.y], 1), mask)
