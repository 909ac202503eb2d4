"""Efficient-query Transformer neural process."""

from npexp.layers.embedding import PointEmbedding
from npexp.likelihoods import Likelihood
from npexp.mixers.stack import Stack
from npexp.models.transformer import TransformerNP


class EQTNP(TransformerNP):
    """TNP-D with blocks of their own for the targets (Feng et al. 2023, arXiv 2211.08458).

    The context passes num_layers - 1 layers of self-attention; target layer i reads the context after i - 1 of them,
    the first the raw embeddings. Cost O(nc^2 + nc nt), state O(nc), updates recompute. More parameters than TNP-D for
    the same time; useful where context and targets differ in kind.

    Args:
        dx: input size.
        dy: output size.
        dz: width of the tokens.
        num_layers: layers that the targets pass.
        num_heads: attention heads.
        dim_feedforward: hidden width of the feed-forward networks.
        depth_embedding: linear layers of each embedder.
        num_frequencies: learned Fourier features of x.
        dim_head: hidden width of the network in front of the likelihood.
        sort: canonical order at the entry.
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
        depth_embedding: int = 4,
        num_frequencies: int = 0,
        dim_head: int = 128,
        sort: bool = False,
        likelihood: Likelihood | None = None,
    ):
        super().__init__(
            dx,
            dy,
            PointEmbedding(dx, dy, dz, depth_embedding, num_frequencies=num_frequencies),
            Stack(dx, "dense", num_layers, dz, num_heads, dim_feedforward, tie_read=False),
            dz,
            dim_head,
            likelihood,
            sort,
        )
