"""The mixer interface: `summarise` sees the context only, `read` maps each row on its own.

The context mixes itself by reading its own summary, and targets read the same summary, so targets can influence
neither each other nor the context, by construction. With dense attention this is exactly TNP-D with its block mask.

A new mixer is one file in this folder with one `@register("name")` class; nothing else is edited.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn

from npexp.errors import ConfigError, UnknownNameError, UnsupportedError, suggest
from npexp.layers.attention import check_heads
from npexp.layers.mlp import Activation, FeedForward


class Tokens(NamedTuple):
    """Rows of a stack: context or target points after embedding.

    Args:
        h: features, `[b, n, dz]`; finite in padded rows, but nothing to be counted.
        x: inputs, `[b, n, dx]`.
        mask: real rows, `[b, n]`, or None when all are.
        n: real context points of the task these tokens refer to, `[b]`.
        pos: rank in the canonical order, `[b, n]`: 0 .. n-1 for context, half-integers for targets; None where the
            stack does not sort.
        seen: how many slots of the context each row may read, `[b, n]`; None for all. Mixers with `causal` heed it.
        slot: which slot of the summarised context each row is itself, `[b, n]`, 0 .. n-1 in turn; None for targets.
    """

    h: Tensor
    x: Tensor
    mask: Tensor | None
    n: Tensor
    pos: Tensor | None = None
    seen: Tensor | None = None
    slot: Tensor | None = None


class Site(NamedTuple):
    """Where in a model a mixer sits.

    Args:
        dx: size of the inputs x that come with the tokens.
        dz: width of the tokens.
        num_heads: heads, an even share of dz each.
        layer: index of the layer, from 0; what is carried across layers starts in the first.
    """

    dx: int
    dz: int
    num_heads: int
    layer: int


State = Any  # a NamedTuple of tensors whose first axis is b
Carry = Any  # what crosses layers, e.g. latents; None at the first layer
LATER: Carry = object()  # in place of what crosses layers: more points come, so a summary may be without what follows


class Mixer(nn.Module, ABC):
    """One layer's exchange of information.

    Class attributes are the traits, and the contract suite proves each of them:
        family: what makes it cheap: "dense", "pattern", "latent", "kernel", "fixed" (length), "learned" (pattern),
            "recurrent", "pooled" or "conditional".
        paper: where it comes from, arXiv numbers.
        published: time of a layer of n tokens in its paper.
        exponent: power of nc that the time of a layer grows with here, at fixed settings.
        permutation_invariant: the summary does not depend on the order of the context, even unsorted.
        needs_order: the stack must bring the context into canonical order first.
        update: "stack" if `extend` equals a new summary through any number of layers, because every layer reads the
            raw context; "layer" if it does so for one layer; "local" if a point appended at the end of the order
            changes one layer's output only at the last `reach` points; "none" if the summary must be rebuilt.
        removable: whether `retract` undoes `extend`.
        foldable: whether the summary is made of sums, of `npexp.ops.attention.Part`s and of what follows from these, so
            that gradients reach the context chunk by chunk.
        causal: whether `read` heeds `Tokens.seen`, so that points can be read in an order.
        translation_equivariant: sees where points are, and only through differences of their inputs, so that a model
            whose tokens carry no x does not depend on the origin.
        state: "constant" or "grows", with the context.
        contexts: wirings the mixer takes; "read" lets the context read the summary and move on to the next layer,
            "raw" gives every layer the embedded context. The first one is the default.
        cost: time of one layer in nc, nt, m, dz, h, constant factors left out.
        dense_limit: settings under which this is dense attention with the weights of `self.attention`, if there are.
        looks: whether gradients reach the context's tokens; False in a layer that goes on from what is carried.
        asks: whether gradients reach a row's token through `read`; False where its place alone decides, or a choice.
        joins: whether `read` and the feed-forward look at h and x of a row only, and add nothing to the loss that
            depends on which rows come together, so that context and targets can pass a layer in one call.
    """

    family: str = ""
    paper: str = ""
    published: str = ""
    exponent: float = 1.0
    permutation_invariant: bool = True
    needs_order: bool = False
    update: Literal["stack", "layer", "local", "none"] = "none"
    removable: bool = False
    foldable: bool = False
    causal: bool = False
    translation_equivariant: bool = False
    state: Literal["constant", "grows"] = "constant"
    contexts: tuple[str, ...] = ("read", "raw")
    cost: str = ""
    dense_limit: dict[str, Any] | None = None
    looks: bool = True
    asks: bool = True
    joins: bool = False

    @classmethod
    def describe(cls) -> dict[str, Any]:
        """The traits as a plain dict."""
        return {
            "family": cls.family,
            "paper": cls.paper,
            "permutation_invariant": cls.permutation_invariant,
            "needs_order": cls.needs_order,
            "update": cls.update,
            "remove": "exact" if cls.removable else "none",
            "causal": cls.causal,
            "translation_equivariant": cls.translation_equivariant,
            "constant_state": cls.state == "constant",
            "contexts": list(cls.contexts),
            "published": cls.published,
            "cost": cls.cost,
            "exponent": cls.exponent,
        }

    @classmethod
    def period(cls, site: Site) -> int:
        """How many layers in turn do something different; shared weights are shared among every so many."""
        return 1

    @property
    def traits(self) -> dict[str, Any]:
        """What holds for this mixer; the contract suite proves it."""
        return self.describe()

    @abstractmethod
    def summarise(self, ctx: Tokens, carry: Carry = None) -> tuple[State, Carry]:
        """Summary of the context, and what the next layer's mixer is handed."""

    @abstractmethod
    def read(self, q: Tokens, state: State) -> Tensor:
        """What each row of q draws from the summary, `[b, n, dz]`; row-wise in q."""

    @property
    def reach(self) -> int:
        """Points at the end of the order whose output a point behind them may change, if `update` is "local"."""
        raise UnsupportedError(f"{type(self).__name__} does not see its neighbours only")

    def shorten(self, ctx: Tokens, state: State) -> Tokens:
        """The context that reads the state and moves on to the next layer, for mixers that merge points on the way."""
        return ctx

    def feedforward(self, dz: int, dim: int, activation: Activation) -> nn.Module | None:
        """The row-wise half of the mixer's layer, called with rows `[b, n, dz]` and their mask; None for none at all.

        Args:
            dz: width of the tokens.
            dim: hidden width that the stack was given.
            activation: that the stack was given.
        """
        return FeedForward(dz, dim, activation)

    def extend(self, state: State, new: Tokens, carry: Carry = None) -> tuple[State, Carry]:
        """The summary of old and new points together, from the old summary: O(new)."""
        raise UnsupportedError(f"{type(self).__name__} cannot extend its summary; re-encode, or use 'cmab' or 'linear'")

    def retract(self, state: State, old: Tokens, carry: Carry = None) -> tuple[State, Carry]:
        """The summary without the old points, which must be among those summarised: O(old)."""
        raise UnsupportedError(f"{type(self).__name__} cannot remove points; use 'cmab', 'linear' or 'hypermixer'")


