"""Positive functions of the inputs that each task draws: how noise or a lengthscale changes from place to place."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from datamodules.kernels import Range, draw

NUM_HYPER = 4  # uniform numbers that `wave` consumes per task


def wave(u: Float[Tensor, "b 4"], x: Float[Tensor, "#b n dx"], values: Range, period: Range) -> Float[Tensor, "b n"]:
    """A sine wave in the logarithm, between two values of each task's own; in several dimensions their mean wave.

    Args:
        u: what each task's wave is made from, in [0, 1]: both values, period and phase.
        x: points.
        values: range that both ends of the wave are drawn from, uniformly in the logarithm.
        period: range, in units of the inputs, uniform in the logarithm.
    """
    first, second, length = (v[..., 0] for v in draw(u[:, :3], (values, values, period), log_uniform=True))  # [b, 1]
    share = (1 + torch.sin(2 * math.pi * (x / length[..., None] + u[:, 3:, None])).mean(-1)) / 2  # [b, n]
    return first * (second / first) ** share
