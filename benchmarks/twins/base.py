"""What twins are made of: copies of our weights in plain modules."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from npexp.batch import TaskBatch
from npexp.models.base import NeuralProcess


class Twin(nn.Module, ABC):
    """A model as released: context and targets in, normal outputs out, and its own training loss.

    Args:
        model: ours, whose weights are copied.
    """

    def __init__(self, model: NeuralProcess):
        super().__init__()
        self.predictor = mlp(model.head.network)
        self.floor, self.scale = model.head.likelihood.min_stddev, model.head.likelihood.scale

    @abstractmethod
    def forward(self, xc: Tensor, yc: Tensor, xt: Tensor) -> Normal:
        """The law of each target alone, `[b, nt, dy]`."""

    def loss(self, batch: TaskBatch) -> Tensor:
        """Minus the log-likelihood of a target, averaged."""
        return -self(batch.xc, batch.yc, batch.xt).log_prob(batch.yt).sum(-1).mean()

    def law(self, features: Tensor) -> Normal:
        """From features `[..., nt, dz]`."""
        mean, raw = self.predictor(features).chunk(2, -1)
        if self.scale == "exp":
            return Normal(mean, self.floor + raw.exp())
        return Normal(mean, self.floor + (1 - self.floor) * nn.functional.softplus(raw))


def linear(*ours: nn.Linear) -> nn.Linear:
    """A copy; of several, one map that computes all of their outputs."""
    made = nn.Linear(ours[0].in_features, sum(m.out_features for m in ours), bias=ours[0].bias is not None)
    made.weight.data = torch.cat([m.weight.data for m in ours])
    if made.bias is not None:
        made.bias.data = torch.cat([m.bias.data for m in ours])
    return made


def mlp(ours: nn.Module) -> nn.Sequential:
    """The linear maps of a network with ReLUs in between."""
    layers: list[nn.Module] = []
    for m in ours.modules():
        if isinstance(m, nn.Linear):
            layers += [linear(m), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers[:-1])


def norm(ours: nn.LayerNorm) -> nn.LayerNorm:
    """A copy."""
    made = nn.LayerNorm(ours.normalized_shape, ours.eps)
    made.weight.data, made.bias.data = ours.weight.data.clone(), ours.bias.data.clone()
    return made


def expand(latents: Tensor, b: int) -> Tensor:
    """Latents `[m, dz]` of every task, `[b, m, dz]`, each with memory of its own."""
    return latents.repeat(b, 1, 1)
