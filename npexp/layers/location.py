"""Learned places in the input space for latent tokens."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import softplus

from npexp.errors import positive
from npexp.layers.mlp import mlp


def spread(m: int, dx: int, reach: float) -> Float[Tensor, "m dx"]:
    """m places that cover [-reach, reach]^dx evenly: a Sobol sequence, the same in every call.

    Raises:
        ConfigError: a reach that is not a positive number.
    """
    positive("location_range", reach)
    return reach * (2 * torch.quasirandom.SobolEngine(dx, scramble=True, seed=0).draw(m) - 1)


class Locations(nn.Module):
    """Places of m latents, which draw each head's attention to nearby points.

    Args:
        m: number of latents.
        dx: size of the inputs.
        dz: width of the tokens.
        num_heads: heads; each learns its own reach.
        reach: places start spread over [-reach, reach]^dx.
    """

    def __init__(self, m: int, dx: int, dz: int, num_heads: int, reach: float):
        super().__init__()
        self.x = nn.Parameter(spread(m, dx, reach))
        # heads start with widths from the whole box down to the spacing of the places
        width = reach * torch.logspace(0, -1, num_heads)
        scale = 0.5 / width.square()
        self.raw = nn.Parameter(scale + (-(-scale).expm1()).log())  # the inverse of softplus
        self.encode = mlp(dx, dz, dz, 2, "gelu")

    def bias(self, x: Float[Tensor, "b n dx"]) -> Float[Tensor, "b h m n"]:
        """Minus half the squared distance in units of each head's width, to be added to logits."""
        distance = (self.x[:, None] - x[:, None]).square().sum(-1)  # [b, m, n]
        return -softplus(self.raw)[:, None, None] * distance[:, None]

    @property
    def width(self) -> Float[Tensor, " h"]:
        """Of each head: a distance at which the bias is -1/2."""
        return (2 * softplus(self.raw)).rsqrt()

    def code(self) -> Float[Tensor, "m dz"]:
        """An embedding of each place, to be added to its latent."""
        return self.encode(self.x)
