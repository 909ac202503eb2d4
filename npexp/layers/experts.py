"""Predictions of a bank of normal experts at each target."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Experts(NamedTuple):
    """Normal predictions of k experts for each output, and how much to believe them.

    Args:
        logits: unnormalised, `[b, 1, dy, k]`, or `[b, n, dy, k]` once each target has its own.
        means: `[b, n, dy, k]`.
        log_stddevs: `[b, n, dy, k]`.
        log_scales: logs of their noise, widened by their misfit, `[b, 1, dy, k]`.
        rows: of a factor of the covariance of targets in units of the noise, the same for all outputs,
            `[b, k, n, m]`; None where nobody asked.
        mean: of the mixture, `[b, n, dy]`.
        log_stddev: of the mixture, `[b, n, dy]`.
    """

    logits: Tensor
    means: Tensor
    log_stddevs: Tensor
    log_scales: Tensor
    rows: Tensor | None
    mean: Tensor
    log_stddev: Tensor

    @classmethod
    def weigh(
        cls, logits: Tensor, means: Tensor, log_stddevs: Tensor, log_scales: Tensor, rows: Tensor | None
    ) -> "Experts":
        """Experts with the moments of their mixture."""
        weight = logits.softmax(-1)
        mean = (weight * means).sum(-1)
        variance = (weight * ((2 * log_stddevs).exp() + (means - mean[..., None]).square())).sum(-1)
        return cls(logits, means, log_stddevs, log_scales, rows, mean, 0.5 * variance.log())

    def reweighed(self, gates: Float[Tensor, "b n dy k"]) -> "Experts":
        """The same with weights of each target's own."""
        return self.weigh(self.logits + gates, self.means, self.log_stddevs, self.log_scales, self.rows)


class ExpertTokens(nn.Module):
    """Experts' predictions as tokens, relative to their mixture: `[b, n, dz]`."""

    def __init__(self, dy: int, num_heads: int, dz: int):
        super().__init__()
        self.embed = nn.Linear(2 * dy * (num_heads + 1), dz)

    def forward(self, experts: Experts) -> Float[Tensor, "b n dz"]:
        """O(n k dz)."""
        mean, log_stddev = experts.mean[..., None], experts.log_stddev[..., None]
        away = ((experts.means - mean) / log_stddev.exp()).clamp(-8, 8)
        told = torch.cat([away, experts.log_stddevs - log_stddev, mean, log_stddev], -1)
        return self.embed(told.flatten(2).to(self.embed.weight.dtype))
