"""Kernel attention, the context as two sums of features; with phi = elu + 1 it is linear attention."""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import elu

from npexp.mixers.base import Carry, Mixer, Site, State, Tokens, register


class Additive(Mixer, ABC):
    """A mixer whose state is a sum over points in every field: points come and go by adding and subtracting theirs."""

    family = "kernel"
    update = "layer"
    removable = True
    foldable = True

    def extend(self, state: State, new: Tokens, carry: Carry = None) -> tuple[State, Carry]:
        """Adds the new points' sums."""
        added, carry = self.summarise(new, carry)
        return type(state)(*(a + b for a, b in zip(state, added, strict=True))), carry

    def retract(self, state: State, old: Tokens, carry: Carry = None) -> tuple[State, Carry]:
        """Subtracts the old points' sums."""
        gone, carry = self.summarise(old, carry)
        return type(state)(*(a - b for a, b in zip(state, gone, strict=True))), carry


class KernelState(NamedTuple):
    """S = sum_j phi(k_j) v_j', `[b, h, m, dh]`, z = sum_j phi(k_j), `[b, h, m]`, and the number of points, `[b]`."""

    s: Tensor
    z: Tensor
    n: Tensor


class KernelMixer(Additive, ABC):
    """Attention with weights phi(q)'phi(k), read as phi(q)'S / phi(q)'z: a kernel smoother that never sees pairs.

    Time O((nc + nt) m dz) for m features per head, state O(m dz). A mixer says what phi is.

    Args:
        site: where in the model it sits.

    Attributes:
        floor: smallest denominator that is believed, per point.
    """

    joins = True
    floor: float = 1e-6

    def __init__(self, site: Site):
        super().__init__()
        self.num_heads = site.num_heads
        self.to_q = nn.Linear(site.dz, site.dz, bias=False)
        self.to_kv = nn.Linear(site.dz, 2 * site.dz, bias=False)
        self.to_out = nn.Linear(site.dz, site.dz)

    @abstractmethod
    def features(self, k: Tensor) -> Tensor:
        """phi of keys: `[b, h, n, dh]` to `[b, h, n, m]`."""

    def query_features(self, q: Tensor, z: Tensor) -> Tensor:
        """phi of queries; may differ from that of keys by a factor for each row, which the quotient does not see."""
        return self.features(q)

    def summarise(self, ctx: Tokens, carry: Carry = None) -> tuple[KernelState, Carry]:
        """The two sums over real points."""
        k, v = self.to_kv(ctx.h).chunk(2, -1)
        with torch.autocast(k.device.type, enabled=False):  # which would round the sums
            phi = self.features(self._split(k))
            if ctx.mask is not None:  # masking v alone would leave padded points in the normaliser
                phi = torch.where(ctx.mask[:, None, :, None], phi, torch.zeros_like(phi))
            return KernelState(phi.mT @ self._split(v), phi.sum(2), ctx.n), carry

    def read(self, q: Tokens, state: KernelState) -> Tensor:
        """Each row's weighted average of values; 0 from an empty context."""
        y = self.to_q(q.h)
        with torch.autocast(y.device.type, enabled=False):
            y = self._split(y)
            s, z, n = (t.to(y.dtype) for t in state)
            phi = self.query_features(y, z)
            floor = self.floor * n.clamp_min(1)[:, None, None, None]
            read = (phi @ s) / (phi @ z[..., None]).maximum(floor)
        return self.to_out(read.transpose(1, 2).flatten(2).to(self.to_out.weight.dtype))

    def _split(self, h: Tensor) -> Tensor:
        h = h.to(torch.promote_types(h.dtype, torch.float32))
        return h.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


@register("linear")
class Linear(KernelMixer):
    """Linear attention phi(q)'S / phi(q)'z with phi = elu + 1 (Katharopoulos et al. 2020, arXiv 2006.16236).

    The cheapest mixer: time O((nc + nt) dz dh), state O(dz dh), and the state is a plain sum, so that with
    `context="raw"` points are inserted and removed exactly. A kernel smoother: it resolves less than softmax.
    """

    paper = "2006.16236"
    published = "n"
    cost = "(nc + nt) dz^2 / h"

    def features(self, k: Tensor) -> Tensor:
        """elu + 1, positive."""
        return elu(k) + 1
