"""Constant-memory attentive neural process."""

from npexp.layers.embedding import PointEmbedding
from npexp.likelihoods import Decoding, Likelihood
from npexp.mixers.stack import Stack
from npexp.models.transformer import TransformerNP


class CMANP(TransformerNP):
    """LBANP with blocks that update exactly in constant memory (Feng et al. 2024, arXiv 2305.14567).

    Every block pools the raw context with latents that do not depend on it, keeping a log-normaliser; pools merge, so
    conditioning streams in chunks of any size and order with the same result. Points are removed by taking their pool
    out again, which the paper does not do; where hardly anything would be left of a pool, rounding forbids it and
    `PrecisionError` says so. Cost O(nc m + m^2 + nt m), update and removal O(new m + m^2), state num_layers
    (num_block_latents (dz + 2 num_heads) + num_latents dz) numbers whatever nc.

    The choice for streams. It learns more slowly than the others.

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
        depth_embedding: linear layers of each embedder.
        num_frequencies: learned Fourier features of x.
        dim_head: hidden width of the network in front of the likelihood.
        sort: canonical order at the entry.
        block_size: decodes that many targets at a time, each block taken in by `update` before the next: CMANP-AND,
            meant for a joint likelihood. None predicts all targets at once.
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
        num_block_latents: int = 32,
        latent_stddev: float = 1.0,
        location_range: float | None = None,
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
