"""Families of functions that change their character from place to place."""

import torch
from jaxtyping import Float
from torch import Tensor

from datamodules.kernels import Kernel, Range, draw, members
from datamodules.settings import interval
from datamodules.waves import NUM_HYPER, wave


class Gibbs(Kernel):
    """Smooth functions whose lengthscale l(x) is itself a function of the inputs, drawn by each task.

    The covariance is scale^2 (2 l l' / (l^2 + l'^2))^(dx/2) exp(-d^2 / (l^2 + l'^2)), `RBF` where l is constant (Gibbs
    1997; Paciorek and Schervish 2004, in any dimension). The logarithm of l is a sine wave between two values of the
    task's own.

    Args:
        lengthscale: range, log-uniform at both ends of the wave, in units of the inputs.
        period: range of the wave's period, in units of the inputs, log-uniform.
        scale: range of the standard deviation.
    """

    num_hyper = NUM_HYPER + 1

    def __init__(self, lengthscale: Range = (0.1, 1.0), period: Range = (2.0, 8.0), scale: Range = (0.1, 1.0)):
        self.lengthscale = interval("lengthscale", lengthscale, positive=True)
        self.period = interval("period", period, positive=True)
        self.scale = interval("scale", scale, positive=True)

    def covariance(
        self, u: Float[Tensor, "b k"], x1: Float[Tensor, "#b n dx"], x2: Float[Tensor, "#b m dx"]
    ) -> Float[Tensor, "b n m"]:
        (scale,) = draw(u[:, NUM_HYPER:], (self.scale,), log_uniform=False)
        first = wave(u[:, :NUM_HYPER], x1, self.lengthscale, self.period)[:, :, None]
        second = wave(u[:, :NUM_HYPER], x2, self.lengthscale, self.period)[:, None, :]
        total = first.square() + second.square()
        square = (x1[:, :, None] - x2[:, None]).square().sum(-1)
        return scale.square() * (2 * first * second / total) ** (x1.shape[-1] / 2) * torch.exp(-square / total)


class ChangePoint(Kernel):
    """Functions that change from one family to another at a place that each task draws.

    The function is (1 - s) `before` + s `after`, with independent functions of both and s a sigmoid of the first input;
    with no width the change is a break, and what was before says nothing about what comes after (Saatci et al. 2010,
    Gaussian process change point models; the sigmoid after Lloyd et al. 2014, arXiv 1402.4304).

    Args:
        before: the family at low inputs.
        after: the family at high inputs; the same family starts afresh with hyperparameters of its own.
        location: range of the place, uniform.
        width: range of the width of the change, uniform; 0 for a break.

    Raises:
        ConfigError: the families differ in their number of outputs.
    """

    def __init__(self, before: Kernel, after: Kernel, location: Range = (-1.5, 1.5), width: Range = (0.0, 0.0)):
        members("ChangePoint", [before, after])
        self.before, self.after = before, after
        self.location = interval("location", location)
        self.width = interval("width", width, low=0.0)
        self.num_hyper = 2 + before.num_hyper + after.num_hyper
        self.num_outputs = before.num_outputs

    def covariance(
        self, u: Float[Tensor, "b k"], x1: Float[Tensor, "#b n dx"], x2: Float[Tensor, "#b m dx"]
    ) -> Float[Tensor, "b r s"]:
        own, before, after = u.split([2, self.before.num_hyper, self.after.num_hyper], 1)
        location, width = draw(own, (self.location, self.width), log_uniform=False)
        late = [torch.sigmoid((x[..., :1] - location) / width.clamp(min=1e-12)) for x in (x1, x2)]  # [b, n, 1]
        first, second = (s.repeat_interleave(self.num_outputs, 1) for s in late)
        second = second.mT
        return (1 - first) * (1 - second) * self.before.covariance(before, x1, x2) + first * second * (
            self.after.covariance(after, x1, x2)
        )
