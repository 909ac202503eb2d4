"""Latent-bottlenecked attentive neural process."""

from npexp.layers.embedding import PointEmbedding
from npexp.likelihoods import Likelihood
from npexp.mixers.stack import Stack
from npexp.models.transformer import TransformerNP


class LBANP(TransformerNP):
    """Latents read the raw context, targets read every layer's latents (Feng et al. 2023, arXiv 2211.08458).

    Cost O(nc m + m^2 + nt m), queries independent of nc; updates recompute. The choice for many queries of one large,
    fixed context; for a stream use CMANP.

    Args:
        dx: input size.
        dy: output size.
        dz: width of the tokens.
        num_layers: layers that the targets pass.
        num_heads: attention heads.
        dim_feedforward: hidden width of the feed-forward networks.
        num_latents: m, latents that are carried through the layers.
        latent_stddev: standard deviation of the initial latents.
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
        num_latents: int = 32,
        latent_stddev: float = 1.0,
        depth_embedding: int = 4,
        num_frequencies: int = 0,
        dim_head: int = 128,
        sort: bool = False,
        likelihood: Likelihood | None = None,
    ):
        latents = {"num_latents": num_latents, "dim_feedforward": dim_feedforward, "init_stddev": latent_stddev}
        super().__init__(
            dx,
            dy,
            PointEmbedding(dx, dy, dz, depth_embedding, num_frequencies=num_frequencies),
            Stack(dx, "lbanp", num_layers, dz, num_heads, dim_feedforward, latents),
            dz,
            dim_head,
            likelihood,
            sort,
        )
