"""Incremental Transformer neural process."""

from npexp.layers.embedding import PointEmbedding
from npexp.layers.mlp import Activation
from npexp.likelihoods import Likelihood
from npexp.mixers.stack import Stack
from npexp.models.sequential import SequentialTNP


class INCTNP(SequentialTNP):
    """incTNP (Mortimer et al. 2026, arXiv 2602.18955): TNP-D whose context reads itself in order of arrival.

    Old points never look at new ones, so their keys and values stay: a new point costs O(nc) instead of the O(nc^2) of
    encoding anew, and updates are exact. The price is that the order of the context matters. For long streams that a
    cache of all points still fits; where it does not, use CMANP.

    Trained with objective "sequence", every prefix of a task serves as a context in one pass: incTNP-Seq.

    Args:
        dx: input size.
        dy: output size.
        dz: width of the tokens.
        num_layers: layers.
        num_heads: attention heads.
        dim_feedforward: hidden width of the feed-forward networks.
        norm_first: pre-norm, or post-norm as in TNP-D.
        activation: of the feed-forward networks: "relu", "gelu" or "geglu".
        depth_embedding: linear layers of the embedder.
        flag: tells targets from context points in the shared embedder.
        dim_head: hidden width of the network in front of the likelihood.
        likelihood: the head; None is a Gaussian with floor 0.01.
    """

    causal = True

    def __init__(
        self,
        dx: int,
        dy: int,
        dz: int = 64,
        num_layers: int = 6,
        num_heads: int = 4,
        dim_feedforward: int = 128,
        norm_first: bool = False,
        activation: Activation = "relu",
        depth_embedding: int = 4,
        flag: bool = True,
        dim_head: int = 128,
        likelihood: Likelihood | None = None,
    ):
        super().__init__(
            dx,
            dy,
            PointEmbedding(dx, dy, dz, depth_embedding, shared=True, flag=flag),
            Stack(
                dx,
                "dense",
                num_layers,
                dz,
                num_heads,
                dim_feedforward,
                activation=activation,
                norm_first=norm_first,
                causal=True,
            ),
            dz,
            dim_head,
            likelihood,
            sort=False,
        )
        self.permutation_invariant = False
