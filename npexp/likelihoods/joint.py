"""Laws under which all outputs of a task are jointly normal, and the heads in which targets see each other."""

from abc import abstractmethod

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from npexp.errors import at_least
from npexp.layers.attention import Attention, check_heads
from npexp.layers.mlp import Features, FeedForward, mlp, whole
from npexp.likelihoods.base import Head, Likelihood, Predictive
from npexp.likelihoods.gaussian import DiagonalGaussian
from npexp.ops.gaussian import full_precision


class JointGaussian(Predictive):
    """A normal law of all nt dy outputs of a task; each output alone is normal, so its scores are closed forms."""

    @property
    def outputs(self) -> DiagonalGaussian:
        """The law of each output alone."""
        return DiagonalGaussian(self.mean, self.stddev)

    def cdf(self, y: Float[Tensor, "... b nt dy"]) -> Float[Tensor, "... b nt dy"]:
        """Normal distribution function."""
        return self.outputs.cdf(y)

    def icdf(self, level: Float[Tensor, "... b nt dy"]) -> Float[Tensor, "... b nt dy"]:
        """Closed form."""
        return self.outputs.icdf(level)

    def crps(self, y: Float[Tensor, "b nt dy"]) -> Float[Tensor, "b nt dy"]:
        """Closed form."""
        return self.outputs.crps(y)


class Relational(Likelihood):
    """A joint normal law whose covariance comes from attention among the targets (TNP-ND, arXiv 2207.04179).

    A network gives each target its mean, from that target alone. Another branch, self-attention layers over the real
    targets and a projector, gives what the covariance is made of. Time O(nt^2) beyond the law's own. The law of a
    target thus depends on which others are asked for: predict targets together or not at all.

    Args:
        rank: width of the projector's output for each output of a target.
        num_layers: self-attention layers, in PyTorch's default wiring: post-norm, ReLU, biases everywhere.
        num_heads: heads of each.
        dim_feedforward: hidden width of their feed-forward networks.
        dim: width of the layers; None is that of the model's features, rounded up to a multiple of num_heads. Where
            the two differ a linear map leads from one to the other.
        depth: linear layers of the projector.
        dim_hidden: hidden width of the projector; None is that of the model's head.
    """

    joint = True
    consistent = False

    def __init__(
        self,
        rank: int,
        num_layers: int,
        num_heads: int,
        dim_feedforward: int,
        dim: int | None,
        depth: int,
        dim_hidden: int | None,
    ):
        super().__init__()
        self.rank = at_least("rank", rank, 1)
        self.num_layers, self.num_heads = at_least("num_layers", num_layers, 1), at_least("num_heads", num_heads, 1)
        self.dim_feedforward = at_least("dim_feedforward", dim_feedforward, 1)
        self.depth = at_least("depth", depth, 1)
        self.dim_hidden = None if dim_hidden is None else at_least("dim_hidden", dim_hidden, 1)
        self.dim = dim
        if dim is not None:
            check_heads(dim, num_heads)

    @abstractmethod
    def forward(
        self, features: Float[Tensor, "*s b nt f"], mask_t: Bool[Tensor, "b nt"] | None = None
    ) -> JointGaussian:
        """Means, then what the covariance is made of; padded targets become independent of all others."""

    def head(self, dim_in: int, dim_hidden: int, dy: int, depth: int) -> "RelationalHead":
        """The mean's network, of `depth` layers, and the covariance's branch."""
        dim = self.dim or -(-dim_in // self.num_heads) * self.num_heads
        attention = TargetAttention(dim_in, dim, self.num_layers, self.num_heads, self.dim_feedforward)
        projector = mlp(dim, self.dim_hidden or dim_hidden, self.num_features(dy) - dy, self.depth)
        return RelationalHead(self, mlp(dim_in, dim_hidden, dy, depth), attention, projector)


class RelationalHead(Head):
    """Two branches: the mean from each target alone, the covariance's features from all targets together.

    Args:
        likelihood: the family.
        network: the mean, `[*s, b, nt, dim_in]` to `[*s, b, nt, dy]`.
        attention: `[*s, b, nt, dim_in]` to `[*s, b, nt, dim]`.
        projector: `[*s, b, nt, dim]` to `[*s, b, nt, f - dy]`.
    """

    def __init__(self, likelihood: Relational, network: nn.Module, attention: nn.Module, projector: nn.Module):
        super().__init__(likelihood, network)
        self.attention, self.projector = attention, projector

    def forward(self, h: Features, mask_t: Bool[Tensor, "b nt"] | None = None) -> JointGaussian:
        """The joint law at the real targets, in float32 or better."""
        h = whole(h)
        features = torch.cat([self.network(h), self.projector(self.attention(h, mask_t))], -1)
        with full_precision(h):
            return self.likelihood(features.to(torch.promote_types(features.dtype, torch.float32)), mask_t)


class TargetAttention(nn.Module):
    """Self-attention among targets in PyTorch's default wiring: post-norm, ReLU, biases everywhere. O(nt^2).

    Args:
        dim_in: width of the features.
        dim: width of the layers.
        num_layers: layers.
        num_heads: heads of each.
        dim_feedforward: hidden width of their feed-forward networks.
    """

    def __init__(self, dim_in: int, dim: int, num_layers: int, num_heads: int, dim_feedforward: int):
        super().__init__()
        self.entry = nn.Identity() if dim == dim_in else nn.Linear(dim_in, dim)
        self.blocks = nn.ModuleList(PostNormBlock(dim, num_heads, dim_feedforward) for _ in range(num_layers))

    def forward(
        self, h: Float[Tensor, "*s b nt dz"], mask_t: Bool[Tensor, "b nt"] | None = None
    ) -> Float[Tensor, "*s b nt dim"]:
        """Real targets read each other; nobody reads padded ones."""
        rows = self.entry(h).flatten(0, -3)
        mask = None if mask_t is None else mask_t.expand(h.shape[:-1]).flatten(0, -2)
        for block in self.blocks:
            rows = block(rows, mask)
        return rows.unflatten(0, h.shape[:-2])


class PostNormBlock(nn.Module):
    """LN(h + A(h)), then LN(h + FF(h)) (Vaswani et al. 2017)."""

    def __init__(self, dim: int, num_heads: int, dim_feedforward: int):
        super().__init__()
        self.attention = Attention(dim, num_heads, bias=True)
        self.norm, self.norm_ff = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.ff = FeedForward(dim, dim_feedforward, "relu")

    def forward(self, h: Float[Tensor, "b n dz"], mask: Bool[Tensor, "b n"] | None) -> Float[Tensor, "b n dz"]:
        """O(n^2 dz)."""
        h = self.norm(h + self.attention(h, self.attention.project(h, mask)))
        return self.norm_ff(h + self.ff(h))
