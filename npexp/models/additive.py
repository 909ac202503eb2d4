"""Models whose state is a plain sum over points: whatever sums allow, states do."""

from abc import abstractmethod
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from npexp.errors import ConfigError, DataError, ShapeError
from npexp.models.base import NeuralProcess, Points, State
from npexp.ops.tree import tensors, tree_map


class AdditiveNeuralProcess(NeuralProcess):
    """A neural process that remembers its context as sums of row-wise functions of the points.

    Inserting and deleting points, merging the states of two shards or sensors, and forgetting are additions,
    subtractions and a multiplication, O(state) each and exact up to the rounding of the sums. A variant implements
    `_encode`, whose summary is a nested tuple of sums, and `_mass`.
    """

    update_rule = "exact"
    remove_rule = "exact"
    constant_state = True
    additive = True
    foldable = True

    def merge(self, a: State, b: State) -> State:
        """A state that has seen the points of both, which must have no point in common.

        Raises:
            ShapeError: no states, or those of different numbers of tasks or of different models.
        """
        _check(a), _check(b)
        if a.n.shape != b.n.shape:
            raise ShapeError(f"expected states of as many tasks, got {len(a.n)} and {len(b.n)}: encode the same tasks")
        sizes = [[list(sums.shape) for sums in tensors(state.summary)] for state in (a, b)]
        if sizes[0] != sizes[1]:
            raise ShapeError(
                f"expected two states of one model, got sums {sizes[0]} and {sizes[1]}: encode both with it"
            )
        return State(tree_map(torch.add, a.summary, b.summary), a.n + b.n, None)

    def decay(self, state: State, gamma: float) -> State:
        """A state in which every point counts gamma times what it did: for data that drift, called once per time step.

        After decays, `n` still says how many points were seen, and points can no longer be removed.

        Args:
            state: what the model has seen.
            gamma: 0 < gamma <= 1; a point's weight falls to 1/e after 1 / (1 - gamma) calls.

        Raises:
            ConfigError: another gamma.
        """
        _check(state)
        if isinstance(gamma, bool) or not (isinstance(gamma, Real) and 0 < gamma <= 1):
            raise ConfigError(
                f"expected 0 < gamma <= 1, the share of every point that stays, got {gamma!r}: correct it"
            )
        kept = tree_map(
            lambda sums: float(gamma) * (sums if sums.is_floating_point() else sums.double()), state.summary
        )
        return state._replace(summary=kept)

    def remove(self, state: State, x: Tensor, y: Tensor, mask: Tensor | None = None) -> State:
        """See `NeuralProcess.remove`.

        Raises:
            DataError: more points than the state has seen, or a state that has forgotten part of them by `decay`.
        """
        _check(state)
        held = self._mass(state.summary)
        rounding = 8 * torch.finfo(held.dtype).eps * state.n if held.is_floating_point() else 0
        if bool(((held - state.n).abs() > rounding).any()):
            raise DataError("this state has decayed, so nobody knows how much of a point is left: encode without it")
        return super().remove(state, x, y, mask)

    @abstractmethod
    def _mass(self, summary: Any) -> Tensor:
        """How many points the sums hold, `[b]`."""

    def _extend(self, summary: Any, points: Points) -> Any:
        return tree_map(torch.add, summary, self._encode(points))

    def _retract(self, summary: Any, points: Points) -> Any:
        return tree_map(torch.sub, summary, self._encode(points))


def _check(state: State) -> None:
    if not isinstance(state, State):
        raise ShapeError(f"expected a state as `encode` gives it, got a {type(state).__name__}")
