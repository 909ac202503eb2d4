"""Trends: a family of straight lines, to be added to others."""

import torch
from jaxtyping import Float
from torch import Tensor

from datamodules.kernels import Kernel, Range, draw
from datamodules.settings import interval


class Linear(Kernel):
    """Straight lines through the origin, scale^2 x . x': a series that rises or falls, as a part of a `Sum`.

    A level of its own is the part of another family: `RBF` with a lengthscale far above the range of the inputs.

    Args:
        scale: range of the standard deviation of the slope, per unit of the inputs.
        log_uniform: draw it uniformly in its logarithm.
    """

    def __init__(self, scale: Range = (0.1, 1.0), log_uniform: bool = False):
        self.scale = interval("scale", scale, positive=True)
        self.log_uniform = log_uniform
        self.num_hyper = 1

    def covariance(
        self, u: Float[Tensor, "b k"], x1: Float[Tensor, "#b n dx"], x2: Float[Tensor, "#b m dx"]
    ) -> Float[Tensor, "b n m"]:
        (scale,) = draw(u, (self.scale,), self.log_uniform)
        return scale.square() * torch.matmul(x1, x2.mT)
