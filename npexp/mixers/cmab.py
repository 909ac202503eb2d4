"""The constant-memory attention block: a latent bottleneck that can be updated exactly."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from npexp.errors import at_least
from npexp.layers.attention import Attention
from npexp.layers.blocks import CrossBlock, SelfBlock
from npexp.layers.location import Locations
from npexp.layers.mlp import FeedForward
from npexp.mixers.base import Carry, Mixer, Site, Tokens, register
from npexp.ops.attention import Part, merge_parts


class CMABState(NamedTuple):
    """What one block keeps: pooled values and log-normalisers, and the latents that are read.

    Args:
        out: average of the context's values under each block latent, `[b, h, m, dh]`.
        lse: log-normaliser of that average, `[b, h, m]`.
        z: the latents passed on, `[b, m', dz]`; follows from the pool and from the block before.
    """

    out: Tensor
    lse: Tensor
    z: Tensor


@register("cmab")
class CMAB(Mixer):
    """Constant-memory attention block (Feng et al. 2024, arXiv 2305.14567).

    The block's own latents B pool the raw context; since B does not depend on the data, pooled values merge exactly.
    Then Y = SAB(FF(B + pooled)), and the carried latents Z <- SAB(MAB(Z, Y)), all of it free of data. Time
    O(nc m + m^2 + nt m) per layer; update O(new m + m^2); state O(m), in float32 or better.

    Use it when the context is a stream. With all data at hand "ist" or "perceiver" learn faster.

    Args:
        site: where in the model it sits.
        num_latents: m', carried latents, the ones targets read.
        num_block_latents: m, the block's own latents, which read the data.
        dim_feedforward: hidden width of the latents' feed-forward networks.
        init_stddev: standard deviation of the initial latents.
        location_range: r > 0 gives every latent a learned place, at first in [-r, r]^dx: pooling, passing on and
            reading all favour what is near, and log-normalisers are passed on, so that a latent knows how much it has
            seen. Not in the paper; without it these models idle for thousands of steps on the plateau of ignoring
            the context. None is the published block.
    """

    update = "stack"
    contexts = ("raw",)
    cost = "nc m + m^2 + nt m"

    def __init__(
        self,
        site: Site,
        num_latents: int = 32,
        num_block_latents: int = 32,
        dim_feedforward: int = 128,
        init_stddev: float = 1.0,
        location_range: float | None = None,
    ):
        super().__init__()
        at_least("num_latents", num_latents, 1)
        at_least("num_block_latents", num_block_latents, 1)
        dz, h = site.dz, site.num_heads
        self.latents = nn.Parameter(init_stddev * torch.randn(num_latents, dz)) if site.layer == 0 else None
        self.block_latents = nn.Parameter(init_stddev * torch.randn(num_block_latents, dz))
        self.norm_pool = nn.LayerNorm(dz)
        self.pool = Attention(dz, h)
        self.norm_ff = nn.LayerNorm(dz)
        self.ff = FeedForward(dz, dim_feedforward)
        self.self_block = SelfBlock(dz, h, dim_feedforward)
        self.carry_cross = CrossBlock(dz, h, dim_feedforward)
        self.carry_self = SelfBlock(dz, h, dim_feedforward)
        self.norm = nn.LayerNorm(dz)
        self.attention = Attention(dz, h)
        self.located = location_range is not None
        if location_range is not None:
            self.pool_places = Locations(num_block_latents, site.dx, dz, h, location_range)
            self.read_places = Locations(num_latents, site.dx, dz, h, location_range)
            self.mass = nn.Linear(h, dz, bias=False)

    def summarise(self, ctx: Tokens, carry: Carry = None) -> tuple[CMABState, Carry]:
        """Pools the context, then computes the latents from the pool."""
        return self._finish(self._pool(ctx), carry)

    def extend(self, state: CMABState, new: Tokens, carry: Carry = None) -> tuple[CMABState, Carry]:
        """Merges the new points' pool into the old one; equal to pooling all at once."""
        return self._finish(merge_parts(Part(state.out, state.lse), self._pool(new)), carry)

    def read(self, q: Tokens, state: CMABState) -> Tensor:
        """Attention of each row over the latents."""
        bias = self.read_places.bias(q.x).mT if self.located else None
        return self.attention(q.h, self.attention.project(self.norm(state.z)), bias)

    def _pool(self, ctx: Tokens) -> Part:
        query = self.norm_pool(self._block_latents()).expand(ctx.h.shape[0], -1, -1)
        bias = self.pool_places.bias(ctx.x) if self.located else None
        return self.pool.part(query, self.pool.project(ctx.h, ctx.mask), bias)

    def _finish(self, part: Part, carry: Carry) -> tuple[CMABState, Carry]:
        y = self._block_latents() + self.pool.merge(part.out)
        if self.located:  # softplus: 0 for a latent that has seen nothing, close to the log-normaliser otherwise
            y = y + self.mass(softplus(part.lse).mT.to(y.dtype))
        y = self.self_block(y + self.ff(self.norm_ff(y)))
        z = self.latents.expand(y.shape[0], -1, -1) if carry is None else carry
        bias = None
        if self.located:
            z = z + self.read_places.code()
            bias = self.read_places.bias(self.pool_places.x[None])
        z = self.carry_self(self.carry_cross(z, y, bias=bias))
        return CMABState(part.out, part.lse, z), z

    def _block_latents(self) -> Tensor:
        return self.block_latents + self.pool_places.code() if self.located else self.block_latents
