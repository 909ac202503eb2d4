"""Sparse attention patterns: which keys a row may attend to, and where those lie.

A pattern is a predicate of two places, plus what makes it cheap: an order of the keys in which the ones that a row may
see are a few intervals. Ranks come doubled, so that those of targets, which lie between context points, are integers.
"""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from npexp.ops.attention import attend
from npexp.ops.blocks import attend_blocks, cover

NOWHERE = torch.iinfo(torch.int64).max  # the code of padded keys, which are sorted last


class Rows(NamedTuple):
    """Where rows are.

    Args:
        rank: twice their rank in the canonical order, `[b, m]`, int64: even for context points, odd for targets.
        x: inputs, `[b, m, dx]`.
        n: real context points of the task, `[b]`.
        real: which rows are real, `[b, m]`.
        own: whether the rows are the context itself, in order.
    """

    rank: Tensor
    x: Tensor
    n: Tensor
    real: Tensor
    own: bool


class Pattern(ABC):
    """Who may attend to whom, by places alone.

    Attributes:
        size: keys that are gathered together; about as many as a row sees.
        regroup: whether neighbours in the order of the keys see much the same, or else neighbours in rank.
    """

    size: int
    regroup: bool = True

    @abstractmethod
    def place(self, rows: Rows) -> Tensor:
        """All that the pattern needs to know of each row, `[b, m, a]`, int64 or floating."""

    @abstractmethod
    def allowed(self, q: Tensor, k: Tensor) -> Tensor:
        """Whether rows at places q may attend to keys at places k, both broadcast, `[..., a]` to `[...]`."""

    @abstractmethod
    def spans(self, place: Tensor, codes: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
        """First and last slots of the intervals that hold all that rows may see, `[b, m, s]` each.

        Args:
            place: of the rows, `[b, m, a]`.
            codes: sorted codes of the keys, `[b, nc]`.
            n: real context points, `[b]`.
        """

    def codes(self, place: Tensor) -> Tensor | None:
        """What keys are sorted by, `[b, nc]`, int64; None keeps their order."""
        return None


class Layout(NamedTuple):
    """Keys in the order of a pattern.

    Args:
        k: keys, `[b, h, nc, dh]`.
        v: values.
        place: where each is, `[b, nc, a]`.
        real: which are real, `[b, nc]`.
        codes: what they are sorted by, `[b, nc]`.
        order: which context point each is, `[b, nc]`; None for the canonical order.
        n: real context points, `[b]`.
    """

    k: Tensor
    v: Tensor
    place: Tensor
    real: Tensor
    codes: Tensor
    order: Tensor | None
    n: Tensor


def lay_out(pattern: Pattern, k: Tensor, v: Tensor, rows: Rows) -> Layout:
    """Keys and values `[b, h, nc, dh]` of the context in the order of the pattern, O(nc log nc)."""
    place = pattern.place(rows)
    codes = pattern.codes(place)
    if codes is None:
        return Layout(k, v, place, rows.real, rows.rank, None, rows.n)
    codes, order = torch.where(rows.real, codes, NOWHERE).sort(dim=1, stable=True)
    k, v = (t.gather(2, order[:, None, :, None].expand_as(t)) for t in (k, v))
    place = place.gather(1, order[..., None].expand_as(place))
    return Layout(k, v, place, rows.real.gather(1, order), codes, order, rows.n)


def attend_pattern(pattern: Pattern, q: Tensor, rows: Rows, layout: Layout, using: Any = attend) -> Any:
    """Each row `[b, h, m, dh]` attends to the keys that the pattern allows: O(m) times what one sees.

    Rows are taken in groups of neighbours that share what is gathered, the larger the more rows there are.

    Args:
        pattern: who may attend to whom.
        q: queries.
        rows: where they are.
        layout: the keys.
        using: what is done with a row's keys, see `attend_blocks`.
    """
    place, real, (m, nc) = pattern.place(rows), rows.real, (q.shape[2], layout.k.shape[2])
    # as many rows as the keys they share, where rows are as dense as keys
    r = pattern.size if rows.own and m else min(max(pattern.size * m // max(nc, 1), 1), pattern.size)
    order = None
    if r > 1:
        codes = pattern.codes(place) if pattern.regroup else None
        if codes is not None or not rows.own:
            order = torch.where(real, rows.rank if codes is None else codes, NOWHERE).argsort(dim=1, stable=True)
            q = q.gather(2, order[:, None, :, None].expand_as(q))
            place = place.gather(1, order[..., None].expand_as(place))
            real = real.gather(1, order)
    spans = pattern.spans(place, layout.codes, rows.n)
    low, high, real, there = (_in_groups(t, r) for t in (*spans, real, place))
    high = torch.where(real[..., None], high, -1)
    there, groups = there.flatten(0, 1), max(there.shape[1], 1)

    def allowed(slots: Tensor, some: Tensor) -> Tensor:
        task = (some // groups)[:, None]
        seen = pattern.allowed(there[some][:, :, None], layout.place[task, slots][:, None])
        return seen & layout.real[task, slots][:, None]

    table = cover(low.flatten(2), high.flatten(2), pattern.size, nc)
    grouped = _in_groups(q.transpose(1, 2), r).movedim(3, 1)
    read = attend_blocks(grouped, layout.k, layout.v, table, allowed, pattern.size, using)
    if isinstance(read, Tensor):
        return _one_by_one(read, m, order)
    return type(read)(*(_one_by_one(t, m, order) for t in read))


def _in_groups(t: Tensor, r: int) -> Tensor:
    """`[b, m, ...]` as `[b, g, r, ...]`, filled up with zeros."""
    lacking = -t.shape[1] % r
    if lacking:
        t = torch.cat([t, t.new_zeros(t.shape[0], lacking, *t.shape[2:])], 1)
    return t.unflatten(1, (-1, r))


def _one_by_one(t: Tensor, m: int, order: Tensor | None) -> Tensor:
    """`[b, h, g, r, ...]` as `[b, h, m, ...]`, where they were before they were put in order."""
    t = t.flatten(2, 3)[:, :, :m]
    if order is None:
        return t
    back = order.argsort(1)[:, None].expand(*t.shape[:3])
    return t.gather(2, back if t.ndim == 3 else back[..., None].expand_as(t))
