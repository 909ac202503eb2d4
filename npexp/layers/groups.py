"""Rows that carry a label, brought together so that those of one label share the keys they read."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from npexp.ops.blocks import attend_blocks

ROWS = 32  # most rows that share what is gathered


class Groups(NamedTuple):
    """Groups of rows, each of one label; the last ones of a label may have places left.

    Args:
        place: where each row went, `[b, m]`, 0 to g size - 1.
        label: of each group, `[b, g]`, ascending; g is at least 1.
        size: places per group.
    """

    place: Tensor
    label: Tensor
    size: int

    def fill(self, rows: Tensor) -> Tensor:
        """Rows `[b, m, ...]` in their places, `[b, g, size, ...]`; zeros in those that are left."""
        places = rows.new_zeros(rows.shape[0], self.label.shape[1] * self.size, *rows.shape[2:])
        return places.scatter(1, self._index(rows), rows).unflatten(1, (-1, self.size))

    def take(self, places: Tensor) -> Tensor:
        """What lies in the places `[b, g, size, ...]` of the rows, `[b, m, ...]`; undoes `fill`."""
        places = places.flatten(1, 2)
        return places.gather(1, self._index(places))

    def _index(self, like: Tensor) -> Tensor:
        return self.place.view(*self.place.shape, *[1] * (like.ndim - 2)).expand(*self.place.shape, *like.shape[2:])


def group_rows(label: Int[Tensor, "b m"], num_labels: int, size: int) -> Groups:
    """Groups of at most `size` rows of one label, in their order: O(m log m); at most m / size + num_labels groups."""
    count = label.new_zeros(label.shape[0], num_labels).scatter_add(1, label, torch.ones_like(label))
    groups = -(-count // size)
    last = groups.cumsum(1)
    label, order = label.sort(dim=1, stable=True)
    behind = torch.arange(label.shape[1], device=label.device) - (count.cumsum(1) - count).gather(1, label)
    place = torch.empty_like(label).scatter(1, order, (last - groups).gather(1, label) * size + behind)
    total = max(int(last[:, -1].max()) if label.numel() else 0, 1)
    every = torch.arange(total, device=label.device).repeat(label.shape[0], 1)
    return Groups(place, torch.searchsorted(last, every, right=True).clamp_max(num_labels - 1), size)


class Lists(NamedTuple):
    """Lists of keys, of which every row reads one.

    Args:
        k: keys of c lists of w each, `[b, h, c, w, dh]`.
        v: values.
        real: places that hold a key, `[b, h, c, w]`.
    """

    k: Tensor
    v: Tensor
    real: Tensor


def read_lists(q: Float[Tensor, "b h m dh"], label: Int[Tensor, "b h m"], lists: Lists) -> Float[Tensor, "b h m dh"]:
    """Softmax attention of each row over the keys of its list, 0 over an empty one: O((m + c) w dh) per head.

    Args:
        q: queries.
        label: which list each reads, 0 to c - 1.
        lists: the keys.
    """
    (b, h, m, _), (c, w) = q.shape, lists.real.shape[2:]
    groups = group_rows(label.flatten(0, 1), c, max(min(m // c, ROWS), 1))
    k, v = (t.flatten(2, 3).flatten(0, 1)[:, None] for t in lists[:2])
    real = lists.real.flatten(0, 1).flatten(1)

    def allowed(slots: Tensor, some: Tensor) -> Tensor:
        return real[(some // groups.label.shape[1])[:, None], slots][:, None]

    rows = groups.fill(q.flatten(0, 1))[:, None]
    found: Any = attend_blocks(rows, k, v, groups.label[..., None], allowed, w)
    return groups.take(found[:, 0]).unflatten(0, (b, h))


def sum_members(
    h: Float[Tensor, "b s n d"], label: Int[Tensor, "b s n"], num_labels: int, mask: Bool[Tensor, "b n"] | None
) -> tuple[Float[Tensor, "b s c d"], Float[Tensor, "b s c 1"]]:
    """Sum and number of the real rows of each label: O(n num_labels d)."""
    member = torch.nn.functional.one_hot(label, num_labels).to(h.dtype)
    if mask is not None:
        member = member * mask[:, None, :, None]
    return member.mT @ h, member.sum(2)[..., None]
