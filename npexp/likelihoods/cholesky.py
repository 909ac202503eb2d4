"""A full covariance by its Cholesky factor: the head of TNP-ND."""

from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from npexp.errors import UnknownNameError
from npexp.likelihoods.base import check_outputs, hide_padding, standard_normal
from npexp.likelihoods.gaussian import check_floor
from npexp.likelihoods.joint import JointGaussian, Relational
from npexp.ops.gaussian import full_precision, lower_factor, triangular_log_prob
from npexp.ops.normal import LOG_SQRT_2PI

Diagonal = Literal["linear", "tanh"]


class CholeskyGaussian(JointGaussian):
    """The normal law with covariance L L^T over all n = nt dy outputs of a task, a target's outputs side by side.

    Args:
        mean: `[*s, b, nt, dy]`.
        factor: the rows of L, `[*s, b, nt, dy, n]`; lower-triangular, no zero on the diagonal.
        mask_t: targets that the law is about, `[b, nt]`, or None for all; rows and columns of L that belong to others
            are those of the identity.
    """

    def __init__(
        self,
        mean: Float[Tensor, "*s b nt dy"],
        factor: Float[Tensor, "*s b nt dy n"],
        mask_t: Bool[Tensor, "b nt"] | None = None,
    ):
        self._mean, self.factor = mean, factor
        self.real = None if mask_t is None else mask_t.expand(mean.shape[:-1])

    @property
    def mean(self) -> Float[Tensor, "*s b nt dy"]:
        """Mean of each output."""
        return self._mean

    @property
    def stddev(self) -> Float[Tensor, "*s b nt dy"]:
        """Lengths of L's rows."""
        return self.factor.square().sum(-1).sqrt()

    def joint_log_prob(
        self, yt: Float[Tensor, "b nt dy"], mask_t: Bool[Tensor, "b nt"] | None = None
    ) -> Float[Tensor, "*s b"]:
        """Joint log density of the real targets: O(n^2); O(n^3) for a mask other than the law was made with."""
        check_outputs(yt, self._mean, mask_t)
        residual = (hide_padding(yt, self._mean, mask_t) - self._mean).flatten(-2)
        factor = self.factor.flatten(-3, -2)
        if mask_t is None:
            return triangular_log_prob(residual, factor)
        real = mask_t[..., None].expand(self._mean.shape).flatten(-2)
        if self.real is None or not torch.equal(self.real, mask_t.expand_as(self.real)):
            # the law of some of the targets: their rows of L, beside rows of the identity in columns of their own
            factor = torch.where(real[..., None], factor, torch.zeros_like(factor))
            factor = lower_factor(torch.cat([factor, torch.diag_embed((~real).to(factor))], -1))
        # padded slots are independent with residual 0 and variance 1: each adds a constant
        return triangular_log_prob(residual, factor) + LOG_SQRT_2PI * (~real).sum(-1).to(factor)

    def marginal_log_prob(self, yt: Float[Tensor, "b nt dy"]) -> Float[Tensor, "*s b nt"]:
        """Log density of each target alone, its outputs jointly: O(nt n dy^2)."""
        check_outputs(yt, self._mean)
        if yt.shape[-1] == 1 or yt.shape[-2] == 0:
            return self.outputs.log_density(yt).sum(-1)
        return triangular_log_prob(yt - self._mean, lower_factor(self.factor))

    def sample(self, n: int, seed: int | None = None) -> Float[Tensor, "n *s b nt dy"]:
        """Coherent draws, O(n^2) each in the number n of outputs."""
        noise = standard_normal(n, self._mean, seed).flatten(-2).movedim(0, -1)  # [*s, b, nt dy, n]
        with full_precision(noise):
            draws = self.factor.flatten(-3, -2) @ noise
        return self._mean + draws.movedim(-1, 0).unflatten(-1, self._mean.shape[-2:])


class Cholesky(Relational):
    """The most flexible joint law for few targets (TNP-ND: Nguyen & Grover 2022, arXiv 2207.04179).

    L is the lower triangle of H H^T, where H has a row of `rank` numbers for each output of each target, made by
    attention among the targets. Time O(nt^2) and memory O((nt dy)^2); the law depends on the order of the targets and
    on which others are asked for. Beyond a few hundred targets, or for consistent predictions, use `LowRank`.

    L's diagonal, |h|^2 as published, is each output's standard deviation given all that come before it. Nothing keeps
    it from 0, and the density from overflowing: with `min_stddev=0` training may end in NaN. Nor does "tanh" bound what
    is left of the diagonal: under large rows the inverse of L grows exponentially in the number of targets.

    Args:
        rank: columns of H.
        min_stddev: floor f on L's diagonal, in units of y; 0 is the published wiring outside EMNIST, where it is 0.05.
        diagonal: "linear" gives f + |h|^2, "tanh" the bounded f + (1 - f) tanh |h|^2 (published on EMNIST).
        num_layers: self-attention layers.
        num_heads: heads of each.
        dim_feedforward: hidden width of their feed-forward networks.
        dim: width of the layers; None is that of the model's features, rounded up to a multiple of num_heads.
        depth: linear layers of the projector.
        dim_hidden: hidden width of the projector; None is that of the model's head.
    """

    def __init__(
        self,
        rank: int = 20,
        min_stddev: float = 0.01,
        diagonal: Diagonal = "linear",
        num_layers: int = 2,
        num_heads: int = 4,
        dim_feedforward: int = 128,
        dim: int | None = None,
        depth: int = 4,
        dim_hidden: int | None = None,
    ):
        super().__init__(rank, num_layers, num_heads, dim_feedforward, dim, depth, dim_hidden)
        if diagonal not in get_args(Diagonal):
            raise UnknownNameError("diagonal", diagonal, get_args(Diagonal))
        self.min_stddev, self.diagonal = check_floor("min_stddev", min_stddev), diagonal

    def num_features(self, dy: int) -> int:
        """Mean and a row of H for each output: (1 + rank) dy."""
        return (1 + self.rank) * dy

    def forward(
        self, features: Float[Tensor, "*s b nt f"], mask_t: Bool[Tensor, "b nt"] | None = None
    ) -> CholeskyGaussian:
        """`[*s, b, nt, (1 + rank) dy]` to a joint law of the real targets; padded ones are standard normal."""
        dy = features.shape[-1] // (1 + self.rank)
        mean, rows = features.split([dy, self.rank * dy], -1)
        rows = rows.unflatten(-1, (dy, self.rank))
        if mask_t is not None:
            rows = torch.where(mask_t[..., None, None], rows, torch.zeros_like(rows))
        h = rows.flatten(-3, -2)
        gram = h @ h.mT
        scale = gram.diagonal(dim1=-2, dim2=-1)
        if self.diagonal == "tanh":
            scale = (1 - self.min_stddev) * scale.tanh()
        scale = self.min_stddev + scale
        if mask_t is not None:
            scale = torch.where(mask_t[..., None].expand(mean.shape).flatten(-2), scale, torch.ones_like(scale))
        factor = gram.tril(-1) + torch.diag_embed(scale)
        return CholeskyGaussian(mean, factor.unflatten(-2, mean.shape[-2:]), mask_t)
