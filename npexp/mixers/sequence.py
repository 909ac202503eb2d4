"""Mixers along the ranks of the context itself: Fourier transform, state space and convolution."""

import math
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import conv1d, pad

from npexp.batch import real
from npexp.errors import UnknownNameError, at_least
from npexp.mixers.base import Carry, Mixer, Site, Tokens, register
from npexp.ops.sequence import fourier_half_ranks, linear_recurrence

Norm = Literal["ortho", "backward"]


class _Sequence(Mixer):
    """A mixer whose summary has rows for the ranks of the context."""

    permutation_invariant = False
    needs_order = True
    state = "grows"


class Spectrum(NamedTuple):
    """The transform at every multiple of half a frequency, `[b, m, dz]`, m >= 2 nc."""

    rows: Tensor


@register("fnet")
class FNet(_Sequence):
    """FNet (Lee-Thorp et al. 2022, arXiv 2105.03824): the real part of the DFT over points and features; no weights.

    The transform is over each task's own n points, of which padding is no part; a point of rank r reads frequency r,
    a target the half frequency of its place. Frequencies have nothing to do with where a point lies, so of all mixers
    along the order this one has the least reason to suit irregular data; it is here as the weightless baseline. Time
    O(nc log nc dz + nt dz), state O(nc dz).

    Args:
        site: where in the model it sits.
        norm: "ortho" divides by sqrt(n dz) as an orthonormal DFT does; "backward" is as published, and drowns what a
            row knew of itself the more, the longer the context.
    """

    asks = False
    family = "fixed"
    paper = "2105.03824"
    published = "n log n"
    cost = "nc log nc + nt"

    def __init__(self, site: Site, norm: Norm = "ortho"):
        super().__init__()
        if norm not in get_args(Norm):
            raise UnknownNameError("norm", norm, get_args(Norm))
        self.norm = norm

    def summarise(self, ctx: Tokens, carry: Carry = None) -> tuple[Spectrum, Carry]:
        """The transform."""
        rows = fourier_half_ranks(ctx.h, ctx.n)
        if self.norm == "ortho":
            rows = rows * (ctx.n.clamp_min(1).to(rows.dtype) * rows.shape[-1]).rsqrt()[:, None, None]
        return Spectrum(rows), carry

    def read(self, q: Tokens, state: Spectrum) -> Tensor:
        """The row of each rank; frequencies -1/2 and n - 1/2 are the same."""
        return _take(state.rows, (2 * q.pos).long() % (2 * q.n.clamp_min(1))[:, None]).to(q.h.dtype)


class SSMState(NamedTuple):
    """The states at each context point, and where they are.

    Args:
        before: sum over the points up to this one, `[b, nc, m]`, complex.
        after: sum over this one and those behind, `[b, nc, m]`, complex.
        x: inputs in order, `[b, nc, dx]`.
    """

    before: Tensor
    after: Tensor
    x: Tensor


@register("ssm")
class SSM(_Sequence):
    """Diagonal state-space model of S4's kind (Gu et al. 2022, arXiv 2111.00396), in both directions.

    s_j = exp(-lambda d(j-1, j)) s_(j-1) + B h_j with m complex decays lambda, d the distance of neighbouring inputs,
    exact however irregular. A row continues the states of its neighbours to its own x: what lies at or before its rank
    comes from the left, the rest from the right. Then LN(states) C: sums over points grow with their density.

    Sees distances along one dimension in linear time; with dx > 1 they are lengths of the path through the points in
    canonical order, which says little about who is near whom: take "kernel". Time O((nc + nt) m dz), state O(nc m).

    Args:
        site: where in the model it sits.
        num_states: m, in each direction.
        min_scale: shortest distance over which a state forgets at first, in units of x.
        max_scale: longest one.
    """

    asks = False
    family = "recurrent"
    paper = "2111.00396"
    published = "n"
    cost = "(nc + nt) m"

    def __init__(self, site: Site, num_states: int = 64, min_scale: float = 0.05, max_scale: float = 5.0):
        super().__init__()
        at_least("num_states", num_states, 1)
        at_least("max_scale", max_scale, at_least("min_scale", min_scale, 1e-6))
        rate = -torch.linspace(math.log(min_scale), math.log(max_scale), num_states)
        self.log_rate = nn.Parameter(rate)
        # a state in four only decays, the others turn once, twice and three times meanwhile (S4D-Lin)
        self.frequency = nn.Parameter(2 * math.pi * (torch.arange(num_states) % 4) * rate.exp())
        self.to_states = nn.Linear(site.dz, num_states, bias=False)
        self.norm = nn.LayerNorm(4 * num_states)
        self.to_out = nn.Linear(4 * num_states, site.dz)

    def summarise(self, ctx: Tokens, carry: Carry = None) -> tuple[SSMState, Carry]:
        """Both directions in one scan."""
        b = self.to_states(ctx.h)
        dtype = torch.promote_types(b.dtype, torch.float32)
        with torch.autocast(b.device.type, enabled=False):
            mask = real(ctx.mask, ctx.h)[..., None]
            x = torch.where(mask, ctx.x, torch.zeros_like(ctx.x))
            b = torch.where(mask, b, torch.zeros_like(b)).to(dtype)
            step = self._decay(x[:, 1:], x[:, :-1], dtype)
            decay = torch.cat([pad(step, (0, 0, 1, 0)), pad(step.flip(1), (0, 0, 1, 0))])[:, : b.shape[1]]
            before, after = linear_recurrence(decay, torch.cat([b, b.flip(1)]).to(decay.dtype)).chunk(2)
        return SSMState(before, after.flip(1), x), carry

    def read(self, q: Tokens, state: SSMState) -> Tensor:
        """The neighbours' states, decayed to each row's x."""
        left = q.pos.floor().long()
        inside = torch.stack([left >= 0, left + 1 < q.n[:, None]])
        x, before, after = (pad(t, (0, 0, 0, 1)) for t in (state.x, state.before, state.after))  # never nothing
        parts = []
        for s, i, ok in zip((before, after), (left, left + 1), inside, strict=True):
            i = torch.where(ok, i, torch.zeros_like(i))
            s = _take(s, i) * self._decay(q.x, _take(x, i), s.real.dtype)
            parts.append(torch.where(ok[..., None], s, torch.zeros_like(s)))
        states = torch.cat([t for s in parts for t in (s.real, s.imag)], -1)
        return self.to_out(self.norm(states.to(self.norm.weight.dtype)))

    def _decay(self, x: Tensor, other: Tensor, dtype: torch.dtype) -> Tensor:
        """exp(-lambda |x - other|), `[b, n, m]`."""
        distance = torch.linalg.vector_norm((x - other).to(dtype), dim=-1, keepdim=True)
        return torch.exp(-distance * torch.complex(self.log_rate.exp(), self.frequency))


