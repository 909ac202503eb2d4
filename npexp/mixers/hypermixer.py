"""HyperMixer: token mixing by a network whose weights the tokens themselves generate."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from npexp.errors import ConfigError, at_least
from npexp.layers.mlp import mlp
from npexp.mixers.base import Carry, Mixer, Site, Tokens, register


class HyperState(NamedTuple):
    """S = sum_j w1(h_j) h_j', `[b, h, k, dh]`, and the number of real points, `[b]`."""

    s: Tensor
    n: Tensor


@register("hypermixer")
class HyperMixer(Mixer):
    """Multi-head HyperMixer (Mai et al. 2023, arXiv 2203.03691) without position codes: LN(w2(q) gelu(S / sqrt n)).

    Time O((nc + nt) k dz / h), state O(k dz / h); the state is a plain sum, so that with `context="raw"` points are
    inserted and removed exactly. The published form does not divide by sqrt(n) and its scale drifts with the context.

    Args:
        site: where in the model it sits.
        num_slots: k, hidden width of the generated network, shared evenly by the heads.
    """

    family = "kernel"
    paper = "2203.03691"
    published = "n"
    update = "layer"
    removable = True
    foldable = True
    joins = True
    cost = "(nc + nt) k dz / h"

    def __init__(self, site: Site, num_slots: int = 128):
        super().__init__()
        if at_least("num_slots", num_slots, 1) % site.num_heads:
            raise ConfigError(f"expected num_slots to be a multiple of num_heads={site.num_heads}, got {num_slots}")
        self.num_heads = site.num_heads
        self.w1 = mlp(site.dz, site.dz, num_slots, 2, "gelu")
        self.w2 = mlp(site.dz, site.dz, num_slots, 2, "gelu")
        self.norm = nn.LayerNorm(site.dz)

    def summarise(self, ctx: Tokens, carry: Carry = None) -> tuple[HyperState, Carry]:
        """The sum over real points."""
        w = self.w1(ctx.h)
        with torch.autocast(w.device.type, enabled=False):  # which would round the sum
            w = self._split(w)
            if ctx.mask is not None:
                w = torch.where(ctx.mask[:, None, :, None], w, torch.zeros_like(w))
            return HyperState(w.mT @ self._split(ctx.h), ctx.n), carry

    def read(self, q: Tokens, state: HyperState) -> Tensor:
        """Each row through the network that it and the context generate."""
        scale = state.n.clamp_min(1).to(state.s.dtype).rsqrt()
        w = self._split(self.w2(q.h))
        hidden = gelu(state.s * scale[:, None, None, None]).to(w.dtype)
        read = (w @ hidden).transpose(1, 2).flatten(2)
        return self.norm(read.to(self.norm.weight.dtype))

    def extend(self, state: HyperState, new: Tokens, carry: Carry = None) -> tuple[HyperState, Carry]:
        """Adds the new points' sum."""
        added, carry = self.summarise(new, carry)
        return HyperState(state.s + added.s, state.n + added.n), carry

    def retract(self, state: HyperState, old: Tokens, carry: Carry = None) -> tuple[HyperState, Carry]:
        """Subtracts the old points' sum."""
        gone, carry = self.summarise(old, carry)
        return HyperState(state.s - gone.s, state.n - gone.n), carry

    def _split(self, h: Tensor) -> Tensor:
        h = h.to(torch.promote_types(h.dtype, torch.float32))
        return h.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