_REGISTRY: dict[str, tuple[type[Mixer], dict[str, Any]]] = {}


def register(name: str, **settings: Any) -> Callable[[type[Mixer]], type[Mixer]]:
    """Class decorator: makes the class with these settings known as `name`. One class may carry several names."""

    def add(cls: type[Mixer]) -> type[Mixer]:
        _REGISTRY[name] = (cls, settings)
        return cls

    return add


def registered() -> dict[str, type[Mixer]]:
    """All mixer names with their classes."""
    package = importlib.import_module("npexp.mixers")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"npexp.mixers.{module.name}")
    return {name: cls for name, (cls, _) in sorted(_REGISTRY.items())}


def find_mixer(name: str) -> tuple[type[Mixer], dict[str, Any]]:
    """The class behind a name and the settings that go with it, or `UnknownNameError`."""
    if name not in registered():
        raise UnknownNameError("mixer", name, registered())
    return _REGISTRY[name]


def make_mixer(name: str, site: Site, settings: dict[str, Any] | None = None) -> Mixer:
    """Builds one layer's mixer.

    Args:
        name: a registered name.
        site: where it sits.
        settings: keyword arguments of the mixer's own.

    Raises:
        UnknownNameError: no such mixer.
        ConfigError: a setting the mixer does not have, or a width that the heads do not divide.
    """
    check_heads(site.dz, site.num_heads)
    cls, preset = find_mixer(name)
    options = set(inspect.signature(cls).parameters) - {"site"}
    for key in settings or {}:
        if key not in options:
            raise ConfigError(f"mixer '{name}' has no setting '{key}'; {suggest(key, options)}")
    return cls(site, **{**preset, **(settings or {})})
