"""Set Transformer as a neural process."""

import torch
from torch import Tensor, nn

from npexp.errors import at_least
from npexp.layers.blocks import CrossBlock, SelfBlock
from npexp.layers.embedding import PointEmbedding
from npexp.layers.induced import InducedBlock
from npexp.likelihoods import Likelihood, Predictive
from npexp.models.base import NeuralProcess, Points, State


class SetTransformer(NeuralProcess):
    """The Set Transformer (Lee et al. 2019, arXiv 1810.00825) as encoder: ISABs, then pooling into k tokens.

    The context passes num_layers induced set attention blocks; pooling by multi-head attention, S = MAB(seeds, C), and
    a self-attention block over S follow, and targets read the k rows of S through num_queries blocks. Cost
    O(nc m + nt k), state k tokens; updates recompute.

    ISANP, IST and LBANP show targets the latents of every layer; here they see one pooled summary, after the context
    has been refined in full. The smallest state of the four, and a bottleneck: take it where targets are many.

    Args:
        dx: input size.
        dy: output size.
        dz: width of the tokens.
        num_layers: induced set attention blocks of the context.
        num_queries: blocks through which targets read the pooled tokens.
        num_heads: attention heads.
        dim_feedforward: hidden width of the feed-forward networks.
        num_latents: m, learned points of each induced block.
        num_seeds: k, tokens that the context is pooled into.
        latent_stddev: standard deviation of the initial latents and seeds.
        depth_embedding: linear layers of each embedder.
        num_frequencies: learned Fourier features of x.
        dim_head: hidden width of the network in front of the likelihood.
        likelihood: the head; None is a Gaussian with floor 0.01.
    """

    def __init__(
        self,
        dx: int,
        dy: int,
        dz: int = 64,
        num_layers: int = 3,
        num_queries: int = 3,
        num_heads: int = 4,
        dim_feedforward: int = 128,
        num_latents: int = 32,
        num_seeds: int = 32,
        latent_stddev: float = 1.0,
        depth_embedding: int = 4,
        num_frequencies: int = 0,
        dim_head: int = 128,
        likelihood: Likelihood | None = None,
    ):
        super().__init__(dx, dy)
        for name, size in {"num_layers": num_layers, "num_queries": num_queries, "num_seeds": num_seeds}.items():
            at_least(name, size, 1)
        self.embedding = PointEmbedding(dx, dy, dz, depth_embedding, num_frequencies=num_frequencies)
        self.induce = nn.ModuleList(
            InducedBlock(dz, num_heads, dim_feedforward, num_latents, latent_stddev) for _ in range(num_layers)
        )
        self.seeds = nn.Parameter(latent_stddev * torch.randn(num_seeds, dz))
        self.pool = CrossBlock(dz, num_heads, dim_feedforward)
        self.self_block = SelfBlock(dz, num_heads, dim_feedforward)
        self.query = nn.ModuleList(CrossBlock(dz, num_heads, dim_feedforward) for _ in range(num_queries))
        self.norm = nn.LayerNorm(dz)
        self._use_head(likelihood, dz, dim_head, 2)
        self.cost = f"{num_layers} layers of nc m, {num_queries} of nt k"

    def _encode(self, points: Points) -> Tensor:
        c = self.embedding.context(points.x, points.y)
        for block in self.induce:
            c, _ = block(c, points.mask)
        return self.self_block(self.pool(self.seeds.expand(len(c), -1, -1), c, points.mask))

    def _predict(self, state: State, xt: Tensor, mask_t: Tensor | None) -> Predictive:
        h = self.embedding.target(xt)
        for block in self.query:
            h = block(h, state.summary)
        return self.head(self.norm(h), mask_t)
