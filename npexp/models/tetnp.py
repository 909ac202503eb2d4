"""Translation-equivariant Transformer neural process."""

from typing import Any

from npexp.layers.embedding import PointEmbedding
from npexp.layers.mlp import Activation
from npexp.likelihoods import Likelihood
from npexp.mixers.stack import Stack
from npexp.models.transformer import TransformerNP


class TETNP(TransformerNP):
    """A TNP whose predictions move with the data: f(x + s) = f(x) (Ashman et al. 2024, arXiv 2406.12409).

    Tokens carry y and no x; positions enter through differences in the attention. With mixer "te" every pair of points
    is looked at, O((nc^2 + nc nt) dim_hidden); "te_ist" and "te_perceiver" go through pseudo-tokens that take their
    places from the context, O((nc + nt) m dim_hidden). Updates recompute.

    The choice for stationary data, above all for targets far from where the model was trained. Data with an origin
    that means something need TNP.

    Args:
        dx: input size.
        dy: output size.
        dz: width of the tokens.
        num_layers: layers.
        num_heads: attention heads.
        dim_feedforward: hidden width of the feed-forward networks.
        mixer: "te", "te_ist", "te_perceiver", or any other whose traits say translation_equivariant.
        mixer_args: settings of the mixer's own.
        context: "read" lets the context mix with itself, "raw" gives every layer the embedded context; None is the
            mixer's default.
        norm_first: pre-norm or post-norm.
        activation: of the feed-forward networks: "relu", "gelu" or "geglu".
        depth_embedding: linear layers of the embedder.
        flag: tells targets from context points with y = 0.
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
        mixer: str = "te",
        mixer_args: dict[str, Any] | None = None,
        context: str | None = None,
        norm_first: bool = True,
        activation: Activation = "gelu",
        depth_embedding: int = 4,
        flag: bool = True,
        dim_head: int = 128,
        sort: bool = False,
        likelihood: Likelihood | None = None,
    ):
        super().__init__(
            dx,
            dy,
            PointEmbedding(dx, dy, dz, depth_embedding, True, flag, absolute=False),
            Stack(
                dx,
                mixer,
                num_layers,
                dz,
                num_heads,
                dim_feedforward,
                mixer_args,
                context,
                activation=activation,
                norm_first=norm_first,
            ),
            dz,
            dim_head,
            likelihood,
            sort,
        )
