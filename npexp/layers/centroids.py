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


class Centroids(nn.Module):
    """Directions, found by online k-means (Roy et al. 2020, arXiv 2003.05997): no gradient moves them.

    In training each one follows the mean direction of the rows nearest to it, by an exponential moving average over
    steps; one that attracts nothing stays. A step is taken at the next pass, so that nothing changes before gradients
    have been computed. Otherwise they are frozen.

    Args:
        num_sets: s, sets of centroids, each for rows of its own.
        num_centroids: c, per set.
        dim: d, size of a row.
        decay: how much of a centroid is left after a step, 0 to 1.
    """

    def __init__(self, num_sets: int, num_centroids: int, dim: int, decay: float):
        super().__init__()
        at_least("num_centroids", num_centroids, 1)
        if not 0 <= decay <= 1:
            raise ConfigError(f"expected decay to be between 0 and 1, got {decay!r}: correct it")
        self.decay = decay
        self.register_buffer("mu", normalize(torch.randn(num_sets, num_centroids, dim), dim=-1))
        self.register_buffer("ahead", self.mu.clone())

    def forward(self, h: Float[Tensor, "b s n d"], mask: Bool[Tensor, "b n"] | None = None) -> Float[Tensor, "b s c d"]:
        """The centroids to use for now, of unit norm; in training they take note of the real rows: O(n c d)."""
        if not (self.training and collecting()):
            return self._now(h)
        self.mu.copy_(self.ahead)
        mu = self._now(h)
        with torch.no_grad(), torch.autocast(h.device.type, enabled=False):
            rows = normalize(h.to(mu.dtype), dim=-1)
            total, count = sum_members(rows, cosines(rows, mu).argmax(-1), mu.shape[2], mask)
            total, count = total.sum(0), count.sum(0)
            moved = normalize(self.decay * mu[0] + (1 - self.decay) * total / count.clamp_min(1), dim=-1)
            self.ahead.copy_(torch.where(count > 0, moved, mu[0]))
        return mu

    def _now(self, h: Tensor) -> Tensor:
        """A copy for each task, so that a state outlives the next step."""
        return self.mu.clone().expand(h.shape[0], -1, -1, -1)
