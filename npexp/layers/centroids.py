"""Centroids on the unit sphere that follow what they attract."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import normalize

from npexp.errors import ConfigError, at_least
from npexp.layers.groups import sum_members
from npexp.layers.penalty import collecting


def cosines(h: Float[Tensor, "b s n d"], mu: Float[Tensor, "b s c d"]) -> Float[Tensor, "b s n c"]:
    """Cosine of each row with each centroid of its set; in float32 or better even under autocast: O(n c d)."""
    with torch.autocast(h.device.type, enabled=False):
        return normalize(h.to(mu.dtype), dim=-1) @ mu.mT


def check_decay(decay: float) -> float:
    """Returns `decay` when it is a number from 0 to below 1, else raises `ConfigError`."""
    if not (isinstance(decay, int | float) and 0 <= decay < 1):
        raise ConfigError(f"expected decay to be a number, at least 0 and below 1, got {decay!r}: correct it")
    return decay


class Centroids(nn.Module):
    """Directions, found by online k-means (Roy et al. 2020, arXiv 2003.05997): no gradient moves them.

    In training each one follows the mean direction of the rows nearest to it, by an exponential moving average over
    passes; one that attracts nothing stays. All passes of a loss, see `collect_penalties`, use the same centroids, also
    where the backward pass computes them again: they move when the next loss begins. Otherwise they are frozen.

    Args:
        num_sets: s, sets of centroids, each for rows of its own.
        num_centroids: c, per set.
        dim: d, size of a row.
        decay: how much of a centroid is left after a pass, 0 to below 1.
    """

    def __init__(self, num_sets: int, num_centroids: int, dim: int, decay: float):
        super().__init__()
        at_least("num_centroids", num_centroids, 1)
        self.decay, self.moved_in = check_decay(decay), 0
        self.register_buffer("mu", normalize(torch.randn(num_sets, num_centroids, dim), dim=-1))
        self.register_buffer("ahead", self.mu.clone())

    def forward(self, h: Float[Tensor, "b s n d"], mask: Bool[Tensor, "b n"] | None = None) -> Float[Tensor, "b s c d"]:
        """The centroids to use for now, of unit norm; in training they take note of the real rows: O(n c d)."""
        block = self.training and collecting()
        if block and block != self.moved_in:
            self.mu.copy_(self.ahead)
            self.moved_in = block
        mu = self._now(h)
        if not block:
            return mu
        with torch.no_grad(), torch.autocast(h.device.type, enabled=False):
            rows = normalize(h.to(mu.dtype), dim=-1)
            total, count = sum_members(rows, cosines(rows, mu).argmax(-1), mu.shape[2], mask)
            total, count = total.sum(0), count.sum(0)
            moved = normalize(self.decay * self.ahead + (1 - self.decay) * total / count.clamp_min(1), dim=-1)
            self.ahead.copy_(torch.where(count > 0, moved, self.ahead))
        return mu

    def _now(self, h: Tensor) -> Tensor:
        """A copy for each task, so that a state outlives the next step."""
        return self.mu.clone().expand(h.shape[0], -1, -1, -1)
