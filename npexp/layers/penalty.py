"""Terms that layers add to a training loss, such as the load balance of experts.

A layer hands over its term with `penalise`; whoever computes a loss collects them with `collect_penalties`. Outside
such a block, as in prediction and in passes that only repeat a forward pass, nothing is collected.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

_TERMS: ContextVar[list[Tensor] | None] = ContextVar("_TERMS", default=None)


@contextmanager
def collect_penalties() -> Iterator[list[Tensor]]:
    """A list that fills with the terms of the forward passes inside the block."""
    terms: list[Tensor] = []
    token = _TERMS.set(terms)
    try:
        yield terms
    finally:
        _TERMS.reset(token)


def collecting() -> bool:
    """Whether a loss is being computed: also the time for layers to update statistics of their own."""
    return _TERMS.get() is not None


def penalise(term: Tensor) -> None:
    """Adds a scalar, in nats per target, to the loss that is being computed, if any."""
    terms = _TERMS.get()
    if terms is not None:
        terms.append(term)
