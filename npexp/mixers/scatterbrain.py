"""Sparse and kernel attention at once: each where it is good."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from npexp.errors import at_least
from npexp.layers.pattern import Layout, Pattern, attend_pattern, lay_out
from npexp.mixers.base import Carry, Site, Tokens, register
from npexp.mixers.features import SMALLEST, orthogonal
from npexp.mixers.pattern import PatternMixer, rows_of
from npexp.mixers.windows import Window
from npexp.ops.attention import attend_part


class ScatterState(NamedTuple):
    """The window's keys, each with its features behind it, and sums over all keys as in "performer".

    Args:
        layout: keys `[b, h, nc, dh + m]`.
        s: sum of phi(k) v', `[b, h, m, dh]`.
        z: sum of phi(k), `[b, h, m]`.
    """

    layout: Layout
    s: Tensor
    z: Tensor


class Near(NamedTuple):
    """What a row's window holds: its softmax, and what the kernel says of the same keys.

    Args:
        out: average of the values, `[b, h, m, dh]`.
        lse: log-sum-exp of the logits, `[b, h, m]`.
        num: values weighed by the kernel and summed, `[b, h, m, dh]`.
        den: sum of the kernel's weights, `[b, h, m]`.
    """

    out: Tensor
    lse: Tensor
    num: Tensor
    den: Tensor


@register("scatterbrain")
class Scatterbrain(PatternMixer):
    """Scatterbrain (Chen et al. 2021, arXiv 2110.15343): softmax weights in a window, random features beyond it.

    weight_ij = exp(q.k) for keys in the window and phi(q)'phi(k) for all others, under one denominator: the sums over
    all keys, less what the kernel says of the window. Near keys are where softmax is steep and features fail; what is
    far is smooth. Time O((nc + nt) (w + m) dz), state O(nc m).

    Args:
        site: where in the model it sits.
        window: w, ranks that a row sees on either side.
        num_features: m per head.
    """

    paper = "2110.15343"
    published = "n (w + m)"
    cost = "(nc + nt) (w + m)"
    dense_limit = {"window": 10**6}

    def __init__(self, site: Site, window: int = 16, num_features: int = 32):
        super().__init__(site)
        self.window, self.dh = at_least("window", window, 1), site.dz // site.num_heads
        self.register_buffer("w", orthogonal(site.num_heads, at_least("num_features", num_features, 1), self.dh))

    def patterns(self) -> list[Pattern]:
        return [Window(self.window)]

    def summarise(self, ctx: Tokens, carry: Carry = None) -> tuple[ScatterState, Carry]:
        """Keys with features, and the sums over real points."""
        kv, rows, (pattern,) = self.attention.project(ctx.h), rows_of(ctx), self.patterns()
        with torch.autocast(ctx.h.device.type, enabled=False):  # which would round the sums
            phi = self._log_features(kv.k).exp() * rows.real[:, None, :, None]
            layout = lay_out(pattern, torch.cat([kv.k, phi], -1), kv.v, rows)
            return ScatterState(layout, phi.mT @ kv.v, phi.sum(2)), carry

    def read(self, q: Tokens, state: ScatterState) -> Tensor:
        """Both parts of each row on one scale; 0 from an empty context."""
        heads, (pattern,) = self.attention.query(q.h), self.patterns()
        with torch.autocast(heads.device.type, enabled=False):
            heads = heads.to(state.s.dtype)
            logs = self._log_features(heads)
            top = (logs + state.z.clamp_min(SMALLEST).log()[:, :, None]).detach().amax(-1, keepdim=True)
            phi = (logs - top).exp()
            near = attend_pattern(pattern, torch.cat([heads, phi], -1), rows_of(q), state.layout, self._near)
            scale = torch.maximum(top[..., 0], near.lse.detach())
            far, close = (top[..., 0] - scale).exp(), (near.lse - scale).exp()
            den = far * (phi @ state.z[..., None] - near.den[..., None])[..., 0].clamp_min(0) + close
            num = far[..., None] * (phi @ state.s - near.num) + close[..., None] * near.out
            return self.attention.merge(num / torch.where(den > 0, den, 1.0)[..., None])  # 0 / 1 from an empty context

    def _near(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Near:
        (q, phi_q), (k, phi_k) = (t.tensor_split([self.dh], -1) for t in (q, k))
        part = attend_part(q, k, v, mask)
        weight = (phi_q @ phi_k.mT) * mask[:, None]
        return Near(part.out, part.lse, weight @ v, weight.sum(-1))

    def _log_features(self, y: Tensor) -> Tensor:
        """log phi: the features' products estimate exp(q.k / sqrt(dh)), each side with its half of the 1 / m."""
        y = y * self.dh**-0.25
        return y @ self.w.to(y.dtype).mT - (y.square().sum(-1, keepdim=True) + math.log(self.w.shape[1])) / 2
