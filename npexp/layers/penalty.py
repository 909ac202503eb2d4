"""Terms that layers add to a training loss, such as the load balance of experts.

A layer hands over its term with `penalise`; whoever computes a loss collects them with `collect_penalties`. Outside
such a block, as in prediction and in passes that only repeat a forward pass, nothing is collected.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import count

from torch import Tensor

_BLOCKS = count(1)
_NOW: ContextVar[tuple[int, list[Tensor]] | None] = ContextVar("_NOW", default=None)


@contextmanager
def collect_penalties() -> Iterator[list[Tensor]]:
    """A list that fills with the terms of the forward passes inside the block."""
    terms: list[Tensor] = []
    token = _NOW.set((next(_BLOCKS), terms))
    try:
        yield terms
    finally:
        _NOW.reset(token)


def collecting() -> int:
    """Number of the block we are in, 0 for none.

    A loss is being computed in a block: also the time for layers to update statistics of their own. What a pass uses
    must stay the same throughout, as the backward pass may compute any of its passes again; numbers only ever grow, so
    that a new one tells when the next step is due.
    """
    now = _NOW.get()
    return 0 if now is None else now[0]


def penalise(term: Tensor) -> None:
    """Adds a scalar, in nats per target, to the loss that is being computed, if any."""
    now = _NOW.get()
    if now is not None:
        now[1].append(term)
