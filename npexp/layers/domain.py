"""Where the inputs lie: the one place that knows their scale."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from npexp.errors import ConfigError, DataError

SLACK = 5e-4  # to which inputs must be known, in units of a quarter of the domain, where there are no other bounds
BEYOND = 0.75  # how far inputs may lie outside [-2, 2]: from 0.75 on, periodic features take one end for the other


class Domain(nn.Module):
    """Maps a box of inputs to [-2, 2]^dx, for layers with places or frequencies of their own.

    Args:
        dx: input size.
        domain: (low, high) of the inputs on every axis; None is [-2, 2] until `adapt` has seen some.
        bounded: whether inputs far outside are refused; where only differences matter (False) they may lie anywhere as
            long as their dtype tells them apart: within a thousand widths in float32.

    Raises:
        ConfigError: an impossible domain.
    """

    def __init__(self, dx: int, domain: Sequence[float] | None = None, bounded: bool = True):
        super().__init__()
        self.bounded = bounded
        try:
            low, high = (-2.0, 2.0) if domain is None else map(float, domain)
        except (TypeError, ValueError):
            low, high = math.nan, math.nan
        if not -math.inf < low < high < math.inf:
            raise ConfigError(f"expected a domain (low, high) of numbers with low < high, got {domain}: correct it")
        self.register_buffer("centre", torch.full((dx,), (low + high) / 2))
        self.register_buffer("unit", torch.full((dx,), (high - low) / 4))
        self.register_buffer("known", torch.tensor(domain is not None))

    @torch.no_grad()
    def adapt(self, x: Float[Tensor, "n dx"]) -> None:
        """Takes the range of these inputs, where no domain was given and none was taken before."""
        if not bool(self.known) and len(x):
            low, high = x.amin(0).to(self.centre), x.amax(0).to(self.centre)
            self.centre.copy_((low + high) / 2)
            self.unit.copy_(torch.where(high > low, (high - low) / 4, self.unit))
            self.known.fill_(True)

    def forward(
        self, kind: str, x: Float[Tensor, "b n dx"], mask: Bool[Tensor, "b n"] | None = None
    ) -> Float[Tensor, "b n dx"]:
        """The inputs in units of the domain, in the dtype of x; padding may lie anywhere.

        Raises:
            DataError: an input too far outside.
        """
        scaled = (x - self.centre.to(x.dtype)) / self.unit.to(x.dtype)
        if torch.compiler.is_exporting():  # a graph cannot look
            return scaled
        outside = scaled.detach().abs() > (2 + BEYOND if self.bounded else SLACK / torch.finfo(x.dtype).eps)
        if mask is not None:
            outside = outside & mask[..., None]
        if bool(outside.any()):
            found, axis = float(x[outside][0]), int(outside.nonzero()[0, 2])
            ends = [float(self.centre[axis] + side * self.unit[axis]) for side in (-2, 2)]
            if not self.bounded:
                raise DataError(
                    f"{kind} x = {found:g} lies so far from the domain [{ends[0]:g}, {ends[1]:g}] that {x.dtype} "
                    "rounds it too much: subtract an origin from all inputs, or use a model in float64"
                )
            raise DataError(
                f"{kind} x = {found:g} lies far outside the domain [{ends[0]:g}, {ends[1]:g}], where this model knows "
                "nothing: build it with domain=(low, high) of all inputs, or train it on them"
            )
        return scaled
