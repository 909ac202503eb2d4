"""Induced-set attentive neural process."""

from torch import Tensor, nn

from npexp.errors import at_least
from npexp.layers.blocks import CrossBlock
from npexp.layers.embedding import PointEmbedding
from npexp.layers.induced import InducedBlock
from npexp.likelihoods import Likelihood, Predictive
from npexp.models.base import NeuralProcess, Points, State


class ISANP(NeuralProcess):
    """An encoder of induced set attention, whose latents are all that targets read.

    After Lara-Rangel et al. 2025 (arXiv 2504.14416). Layer l: Z_l = MAB(I_l, C), then C = MAB(C, Z_l), and targets
    T = MAB(T, Z_l) with blocks of their own. Cost O((nc + nt) m), queries independent of nc; updates recompute.

    Where IST carries one set of latents through its layers and shares their blocks between context and targets, here
    latents start afresh in every layer and query blocks are separate; where LBANP reads the raw context at every
    layer, here the context moves on. More parameters than either for the same time.

    Args:
        dx: input size.
        dy: output size.
        dz: width of the tokens.
        num_layers: layers.
        num_heads: attention heads.
        dim_feedforward: hidden width of the feed-forward networks.
        num_latents: m, latents of each layer.
        latent_stddev: standard deviation of the initial latents.
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
        num_layers: int = 6,
        num_heads: int = 4,
        dim_feedforward: int = 128,
        num_latents: int = 32,
        latent_stddev: float = 1.0,
        depth_embedding: int = 4,
        num_frequencies: int = 0,
        dim_head: int = 128,
        likelihood: Likelihood | None = None,
    ):
        super().__init__(dx, dy)
        at_least("num_layers", num_layers, 1)
        self.embedding = PointEmbedding(dx, dy, dz, depth_embedding, num_frequencies=num_frequencies)
        self.induce = nn.ModuleList(  # nobody would look at the context after the last layer
            InducedBlock(dz, num_heads, dim_feedforward, num_latents, latent_stddev, refine=i < num_layers - 1)
            for i in range(num_layers)
        )
        self.query = nn.ModuleList(CrossBlock(dz, num_heads, dim_feedforward) for _ in range(num_layers))
        self.norm = nn.LayerNorm(dz)
        self._use_head(likelihood, dz, dim_head, 2)
        self.cost = f"{num_layers} layers of (nc + nt) m"

    def _encode(self, points: Points) -> tuple[Tensor, ...]:
        c = self.embedding.context(points.x, points.y)
        latents = []
        for block in self.induce:
            c, z = block(c, points.mask)
            latents.append(z)
        return tuple(latents)

    def _predict(self, state: State, xt: Tensor, mask_t: Tensor | None) -> Predictive:
        h = self.embedding.target(xt)
        for block, z in zip(self.query, state.summary, strict=True):
            h = block(h, z)
        return self.head(self.norm(h), mask_t)
