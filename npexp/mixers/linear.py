"""Linear attention: the context as two sums of features."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import elu

from npexp.mixers.base import Carry, Mixer, Site, Tokens, register


class LinearState(NamedTuple):
    """S = sum_j phi(k_j) v_j', `[b, h, dh, dh]`, and z = sum_j phi(k_j), `[b, h, dh]`."""

    s: Tensor
    z: Tensor


@register("linear")
class Linear(Mixer):
    """Linear attention phi(q)'S / phi(q)'z with phi = elu + 1 (Katharopoulos et al. 2020, arXiv 2006.16236).

    The cheapest mixer: time O(nc dz dh + nt dz dh), state O(dz dh), and the state is a plain sum, so that with
    `context="raw"` points are inserted and removed exactly. A kernel smoother: it resolves less than softmax.

    Args:
        site: where in the model it sits.
    """

    update = "layer"
    removable = True
    cost = "(nc + nt) dz^2 / h"

    def __init__(self, site: Site):
        super().__init__()
        self.num_heads = site.num_heads
        self.to_q = nn.Linear(site.dz, site.dz, bias=False)
        self.to_kv = nn.Linear(site.dz, 2 * site.dz, bias=False)
        self.to_out = nn.Linear(site.dz, site.dz)

    def summarise(self, ctx: Tokens, carry: Carry = None) -> tuple[LinearState, Carry]:
        """The two sums over real points."""
        k, v = self.to_kv(ctx.h).chunk(2, -1)
        with torch.autocast(k.device.type, enabled=False):  # which would round the sums
            k = elu(self._split(k)) + 1
            if ctx.mask is not None:  # masking v alone would leave padded points in the normaliser
                k = torch.where(ctx.mask[:, None, :, None], k, torch.zeros_like(k))
            return LinearState(k.mT @ self._split(v), k.sum(2)), carry

    def read(self, q: Tokens, state: LinearState) -> Tensor:
        """Each row's weighted average of values; 0 from an empty context."""
        phi = elu(self._split(self.to_q(q.h))) + 1
        norm = (phi * state.z.to(phi.dtype)[:, :, None]).sum(-1, keepdim=True).clamp_min(1e-6)
        read = ((phi @ state.s.to(phi.dtype)) / norm).transpose(1, 2).flatten(2)
        return self.to_out(read.to(self.to_out.weight.dtype))

    def extend(self, state: LinearState, new: Tokens, carry: Carry = None) -> tuple[LinearState, Carry]:
        """Adds the new points' sums."""
        added, carry = self.summarise(new, carry)
        return LinearState(state.s + added.s, state.z + added.z), carry

    def retract(self, state: LinearState, old: Tokens, carry: Carry = None) -> tuple[LinearState, Carry]:
        """Subtracts the old points' sums."""
        gone, carry = self.summarise(old, carry)
        return LinearState(state.s - gone.s, state.z - gone.z), carry

    def _split(self, h: Tensor) -> Tensor:
        h = h.to(torch.promote_types(h.dtype, torch.float32))
        return h.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
