"""A law of functions in which what matters for the targets was seen far away from them."""

import torch
from jaxtyping import Float
from torch import Tensor

from datamodules.kernels import Kernel, Range, draw
from datamodules.settings import interval
from npexp.errors import ConfigError


class FarFact(Kernel):
    """Step functions that owe their last step to the first: levels `far`, `near` and `far` + `near`, one after another.

    Both levels are normal with mean zero and the same standard deviation. With the context left of `echo` and the
    targets right of it, the points next to a target tell it `near` and nothing of `far`, which stands to the left of
    `edge` only. Whoever reads no further than the points between predicts with the whole variance of `far`. The
    first coordinate of x decides.

    Args:
        edge: where the first step ends.
        echo: where the last one begins.
        scale: range of the standard deviation of a level.
        log_uniform: draw the range uniformly in its logarithm.

    Raises:
        ConfigError: the steps are not in this order.
    """

    def __init__(self, edge: float = -1.5, echo: float = 1.0, scale: Range = (1.0, 1.0), log_uniform: bool = False):
        if not edge < echo:
            raise ConfigError(f"expected edge < echo, got {edge} and {echo}: let the far step end before its echo")
        self.edge, self.echo = edge, echo
        self.scale = interval("scale", scale, positive=True)
        self.log_uniform = log_uniform
        self.num_hyper = 1

    def covariance(
        self, u: Float[Tensor, "b k"], x1: Float[Tensor, "#b n dx"], x2: Float[Tensor, "#b m dx"]
    ) -> Float[Tensor, "b n m"]:
        (scale,) = draw(u, (self.scale,), self.log_uniform)
        return scale.square() * (self._levels(x1) @ self._levels(x2).mT)

    def _levels(self, x: Float[Tensor, "b n dx"]) -> Float[Tensor, "b n 2"]:
        """Which levels each point is the sum of: far, near."""
        first = x[..., 0]
        return torch.stack([(first <= self.edge) | (first > self.echo), first > self.edge], -1).to(x)
