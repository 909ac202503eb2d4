"""Heads that correct what a bank of normal experts predicts, instead of predicting from nothing."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from npexp.errors import ConfigError, UnknownNameError
from npexp.layers.experts import Experts
from npexp.layers.mlp import mlp, zero_end
from npexp.likelihoods.base import Likelihood
from npexp.likelihoods.gaussian import DiagonalGaussian, check_floor
from npexp.likelihoods.lowrank import LowRankGaussian
from npexp.likelihoods.mixture import SetMixture
from npexp.likelihoods.normals import NormalMixture

Law = Literal["mixture", "anchored", "joint"]


class ExpertHead(nn.Module):
    """A network over targets whose last layer starts at zero: corrections of 0 to what the experts say.

    Args:
        dz: width of the features.
        dim_hidden: width of the hidden layer.
        dy: output size.
        num_experts: k.
        min_stddev: added to every standard deviation, in units of y.

    Attributes:
        joint: whether the law is.
        own: numbers that the network gives per output, beside a gate per expert where it is `gated`.
    """

    joint = False
    own: int
    gated = True

    def __init__(self, dz: int, dim_hidden: int, dy: int, num_experts: int, min_stddev: float):
        super().__init__()
        self.dy, self.min_stddev = dy, check_floor("min_stddev", min_stddev)
        self.norm = nn.LayerNorm(dz)
        self.network = zero_end(mlp(dz, dim_hidden, dy * (self.own + self.gated * num_experts), 2, "gelu"))

    def corrections(self, h: Float[Tensor, "b n dz"]) -> Float[Tensor, "b n dy c"]:
        """Float32 or better from here on."""
        found = self.network(self.norm(h)).unflatten(-1, (self.dy, -1))
        return found.to(torch.promote_types(found.dtype, torch.float32))


class MixtureHead(ExpertHead):
    """A mixture of the experts and of one free normal, with weights of each target's own.

    The free normal starts at the experts' moments, with a weight of 0.27.
    """

    own = 3

    def forward(self, h: Float[Tensor, "b n dz"], experts: Experts) -> NormalMixture:
        """Features of the targets and what the experts say, to a factorised law."""
        shift, scale, weight, gates = self.corrections(h).split([1, 1, 1, experts.means.shape[-1]], -1)
        known = (experts.logits + gates).log_softmax(-1)
        mean = experts.mean[..., None] + experts.log_stddev[..., None].exp() * shift
        log_weights = torch.cat([known, weight - 1.0], -1).log_softmax(-1)
        log_stddevs = torch.cat([experts.log_stddevs, experts.log_stddev[..., None] + scale], -1)
        return NormalMixture(log_weights, torch.cat([experts.means, mean], -1), self.min_stddev + log_stddevs.exp())


class AnchoredHead(ExpertHead):
    """One normal around the moments of the experts' mixture."""

    own = 2

    def forward(self, h: Float[Tensor, "b n dz"], experts: Experts) -> DiagonalGaussian:
        """Features of the targets and what the experts say, to a factorised law."""
        shift, scale, gates = self.corrections(h).split([1, 1, experts.means.shape[-1]], -1)
        experts = experts.reweighed(gates)
        mean = experts.mean + experts.log_stddev.exp() * shift[..., 0]
        return DiagonalGaussian(mean, self.min_stddev + (experts.log_stddev + scale[..., 0]).exp())


class JointHead(ExpertHead):
    """A mixture over whole sets of the experts' joint normal laws.

    Every expert is a linear regression, whose posterior makes targets jointly normal. The network shifts means and
    stretches noise and covariance of each target, which keeps the law consistent; weights are the set's. Outputs of a
    target depend on each other through the choice of the expert only.
    """

    joint = True
    own = 3
    gated = False

    def forward(self, h: Float[Tensor, "b n dz"], experts: Experts) -> SetMixture:
        """Features of the targets and what the experts say, to a joint law; the density takes O(k m^2) per target."""
        shift, stretch, noise = self.corrections(h).unbind(-1)  # [b, n, dy]
        means = (experts.means + (experts.log_stddev.exp() * shift)[..., None]).movedim(-1, 0)  # [k, b, n, dy]
        scale = experts.log_scales.exp().movedim(-1, 0)  # [k, b, 1, dy]
        factor = (scale * stretch.exp())[..., None] * experts.rows.movedim(1, 0)[:, :, :, None]
        law = LowRankGaussian(means, factor, self.min_stddev + scale * noise.exp(), across=False)
        return SetMixture(law, experts.logits[:, 0, 0].log_softmax(-1).mT)


HEADS: dict[str, type[ExpertHead]] = {"mixture": MixtureHead, "anchored": AnchoredHead, "joint": JointHead}


def check_law(law: str, likelihood: Likelihood | None) -> None:
    """Raises where a law is unknown, or is asked for beside a likelihood that takes its place."""
    if law not in HEADS:
        raise UnknownNameError("law", law, HEADS)
    if likelihood is not None and law != "mixture":
        raise ConfigError(f"a likelihood takes the place of the experts' law: give it, or law '{law}', not both")


def expert_head(
    law: Law, dz: int, dim_hidden: int, dy: int, num_experts: int, min_stddev: float, shared: bool
) -> ExpertHead:
    """The head of this name.

    Args:
        law: the name.
        dz: width of the features.
        dim_hidden: width of the hidden layer.
        dy: output size.
        num_experts: k.
        min_stddev: floor on standard deviations, in units of y.
        shared: whether outputs share the experts' weights, which a joint law needs.

    Raises:
        ConfigError: a joint law of outputs that are weighed apart.
    """
    if HEADS[law].joint and not shared and dy > 1:
        raise ConfigError("law 'joint' chooses one expert for all outputs: set shared_noise to True")
    return HEADS[law](dz, dim_hidden, dy, num_experts, min_stddev)
