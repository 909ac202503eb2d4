"""Transformer neural process with kernel regression blocks."""

from npexp.layers.embedding import PointEmbedding
from npexp.layers.mlp import Activation
from npexp.likelihoods import Likelihood
from npexp.mixers.stack import Stack
from npexp.models.transformer import TransformerNP


class TNPKR(TransformerNP):
    """TNP-KR and BSA-TNP: attention biased by distances, scanned in tiles (Jenson et al. 2024, 2025).

    arXiv 2411.12502 and 2506.09163. Each block moves context and targets with the same weights, both by the context,
    O(nc^2 + nc nt) time, and the bias is never stored, O(nc dz + tile^2) memory. With `absolute=False` inputs
    enter through distances only, and predictions do not depend on the origin (BSA-TNP).

    The choice for data in space: it needs far fewer steps than TNP-D. Where directions matter, take TETNP.

    Args:
        dx: input size.
        dy: output size.
        dz: width of the tokens.
        num_layers: layers.
        num_heads: attention heads.
        dim_feedforward: hidden width of the feed-forward networks.
        num_basis: terms of each head's radial basis network.
        reach: distance up to which these terms are spread at first, in units of x.
        absolute: whether tokens carry x.
        norm_first: pre-norm or post-norm.
        activation: of the feed-forward networks: "relu", "gelu" or "geglu".
        depth_embedding: linear layers of the embedder.
        flag: tells targets from context points in the embedder.
        num_frequencies: learned Fourier features of x, where tokens carry it.
        tile: queries and keys that are held against each other at a time.
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
        num_basis: int = 5,
        reach: float = 1.0,
        absolute: bool = False,
        norm_first: bool = True,
        activation: Activation = "gelu",
        depth_embedding: int = 4,
        flag: bool = True,
        num_frequencies: int = 0,
        tile: int = 256,
        dim_head: int = 128,
        sort: bool = False,
        likelihood: Likelihood | None = None,
    ):
        kernel = {"num_basis": num_basis, "reach": reach, "tile": tile}
        super().__init__(
            dx,
            dy,
            PointEmbedding(dx, dy, dz, depth_embedding, True, flag, num_frequencies, absolute),
            Stack(
                dx,
                "kernel",
                num_layers,
                dz,
                num_heads,
                dim_feedforward,
                kernel,
                activation=activation,
                norm_first=norm_first,
            ),
            dz,
            dim_head,
            likelihood,
            sort,
        )
