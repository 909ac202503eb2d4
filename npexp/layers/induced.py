"""Induced set attention: self-attention of n points through m learned ones."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from npexp.errors import at_least, positive
from npexp.layers.blocks import CrossBlock


class InducedBlock(nn.Module):
    """ISAB(C) = MAB(C, Z) with Z = MAB(I, C) and learned points I (Lee et al. 2019, arXiv 1810.00825): O(n m).

    Args:
        dz: width of the tokens.
        num_heads: attention heads.
        dim_feedforward: hidden width of the feed-forward networks.
        num_latents: m.
        init_stddev: standard deviation of the initial I.
        refine: whether points read Z back; False stops at Z.
    """

    def __init__(
        self,
        dz: int,
        num_heads: int,
        dim_feedforward: int,
        num_latents: int,
        init_stddev: float = 1.0,
        refine: bool = True,
    ):
        super().__init__()
        at_least("num_latents", num_latents, 1)
        positive("init_stddev", init_stddev)
        self.latents = nn.Parameter(init_stddev * torch.randn(num_latents, dz))
        self.pool = CrossBlock(dz, num_heads, dim_feedforward)
        self.spread = CrossBlock(dz, num_heads, dim_feedforward) if refine else None

    def forward(
        self, c: Float[Tensor, "b n dz"], mask: Bool[Tensor, "b n"] | None = None
    ) -> tuple[Float[Tensor, "b n dz"], Float[Tensor, "b m dz"]]:
        """The points after the exchange, padded ones with anything, and Z."""
        z = self.pool(self.latents.expand(len(c), -1, -1), c, mask)
        return (c if self.spread is None else self.spread(c, z)), z
