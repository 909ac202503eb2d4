"""What every neural process is: a map from data sets to predictive distributions, in four verbs."""

from abc import ABC, abstractmethod
from functools import reduce
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from npexp.batch import check_points, count, real
from npexp.errors import ConfigError, DataError, ShapeError, UnsupportedError, at_least
from npexp.likelihoods import Autoregressive, Decoding, Gaussian, Likelihood, Predictive, Verbs
from npexp.models.fold import chunks, fold_and_recompute
from npexp.ops.tree import tree_map

ADDITIVE = "use a model whose traits say additive, such as rmnp or cnp"


class Points(NamedTuple):
    """Observed points: x `[b, n, dx]`, y `[b, n, dy]`, mask `[b, n]` or None; padded slots hold zeros."""

    x: Tensor
    y: Tensor
    mask: Tensor | None


class State(NamedTuple):
    """What a model remembers of its context; an immutable value.

    Args:
        summary: what `predict` reads, a nested tuple of tensors whose first axis is b.
        n: real points seen, `[b]`, int64.
        context: the points themselves where the model must look at them again to update, else None.
    """

    summary: Any
    n: Tensor
    context: Points | None

    def __repr__(self) -> str:
        return f"State(n={self.n.tolist()})"


class NeuralProcess(nn.Module, ABC):
    """A map from a context set to predictive distributions at any target inputs (Garnelo et al. 2018).

    Users call the four verbs below. A variant implements `_encode` and `_predict`, declares its traits as class
    attributes or properties, and, where they say "exact", implements `_extend` and `_retract`.

    Args:
        dx: input size.
        dy: output size.

    A variant calls `_use_head` for the network at its end, so that every likelihood serves every model.

    Attributes:
        spec: the description this model was built from, plain data, where `npexp.build` made it.
        decoding: None predicts in one step, jointly as far as the likelihood is joint. A `Decoding` makes `predict`
            autoregressive over points or blocks, which turns any model into a joint one; training is not affected.
        chunk_size: without gradients, a model with exact updates conditions on this many points at a time, so that
            memory does not grow with the context.
        foldable: whether the summary is made of sums, of `npexp.ops.attention.Part`s and of what follows from these,
            so that models may train on a context chunk by chunk, too.
    """

    permutation_invariant: bool = True
    joint: bool = False
    consistent: bool = True
    latent: bool = False
    update_rule: str = "recompute"
    remove_rule: str = "none"
    causal: bool = False
    translation_equivariant: bool = False
    constant_state: bool = False
    additive: bool = False
    foldable: bool = False
    cost: str = ""
    spec: dict[str, Any] | None = None
    decoding: Decoding | None = None

    def __init__(self, dx: int, dy: int):
        super().__init__()
        self.dx, self.dy = at_least("dx", dx, 1), at_least("dy", dy, 1)
        self.chunk_size = 4096
        self._train_chunk_size: int | None = None

    @property
    def train_chunk_size(self) -> int | None:
        """With gradients, `encode` keeps nothing but the points and the state of contexts larger than this.

        The backward pass computes them again, so many points at a time: memory does not grow with the context, and a
        step takes about a third longer. None, the default, keeps everything.

        Raises:
            ConfigError: a size below 1, or a model that cannot.
        """
        return self._train_chunk_size

    @train_chunk_size.setter
    def train_chunk_size(self, size: int | None) -> None:
        if size is not None and not self.foldable:
            raise ConfigError(
                f"{type(self).__name__} cannot train on a context in chunks as configured here: use cmanp, a gridded "
                "model, 'tnp' with context 'raw' and mixer linear, hypermixer, performer, rfa, fnet_x, pma or "
                "token_learner, or one whose traits say additive"
            )
        self._train_chunk_size = None if size is None else at_least("train_chunk_size", size, 1)

    @property
    def traits(self) -> dict[str, Any]:
        """What holds for this model; the contract suite proves each entry."""
        return {
            "permutation_invariant": self.permutation_invariant,
            "joint": self.joint or self.decoding is not None,
            "consistent": self.consistent,
            "latent": self.latent,
            "update": self.update_rule,
            "remove": self.remove_rule,
            "causal": self.causal,
            "translation_equivariant": self.translation_equivariant,
            "constant_state": self.constant_state,
            "additive": self.additive,
            "cost": self.cost,
        }

    def _use_head(self, likelihood: Likelihood | None, dim_in: int, dim_hidden: int, depth: int) -> None:
        """Sets `head`, from features `[*s, b, nt, dim_in]` to a law, and the traits that follow; None: the default."""
        likelihood = Gaussian(min_stddev=0.01) if likelihood is None else likelihood
        if not isinstance(likelihood, Likelihood):
            raise ConfigError(
                f"expected a likelihood such as npexp.likelihoods.StudentT(), got {likelihood!r}: pass an object"
            )
        self.head = likelihood.head(dim_in, dim_hidden, self.dy, depth)
        self.joint, self.consistent = self.latent or likelihood.joint, likelihood.consistent

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
        n = count(points.mask, points.x)
        if self.update_rule != "exact":  # a copy, since the caller may overwrite what was given
            return State(self._encode(points), n, Points(*(None if p is None else p.clone() for p in points)))
        return State(self._fold(points), n, None)

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
        points = self._points(x, y, mask, state)
        n = state.n + count(points.mask, points.x)
        if self.update_rule == "exact":
            summary = state.summary
            # with gradients everything is kept for the backward pass anyway, so chunks would save nothing
            for chunk in [points] if torch.is_grad_enabled() else chunks(points, self.chunk_size):
                summary = self._extend(summary, chunk)
            return State(summary, n, None)
        together = join(state.context, points)
        return State(self._encode(together), n, together)

    def remove(
        self,
        state: State,
        x: Float[Tensor, "b n dx"],
        y: Float[Tensor, "b n dy"],
        mask: Bool[Tensor, "b n"] | None = None,
    ) -> State:
        """A state that has not seen these points, which must have been among its context: O(n).

        A task of which nothing is left is as if it had never seen anything, exactly.

        Raises:
            UnsupportedError: where `traits["remove"]` is "none".
            DataError: more points than the state has seen.
            PrecisionError: so much of what a softmax had seen goes that rounding would spoil what is left.
        """
        if self.remove_rule != "exact":
            raise UnsupportedError(
                f"{type(self).__name__} cannot remove points; encode those that are left, "
                "or use a model whose traits say remove: exact"
            )
        points = self._points(x, y, mask, state)
        n = state.n - count(points.mask, points.x)
        if bool((n < 0).any()):
            raise DataError(f"cannot remove more points than were seen: {state.n.tolist()} per task")
        empty = n == 0
        if not bool(empty.any()):
            return State(self._retract(state.summary, points), n, None)
        # subtracting everything would leave rounding errors where nothing should be
        some = self._retract(state.summary, self._points(x, y, real(points.mask, x) & ~empty[:, None], state))
        none = self._encode(self._points(x[:, :0], y[:, :0], None))
        choose = lambda a, b: torch.where(empty.view(-1, *[1] * (a.ndim - 1)), a, b)  # noqa: E731
        return State(tree_map(choose, none, some), n, None)

    def merge(self, a: State, b: State) -> State:
        """A state that has seen the points of both, see `AdditiveNeuralProcess`.

        Raises:
            UnsupportedError: where `traits["additive"]` is False.
        """
        raise UnsupportedError(f"{type(self).__name__} cannot merge states; {ADDITIVE}")

    def decay(self, state: State, gamma: float) -> State:
        """A state in which every point counts gamma times what it did, see `AdditiveNeuralProcess`.

        Raises:
            UnsupportedError: where `traits["additive"]` is False.
        """
        raise UnsupportedError(f"{type(self).__name__} cannot let points decay; {ADDITIVE}")

    def adapt(self, x: Float[Tensor, "n dx"]) -> None:
        """Looks at inputs of training tasks before the first step, for models that ask where their inputs lie."""

    def predict(
        self, state: State, xt: Float[Tensor, "b nt dx"], mask_t: Bool[Tensor, "b nt"] | None = None
    ) -> Predictive:
        """The distribution of the outputs at xt, `[b, nt, dy]`. Deterministic: the same state gives the same law.

        Args:
            state: what the model has seen.
            xt: target inputs.
            mask_t: real targets. Needed where `traits["consistent"]` is False, as targets see each other, and where
                targets are decoded one after the other; of no consequence otherwise.
        """
        if self.decoding is not None:
            return self.chain(state, xt, mask_t, self.decoding)
        return self._predict(state, self._targets(state, xt, mask_t), mask_t)

    def chain(
        self,
        state: State,
        xt: Float[Tensor, "b nt dx"],
        mask_t: Bool[Tensor, "b nt"] | None = None,
        decoding: Decoding | None = None,
    ) -> Autoregressive:
        """The law of the targets decoded one after the other, see `Autoregressive`; None is the plain chain rule."""
        return Autoregressive(self._verbs(), state, self._targets(state, xt, mask_t), mask_t, decoding or Decoding())

    def training_law(
        self,
        xc: Float[Tensor, "b nc dx"],
        yc: Float[Tensor, "b nc dy"],
        xt: Float[Tensor, "b nt dx"],
        mask_c: Bool[Tensor, "b nc"] | None = None,
        mask_t: Bool[Tensor, "b nt"] | None = None,
    ) -> Predictive:
        """The law whose joint log-likelihood is the objective: `forward` without `decoding`, unless a variant differs.

        A variant may spare itself a state that nobody asks for.
        """
        state = self.encode(xc, yc, mask_c)
        return self._predict(state, self._targets(state, xt, mask_t), mask_t)

    def forward(
        self,
        xc: Float[Tensor, "b nc dx"],
        yc: Float[Tensor, "b nc dy"],
        xt: Float[Tensor, "b nt dx"],
        mask_c: Bool[Tensor, "b nc"] | None = None,
        mask_t: Bool[Tensor, "b nt"] | None = None,
    ) -> Predictive:
        """`encode`, then `predict`."""
        return self.predict(self.encode(xc, yc, mask_c), xt, mask_t)

    @abstractmethod
    def _encode(self, points: Points) -> Any:
        """Summary of a context."""

    @abstractmethod
    def _predict(self, state: State, xt: Tensor, mask_t: Tensor | None) -> Predictive:
        """Distribution at the targets."""

    def _verbs(self) -> Verbs:
        """What the chain rule needs of this model."""
        return Verbs(self.dy, self._predict, self.update)

    def _extend(self, summary: Any, points: Points) -> Any:
        raise UnsupportedError(f"{type(self).__name__} has no exact update")

    def _pool(self, summary: Any, points: Points) -> Any:
        """Summary of old points, None where there are none, and new ones, perhaps only as much as `_extend` needs."""
        return self._encode(points) if summary is None else self._extend(summary, points)

    def _retract(self, summary: Any, points: Points) -> Any:
        raise UnsupportedError(f"{type(self).__name__} has no exact removal")

    def _fold(self, points: Points) -> Any:
        """Summary of a context of any size, see `chunk_size` and `train_chunk_size`."""
        size = self.train_chunk_size if torch.is_grad_enabled() else self.chunk_size
        if size is None or points.x.shape[1] <= size:
            return self._encode(points)
        if torch.is_grad_enabled():
            whole, rest = fold_and_recompute(self._pool, points, size, self.parameters())
        else:
            *first, rest = chunks(points, size)
            whole = reduce(self._pool, first, None)
        return self._extend(whole, rest)

    def _targets(self, state: State, xt: Tensor, mask_t: Tensor | None) -> Tensor:
        """xt, checked, with zeros in padded slots."""
        if not isinstance(xt, Tensor) or xt.ndim != 3 or xt.shape[-1] != self.dx:
            raise ShapeError(f"expected xt [b, nt, {self.dx}], got {list(getattr(xt, 'shape', ()))}")
        if mask_t is not None and (mask_t.dtype != torch.bool or mask_t.shape != xt.shape[:2]):
            raise ShapeError(f"expected a boolean mask_t {list(xt.shape[:2])}, got {mask_t.dtype} {list(mask_t.shape)}")
        _check_tasks(state, xt)
        return xt if mask_t is None else torch.where(mask_t[..., None], xt, torch.zeros_like(xt))

    def _points(self, x: Tensor, y: Tensor, mask: Tensor | None, state: State | None = None) -> Points:
        check_points("context", x, y, mask)
        if x.shape[-1] != self.dx or y.shape[-1] != self.dy:
            raise ShapeError(
                f"this model takes x [b, n, {self.dx}] and y [b, n, {self.dy}], got {list(x.shape)} and "
                f"{list(y.shape)}: build it with dx={x.shape[-1]}, dy={y.shape[-1]}"
            )
        if state is not None:
            _check_tasks(state, x)
        if mask is not None:  # from here on padding is zero, whatever it was
            mask = mask.clone()  # states keep it, and the caller may overwrite what was given
            x = torch.where(mask[..., None], x, torch.zeros_like(x))
            y = torch.where(mask[..., None], y, torch.zeros_like(y))
        return Points(x, y, mask)


def _check_tasks(state: State, x: Tensor) -> None:
    if not isinstance(state, State):
        raise ShapeError(f"expected a state as `encode` or `condition` gives it, got {type(state).__name__}")
    b, given = state.n.shape[0], x.shape[0]  # not len(), which a graph that is being traced would take for a constant
    if b != given:
        raise ShapeError(f"the state holds {b} tasks, got points of {given}: give every task its points")


def join(a: Points, b: Points) -> Points:
    mask = None
    if a.mask is not None or b.mask is not None:
        mask = torch.cat([real(p.mask, p.x) for p in (a, b)], 1)
    return Points(torch.cat([a.x, b.x], 1), torch.cat([a.y, b.y], 1), mask)
