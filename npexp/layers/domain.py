"""Where the inputs lie: the one place that knows their scale."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from npexp.errors import ConfigError


class Domain(nn.Module):
    """Maps a box of inputs to [-2, 2]^dx, for layers with places or frequencies of their own. Inputs outside are fine.

    Args:
        dx: input size.
        domain: (low, high) of the inputs on every axis; None is [-2, 2] until `adapt` has seen some.

    Raises:
        ConfigError: an impossible domain.
    """

    def __init__(self, dx: int, domain: Sequence[float] | None = None):
        super().__init__()
        self.automatic = domain is None
        ends = (-2.0, 2.0) if domain is None else tuple(domain)
        if len(ends) != 2 or not -math.inf < ends[0] < ends[1] < math.inf:
            raise ConfigError(f"expected a domain (low, high) with low < high, got {ends}: correct it")
        self.register_buffer("centre", torch.full((dx,), sum(ends) / 2))
        self.register_buffer("unit", torch.full((dx,), (ends[1] - ends[0]) / 4))

    @torch.no_grad()
    def adapt(self, x: Float[Tensor, "n dx"]) -> None:
        """Takes the range of these inputs, where no domain was given."""
        if self.automatic and len(x):
            low, high = x.amin(0).to(self.centre), x.amax(0).to(self.centre)
            self.centre.copy_((low + high) / 2)
            self.unit.copy_(torch.where(high > low, (high - low) / 4, self.unit))

    def forward(self, x: Float[Tensor, "b n dx"]) -> Float[Tensor, "b n dx"]:
        """In the dtype of x."""
        return (x - self.centre.to(x.dtype)) / self.unit.to(x.dtype)
