"""The constant-memory attention block: a latent bottleneck that can be updated exactly."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from npexp.errors import ConfigError, PrecisionError, at_least, positive
from npexp.layers.attention import Attention
from npexp.layers.blocks import CrossBlock, SelfBlock
from npexp.layers.location import Locations
from npexp.layers.mlp import FeedForward
from npexp.mixers.base import LATER, Carry, Mixer, Site, Tokens, register
from npexp.ops.attention import Part, merge_parts, split_part

ROUNDING = 8  # error of a pool's mass, in units of the precision
TOLERANCE = 1e-4  # largest rounding error of a pool, as a share of what it holds, that a removal may leave


class CMABState(NamedTuple):
    """What one block keeps: pooled values and log-normalisers, and the latents that are read.

    Args:
        part: average of the context's values under each block latent, `[b, h, m, dh]`, or `[b, h, m, dh + dx]` where
            `offsets` are wanted, with its log-normaliser.
        noise: log of the variance that rounding has given to exp(lse), `[b, h, m]`. What was put in and taken out again
            leaves its rounding error behind, however little of the rest there is.
        z: the latents passed on, `[b, m', dz]`; follows from the pool and from the block before. None between chunks.
    """

    part: Part
    noise: Tensor
    z: Tensor | None


@register("cmab")
class CMAB(Mixer):
    """Constant-memory attention block (Feng et al. 2024, arXiv 2305.14567).

    The block's own latents B pool the raw context; since B does not depend on the data, pooled values merge exactly.
    Then Y = SAB(FF(B + pooled)), and the carried latents Z <- SAB(MAB(Z, Y)), all of it free of data. Time
    O(nc m + m^2 + nt m) per layer; update and removal O(new m + m^2); state O(m).

    Without gradients pools are kept in float64, so that thousands of insertions and removals leave no trace. A removal
    magnifies rounding errors by the share of a pool's mass that is left; pools know their errors, and a removal that
    would spoil one is refused.

    Use it when the context is a stream. With all data at hand "ist" or "lbanp" learn faster.

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
        offsets: pools also average where the points lie, and latents are told how far that is from their places, in
            units of each head's width; dx more numbers per latent and head. Needs places.

    Raises:
        ConfigError: a size that is impossible, or offsets from places that there are not.
    """

    family = "latent"
    paper = "2305.14567"
    published = "n m"
    update = "stack"
    removable = True
    foldable = True
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
        offsets: bool = False,
    ):
        super().__init__()
        at_least("num_latents", num_latents, 1)
        at_least("num_block_latents", num_block_latents, 1)
        positive("init_stddev", init_stddev)
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
        self.located, self.offsets = location_range is not None, offsets
        if offsets and not self.located:
            raise ConfigError("offsets are measured from latents' places: set location_range, or offsets to False")
        if location_range is not None:
            self.pool_places = Locations(num_block_latents, site.dx, dz, h, location_range)
            self.read_places = Locations(num_latents, site.dx, dz, h, location_range)
            self.mass = nn.Linear(h, dz, bias=False)
        if offsets:
            self.away = nn.Linear(h * site.dx, dz, bias=False)

    def summarise(self, ctx: Tokens, carry: Carry = None) -> tuple[CMABState, Carry]:
        """Pools the context, then computes the latents from the pool."""
        return self._finish(*self._pool(ctx), carry)

    def extend(self, state: CMABState, new: Tokens, carry: Carry = None) -> tuple[CMABState, Carry]:
        """Merges the new points' pool into the old one; equal to pooling all at once."""
        part, noise = self._pool(new)
        whole = merge_parts(state.part, part)
        noise = torch.logaddexp(torch.logaddexp(state.noise, noise), rounding(whole.lse, whole.lse.dtype))
        return self._finish(whole, noise, carry)

    def retract(self, state: CMABState, old: Tokens, carry: Carry = None) -> tuple[CMABState, Carry]:
        """Takes the old points' pool out of the whole one.

        Raises:
            PrecisionError: what is left of some latent's pool drowns in the rounding errors of what was there.
        """
        part, noise = self._pool(old)
        left = split_part(state.part, part)
        noise = torch.logaddexp(torch.logaddexp(state.noise, noise), rounding(state.part.lse, state.part.lse.dtype))
        lost = noise > 2 * (left.lse + math.log(TOLERANCE))
        if bool(lost.any()):
            raise PrecisionError(
                f"the points to be removed held nearly all that {int(lost.sum())} of {lost.numel()} pools had seen; "
                "rounding would spoil what is left there: encode the points that remain, or let "
                "npexp.Predictor(model, keep_points=True) condition and remove, which then does so by itself"
            )
        return self._finish(left, noise, carry)

    def read(self, q: Tokens, state: CMABState) -> Tensor:
        """Attention of each row over the latents."""
        bias = self.read_places.bias(q.x).mT if self.located else None
        return self.attention(q.h, self.attention.project(self.norm(state.z.to(self.norm.weight.dtype))), bias)

    def _pool(self, ctx: Tokens) -> tuple[Part, Tensor]:
        """The pool of some points, and its noise."""
        query = self.norm_pool(self._block_latents())[None]
        bias = self.pool_places.bias(ctx.x) if self.located else None
        kv = self.pool.project(ctx.h, ctx.mask)
        if self.offsets:
            x = ctx.x.to(kv.v.dtype)[:, None].expand(-1, kv.v.shape[1], -1, -1)
            kv = kv._replace(v=torch.cat([kv.v, x], -1))
        part = Part(*(in_full(t) for t in self.pool.part(query, kv, bias)))
        return part, rounding(part.lse, kv.k.dtype)

    def _finish(self, part: Part, noise: Tensor, carry: Carry) -> tuple[CMABState, Carry]:
        if carry is LATER:
            return CMABState(part, noise, None), LATER
        dh = part.out.shape[-1] - (self.pool_places.x.shape[-1] if self.offsets else 0)
        y = self._block_latents() + self.pool.merge(part.out[..., :dh])
        if self.offsets:
            away = (part.out[..., dh:] - self.pool_places.x) / self.pool_places.width[:, None, None]
            away = torch.where(part.lse[..., None] == -torch.inf, 0.0, away)  # a latent that has seen nothing
            y = y + self.away(away.transpose(1, 2).flatten(2).to(y.dtype))
        if self.located:  # softplus: 0 for a latent that has seen nothing, close to the log-normaliser otherwise
            y = y + self.mass(softplus(part.lse).mT.to(y.dtype))
        y = self.self_block(y + self.ff(self.norm_ff(y)))
        z = self.latents.expand(y.shape[0], -1, -1) if carry is None else carry
        bias = None
        if self.located:
            z = z + self.read_places.code()
            bias = self.read_places.bias(self.pool_places.x[None])
        z = self.carry_self(self.carry_cross(z, y, bias=bias))
        return CMABState(part, noise, z), z

    def _block_latents(self) -> Tensor:
        return self.block_latents + self.pool_places.code() if self.located else self.block_latents


def rounding(lse: Tensor, dtype: torch.dtype) -> Tensor:
    """Log of the variance that computing in this dtype gives to a pool's mass."""
    return 2 * (lse.detach() + math.log(ROUNDING * torch.finfo(dtype).eps))


def in_full(part: Tensor) -> Tensor:
    """A part of a pool in the pool's precision; some devices have no float64."""
    if torch.is_grad_enabled() or part.device.type == "mps":
        return part
    return part.double()
