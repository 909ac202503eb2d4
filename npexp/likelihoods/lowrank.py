"""Low rank plus diagonal: a joint normal law at a cost linear in the targets."""

from jaxtyping import Bool, Float
from torch import Tensor

from npexp.errors import at_least
from npexp.likelihoods.base import Likelihood, check_outputs, hide_padding, standard_normal
from npexp.likelihoods.gaussian import check_floor, positive
from npexp.likelihoods.joint import JointGaussian, Relational
from npexp.likelihoods.noise import stream
from npexp.ops.gaussian import full_precision, low_rank_log_prob


class LowRankGaussian(JointGaussian):
    """The normal law with covariance H H^T + diag(noise)^2 over all nt dy outputs of a task.

    Args:
        mean: `[*s, b, nt, dy]`.
        factor: H, `[*s, b, nt, dy, r]`.
        noise: standard deviation of what is each output's own, `[*s, b, nt, dy]`, positive.
        across: whether outputs of one channel depend on those of another; False makes dy laws of nt outputs each.
    """

    def __init__(
        self,
        mean: Float[Tensor, "*s b nt dy"],
        factor: Float[Tensor, "*s b nt dy r"],
        noise: Float[Tensor, "*s b nt dy"],
        across: bool = True,
    ):
        self._mean, self.factor, self.noise, self.across = mean, factor, noise, across

    @property
    def mean(self) -> Float[Tensor, "*s b nt dy"]:
        """Mean of each output."""
        return self._mean

    @property
    def stddev(self) -> Float[Tensor, "*s b nt dy"]:
        """Root of the covariance's diagonal."""
        return (self.factor.square().sum(-1) + self.noise.square()).sqrt()

    def joint_log_prob(
        self, yt: Float[Tensor, "b nt dy"], mask_t: Bool[Tensor, "b nt"] | None = None
    ) -> Float[Tensor, "*s b"]:
        """Joint log density of the real targets: time O(nt dy r^2), memory O(nt dy r)."""
        check_outputs(yt, self._mean, mask_t)
        residual = hide_padding(yt, self._mean, mask_t) - self._mean
        if not self.across:
            factor, noise = self.factor.movedim(-2, 0), self.noise.movedim(-1, 0)
            return low_rank_log_prob(residual.movedim(-1, 0), factor, noise, mask_t).sum(0)
        mask = None if mask_t is None else mask_t[..., None].expand_as(residual).flatten(-2)
        return low_rank_log_prob(residual.flatten(-2), self.factor.flatten(-3, -2), self.noise.flatten(-2), mask)

    def marginal_log_prob(self, yt: Float[Tensor, "b nt dy"]) -> Float[Tensor, "*s b nt"]:
        """Log density of each target alone, its outputs jointly."""
        check_outputs(yt, self._mean)
        if not self.across:
            return self.outputs.marginal_log_prob(yt)
        return low_rank_log_prob(yt - self._mean, self.factor, self.noise)

    def sample(self, n: int, seed: int | None = None) -> Float[Tensor, "n *s b nt dy"]:
        """Coherent draws: O(nt dy r) each."""
        *s, b, _, dy, r = self.factor.shape
        own = self.noise * standard_normal(n, self._mean, seed)
        channels = 1 if self.across else dy
        common = standard_normal(
            n, self._mean.new_zeros(*s, b, channels, r), stream(seed, 1)
        )  # [n, *s, b, channels, r]
        with full_precision(own):
            if not self.across:
                shared = self.factor.movedim(-2, -3) @ common[..., None]  # [n, *s, b, dy, nt, 1]
                return self._mean + own + shared[..., 0].mT
            shared = self.factor.flatten(-3, -2) @ common.mT  # [n, *s, b, nt dy, 1]
        return self._mean + own + shared.unflatten(-2, self._mean.shape[-2:])[..., 0]


class LowRank(Likelihood):
    """Coherent functions at linear cost: every target's features give it a mean, a row of H and noise of its own.

    Targets do not see each other, so the law is consistent: that of some targets is the same whichever others are asked
    for (Markou et al. 2022, arXiv 2203.08775; Bruinsma et al. 2021, arXiv 2101.03606). Use it before `Cholesky`, unless
    nt is small and the covariance has more than `rank` directions.

    Args:
        rank: columns of H.
        min_stddev: floor on the noise, in units of y.
    """

    joint = True

    def __init__(self, rank: int = 16, min_stddev: float = 0.01):
        super().__init__()
        self.rank, self.min_stddev = at_least("rank", rank, 1), check_floor("min_stddev", min_stddev)

    def num_features(self, dy: int) -> int:
        """Mean, raw noise and a row of H for each output: (2 + rank) dy."""
        return (2 + self.rank) * dy

    def forward(self, features: Float[Tensor, "*s b nt f"]) -> LowRankGaussian:
        """`[*s, b, nt, (2 + rank) dy]` to a joint law."""
        return _law(features, self.rank, self.min_stddev)


class RelationalLowRank(Relational):
    """As `LowRank`, with rows of H and noise from attention among the targets: TNP-ND's low-rank option.

    Time O(nt^2) for the attention, O(nt r^2) for the density. The published noise has no floor and variance exp(raw).

    Args:
        rank: columns of H.
        min_stddev: floor on the noise, in units of y.
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
        num_layers: int = 2,
        num_heads: int = 4,
        dim_feedforward: int = 128,
        dim: int | None = None,
        depth: int = 4,
        dim_hidden: int | None = None,
    ):
        super().__init__(rank, num_layers, num_heads, dim_feedforward, dim, depth, dim_hidden)
        self.min_stddev = check_floor("min_stddev", min_stddev)

    def num_features(self, dy: int) -> int:
        """Mean, raw noise and a row of H for each output: (2 + rank) dy."""
        return (2 + self.rank) * dy

    def forward(
        self, features: Float[Tensor, "*s b nt f"], mask_t: Bool[Tensor, "b nt"] | None = None
    ) -> LowRankGaussian:
        """`[*s, b, nt, (2 + rank) dy]` to a joint law; its density leaves padded targets out."""
        return _law(features, self.rank, self.min_stddev)


def _law(features: Tensor, rank: int, min_stddev: float) -> LowRankGaussian:
    dy = features.shape[-1] // (2 + rank)
    mean, raw, rows = features.split([dy, dy, rank * dy], -1)
    return LowRankGaussian(mean, rows.unflatten(-1, (dy, rank)), positive(raw, min_stddev))