class ConvState(NamedTuple):
    """Sums over the taps at ranks -1 .. nc, `[b, nc + 2, dz]`, and how many of those there were, `[b, nc + 2, 1]`."""

    rows: Tensor
    taps: Tensor


@register("conv")
class Conv(_Sequence):
    """Convolution along the ranks (Gehring et al. 2017, arXiv 1705.03122), depthwise as in arXiv 1901.10430.

    sum_k w_k v_(r+k) over the 2 w + 1 taps around rank r, scaled up by 2 w + 1 over those which met a point. A target
    lies halfway between two ranks, and so do its taps. Sees the w nearest points on either side and their order, but
    not how far off they are: "ssm" does. Time O((nc + nt) (w + dz) dz), state O(nc dz).

    Args:
        site: where in the model it sits.
        half_width: w.
    """

    asks = False
    family = "fixed"
    paper = "1705.03122"
    published = "n k"
    cost = "(nc + nt) w"
    update = "local"

    def __init__(self, site: Site, half_width: int = 8):
        super().__init__()
        self.half_width = at_least("half_width", half_width, 0)
        self.num_taps = 2 * half_width + 1
        self.to_v = nn.Linear(site.dz, site.dz, bias=False)
        self.taps = nn.Parameter(torch.randn(site.dz, 1, self.num_taps) * self.num_taps**-0.5)
        self.to_out = nn.Linear(site.dz, site.dz)

    def summarise(self, ctx: Tokens, carry: Carry = None) -> tuple[ConvState, Carry]:
        """The convolution, from one rank before the first point to one behind the last."""
        v = self.to_v(ctx.h)
        with torch.autocast(v.device.type, enabled=False):
            mask = real(ctx.mask, ctx.h)[..., None]
            v = torch.where(mask, v, torch.zeros_like(v)).to(torch.promote_types(v.dtype, torch.float32))
            v, valid = (pad(t.mT, (self.half_width + 1,) * 2) for t in (v, mask.to(v.dtype)))
            rows = conv1d(v, self.taps.to(v.dtype), groups=v.shape[1])
            return ConvState(rows.mT, conv1d(valid, torch.ones_like(self.taps[:1]).to(v.dtype)).mT), carry

    def read(self, q: Tokens, state: ConvState) -> Tensor:
        """Each rank's row, halfway between its neighbours' for targets."""
        low, high = (q.pos + 1).floor().long(), (q.pos + 1).ceil().long()
        rows, taps = ((_take(t, low) + _take(t, high)) / 2 for t in state)
        # half a tap is the least that a target next to a point can meet
        return self.to_out((rows * (self.num_taps / taps.clamp_min(0.5))).to(self.to_out.weight.dtype))

    @property
    def reach(self) -> int:
        """The last w points."""
        return self.half_width


def _take(rows: Tensor, index: Tensor) -> Tensor:
    """Rows `[b, n, d]` at the indices `[b, nq]`."""
    return rows.gather(1, index[..., None].expand(-1, -1, rows.shape[-1]))
