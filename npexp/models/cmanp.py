"""Constant-memory attentive neural process."""

from collections.abc import Sequence

import torch
from torch import Tensor

from npexp.errors import at_least
from npexp.layers.basis import Basis
from npexp.layers.domain import Domain
from npexp.layers.embedding import PointEmbedding
from npexp.layers.experts import ExpertTokens
from npexp.layers.moments import Moments
from npexp.layers.ridge import RidgeMemory
from npexp.likelihoods import Decoding, Likelihood, Predictive
from npexp.likelihoods.experts import expert_head
from npexp.mixers.base import Carry
from npexp.mixers.stack import Stack
from npexp.models.base import Points, State
from npexp.models.transformer import TransformerNP, TransformerSummary
from npexp.ops.tree import tree_map

PRIORS, REFINED = 4, 2  # of the ridge experts, learned and inferred, as in `RMNPHybrid`
MIN_STDDEV = 0.005  # floor of the experts' law


class CMANP(TransformerNP):
    """LBANP with blocks that update exactly in constant memory (Feng et al. 2024, arXiv 2305.14567).

    Every block pools the raw context with latents that do not depend on it, keeping a log-normaliser; pools merge, so
    conditioning streams in chunks of any size and order with the same result. Points are removed by taking their pool
    out again, which the paper does not do; where hardly anything would be left of a pool, rounding forbids it and
    `PrecisionError` says so. Cost O(nc m + m^2 + nt m), update and removal O(new m + m^2), state num_layers
    (num_block_latents (dz + 2 num_heads) + num_latents dz) numbers whatever nc.

    Beyond the paper, and all off by default: latents with places (`location_range`), which know how far the points they
    saw lie from these (`offsets`), and ridge moments as a further state (`num_features`), which `predict` solves:
    targets then start from what linear regressions say of them, see `RMNP`. For f features that is
    f (f + 1) / 2 + (f + 2) dy + 1 numbers, O(f^2) per point, and O(k f^3 + nt k f^2) in `predict`, for k = 6
    regressions. All of it updates exactly.

    The choice for streams. As published it learns more slowly than the others.

    Args:
        dx: input size.
        dy: output size.
        dz: width of the tokens.
        num_layers: layers that the targets pass.
        num_heads: attention heads.
        dim_feedforward: hidden width of the feed-forward networks.
        num_latents: m', latents that are carried through the blocks and read by targets.
        num_block_latents: m, latents of each block, which read the data.
        latent_stddev: standard deviation of the initial latents.
        location_range: gives latents learned places, at first in [-r, r]^dx; None is the published model.
        offsets: whether latents are told how far what they have seen lies from their places, on average.
        num_features: f, a constant and waves of the inputs, of which ridge moments are kept; 0 for none.
        domain: (low, high) of the inputs on every axis, for the waves; None is measured by `adapt`, which `npexp fit`
            calls before the first step, and [-2, 2] until then. With moments, inputs further out than 0.19 of its width
            are refused.
        depth_embedding: linear layers of each embedder.
        num_frequencies: learned Fourier features of x.
        dim_head: hidden width of the network in front of the likelihood.
        sort: canonical order at the entry.
        block_size: decodes that many targets at a time, each block taken in by `update` before the next: CMANP-AND,
            meant for a joint likelihood. None predicts all targets at once.
        likelihood: the head; None is a Gaussian with floor 0.01, or, with ridge moments, a mixture of what their
            regressions predict and of a free normal with floor 0.005, corrected for each target.
    """

    def __init__(
        self,
        dx: int,
        dy: int,
        dz: int = 64,
        num_layers: int = 6,
        num_heads: int = 4,
        dim_feedforward: int = 128,
        num_latents: int = 32,
        num_block_latents: int = 32,
        latent_stddev: float = 1.0,
        location_range: float | None = None,
        offsets: bool = False,
        num_features: int = 0,
        domain: Sequence[float] | None = None,
        depth_embedding: int = 4,
        num_frequencies: int = 0,
        dim_head: int = 128,
        sort: bool = False,
        block_size: int | None = None,
        likelihood: Likelihood | None = None,
    ):
        latents = {
            "num_latents": num_latents,
            "num_block_latents": num_block_latents,
            "dim_feedforward": dim_feedforward,
            "init_stddev": latent_stddev,
            "location_range": location_range,
            "offsets": offsets,
        }
        super().__init__(
            dx,
            dy,
            PointEmbedding(dx, dy, dz, depth_embedding, num_frequencies=num_frequencies),
            Stack(dx, "cmab", num_layers, dz, num_heads, dim_feedforward, latents),
            dz,
            dim_head,
            likelihood,
            sort,
        )
        self.decoding = None if block_size is None else Decoding(block_size)
        self.ridge, self.corrects = None, False
        if at_least("num_features", num_features, 0):
            self.domain = Domain(dx, domain)
            self.ridge = RidgeMemory(Basis(dx, num_features), dy, PRIORS, REFINED, dz, dim_head)
            self.tokens = ExpertTokens(dy, self.ridge.num_experts, dz)
            self.corrects = likelihood is None
            self.cost += " + nc f^2 + k f^3 + nt k f^2"
        if self.corrects:
            self.head = expert_head("mixture", dz, dim_head, dy, self.ridge.num_experts, MIN_STDDEV, shared=True)

    def adapt(self, x: Tensor) -> None:
        """Takes the range of training inputs, where no domain was given, once."""
        if self.ridge is not None:
            self.domain.adapt(x)

    def _moments(self, points: Points) -> Moments | None:
        if self.ridge is None:
            return None
        return self.ridge.pool(self.domain("context", points.x, points.mask), points.y, points.mask)

    def _summarise(self, points: Points, keys: Tensor | None, carry: Carry) -> TransformerSummary:
        return super()._summarise(points, keys, carry)._replace(moments=self._moments(points))

    def _extend(self, summary: TransformerSummary, points: Points, carry: Carry = None) -> TransformerSummary:
        moments = tree_map(torch.add, summary.moments, self._moments(points))
        return super()._extend(summary, points, carry)._replace(moments=moments)

    def _retract(self, summary: TransformerSummary, points: Points) -> TransformerSummary:
        moments = tree_map(torch.sub, summary.moments, self._moments(points))
        return super()._retract(summary, points)._replace(moments=moments)

    def _predict(self, state: State, xt: Tensor, mask_t: Tensor | None) -> Predictive:
        if self.ridge is None:
            return super()._predict(state, xt, mask_t)
        solved = self.ridge.solve(state.summary.moments)
        experts = self.ridge.read(solved, self.domain("target", xt, mask_t))
        h = self.embedding.target(xt) + self.tokens(experts) + solved.code[:, None]
        h = self._features(state.summary, h, xt, mask_t)
        return self.head(h, experts if self.corrects else mask_t)
