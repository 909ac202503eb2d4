"""Translation-equivariant attention, dense and through pseudo-tokens that have places of their own."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from npexp.batch import real
from npexp.errors import at_least, positive
from npexp.layers.location import spread
from npexp.layers.relative import DifferenceBias, JointLogits, RelativeAttention, RelativeBlock
from npexp.mixers.base import Carry, Mixer, Site, Tokens, register
from npexp.mixers.relative import RelativeMixer


def _attention(site: Site, dim_hidden: int, joint: bool, tile: int) -> RelativeAttention:
    bias = (JointLogits if joint else DifferenceBias)(site.dx, site.num_heads, dim_hidden)
    return RelativeAttention(site.dz, site.num_heads, bias, tile)


@register("te")
class TE(RelativeMixer):
    """Translation-equivariant attention (Ashman et al. 2024, arXiv 2406.12409): positions enter as x_q - x_k only.

    Logits are q.k / sqrt(dh) + kappa_h(x_q - x_k) with a network kappa, as the authors released it. Time
    O((nc^2 + nc nt) dim_hidden) per layer, state O(nc). "kernel" is cheaper, and sees distances only; "te" also sees
    directions.

    Args:
        site: where in the model it sits.
        dim_hidden: width of the network of differences.
        joint: lets that network see all heads' products q.k too, and return the logits: the paper's form.
        tile: queries and keys that are held against each other at a time.
    """

    paper = "2406.12409"

    def __init__(self, site: Site, dim_hidden: int = 32, joint: bool = False, tile: int = 128):
        super().__init__()
        self.attention = _attention(site, dim_hidden, joint, tile)


class PseudoTokens(NamedTuple):
    """Latents, their places, and whether the context has given them any.

    Args:
        z: `[b, m, dz]`.
        x: `[b, m, dx]`, counted from the origin.
        mask: `[b, m]`.
        origin: the first context point, `[b, 1, dx]`; 0 if there is none.
    """

    z: Tensor
    x: Tensor
    mask: Tensor
    origin: Tensor


class _Pseudo(Mixer):
    """Latents with places: at first v_i = sum_j w_ij x_j + o_i, weights w_i summing to 1 over the context.

    Places move with the context, so that the differences which attention sees do not depend on the origin. An empty
    context gives no places: its latents are masked, and targets read 0.

    Time O(nc m + nt m + m^2) times dim_hidden per layer, state O(m). Not updatable: places and latents depend on the
    data.

    Args:
        site: where in the model it sits.
        num_latents: m.
        dim_feedforward: hidden width of the latents' feed-forward.
        dim_hidden: width of the networks of differences.
        joint: see "te".
        init_stddev: standard deviation of the initial latents.
        location_range: offsets o_i start spread over [-location_range, location_range]^dx.
        tile: queries and keys that are held against each other at a time.
    """

    family = "latent"
    paper = "2406.12409"
    published = "n m"
    tower: bool
    joins = True
    translation_equivariant = True

    def __init__(
        self,
        site: Site,
        num_latents: int = 32,
        dim_feedforward: int = 128,
        dim_hidden: int = 32,
        joint: bool = False,
        init_stddev: float = 1.0,
        location_range: float = 2.0,
        tile: int = 128,
    ):
        super().__init__()
        at_least("num_latents", num_latents, 1)
        positive("init_stddev", init_stddev)
        dz, network = site.dz, (site, dim_hidden, joint, tile)
        self.first = site.layer == 0
        if self.first:
            self.latents = nn.Parameter(init_stddev * torch.randn(num_latents, dz))
            self.offsets = nn.Parameter(spread(num_latents, site.dx, location_range))
            self.place = nn.Linear(dz, num_latents)
        self.pool = RelativeBlock(dz, _attention(*network), dim_feedforward, norm_keys=False)
        self.self_block = RelativeBlock(dz, _attention(*network), dim_feedforward) if self.tower else None
        self.norm = nn.LayerNorm(dz)
        self.attention = _attention(*network)

    def weights(self, ctx: Tokens) -> Tensor:
        """What each place takes of the context, `[b, m, nc]`; summing to 1 over real points; 0 if there are none."""
        mask = real(ctx.mask, ctx.h)[:, None]
        logits = self.place(ctx.h).mT.to(ctx.x.dtype)
        return logits.masked_fill(~mask, torch.finfo(logits.dtype).min).softmax(-1) * mask

    def summarise(self, ctx: Tokens, carry: Carry = None) -> tuple[PseudoTokens, Carry]:
        """Latents, placed by the first layer, that have read the context."""
        state = self._start(ctx) if carry is None else carry
        z, x = self.pool(state.z, state.x, ctx.h, ctx.x - state.origin, ctx.mask), state.x
        if self.self_block is not None:
            z = self.self_block(z, x, z, x)
        state = state._replace(z=z)
        return state, state

    def read(self, q: Tokens, state: PseudoTokens) -> Tensor:
        """Attention of each row over the latents."""
        return self.attention(q.h, q.x - state.origin, self.attention.project(self.norm(state.z), state.x, state.mask))

    def _start(self, ctx: Tokens) -> PseudoTokens:
        weights, there = self.weights(ctx).to(ctx.x.dtype), real(ctx.mask, ctx.h)
        first = (there & (there.cumsum(1) == 1))[..., None]
        # sums of differences stay exact where x is far from 0; they depend on no origin, and neither do gradients
        origin = torch.where(first, ctx.x, torch.zeros_like(ctx.x)).sum(1, keepdim=True).detach()
        with torch.autocast(ctx.x.device.type, enabled=False):  # places must not be rounded
            x = weights @ (ctx.x - origin) + self.offsets.to(ctx.x.dtype)
        mask = (ctx.n > 0)[:, None].expand(x.shape[:2])
        return PseudoTokens(self.latents.expand(len(x), -1, -1), x, mask, origin)


@register("te_ist")
class TEIST(_Pseudo):
    """Translation-equivariant IST: pseudo-tokens that the context reads back (arXiv 2406.12409).

    "te" at a cost linear in nc; see "ist" for the form that sees absolute positions.
    """

    tower = False
    cost = "nc m + nt m"


@register("te_perceiver")
class TEPerceiver(_Pseudo):
    """Translation-equivariant Perceiver: pseudo-tokens read the raw context, then each other (arXiv 2406.12409).

    Cheaper than "te_ist" on long contexts; see "perceiver" for the form that sees absolute positions.
    """

    tower = True
    contexts = ("raw",)
    cost = "nc m + m^2 + nt m"
