"""Fourier mixing: FNet at the places where the points are."""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from npexp.errors import at_least
from npexp.mixers.base import Carry, Site, Tokens, register
from npexp.mixers.linear import Additive


class FourierState(NamedTuple):
    """sum_j cos(w_f.x_j) h_j and sum_j sin(w_f.x_j) h_j, `[b, 2, f, dz]`, and the number of points, `[b]`."""

    s: Tensor
    n: Tensor


@register("fnet_x")
class FNetX(Additive):
    """FNet, Fourier mixing over points and channels without weights (Lee-Thorp et al. 2022, arXiv 2105.03824), over x.

    Z_f = sum_j exp(-i w_f.x_j) FFT(h_j), read at x as Re sum_f exp(i w_f.x) Z_f / n, with frequencies in place of the
    ranks that scattered points do not have. Sees differences of x only; the state is a plain sum, so that with
    `context="raw"` points are inserted and removed exactly. Angles are computed in float64, where there is one. Time
    O((nc + nt) f dz), state O(f dz).

    The cheapest mixer that knows where points are, and a coarse one: what matters is never looked up, only low-passed.

    Args:
        site: where in the model it sits.
        num_frequencies: f, from 0 to the largest in even steps, each in a random direction, drawn once.
        max_frequency: the largest, radians per unit of x; variation faster than this is invisible.
    """

    asks = False
    joins = True
    translation_equivariant = True
    paper = "2105.03824"
    published = "n log n"
    cost = "(nc + nt) f dz"

    def __init__(self, site: Site, num_frequencies: int = 32, max_frequency: float = 15.0):
        super().__init__()
        steps = torch.linspace(
            0.0, at_least("max_frequency", max_frequency, 0.0), at_least("num_frequencies", num_frequencies, 1)
        )
        self.register_buffer("frequencies", steps[:, None] * normalize(torch.randn(num_frequencies, site.dx), dim=-1))

    def summarise(self, ctx: Tokens, carry: Carry = None) -> tuple[FourierState, Carry]:
        """The sums over real points. Channels are transformed on reading, which is the same: both are linear."""
        with torch.autocast(ctx.h.device.type, enabled=False):  # which would round the sums
            waves = self._waves(ctx.x)
            if ctx.mask is not None:
                waves = torch.where(ctx.mask[:, None, :, None], waves, torch.zeros_like(waves))
            return FourierState(waves.mT @ ctx.h.to(waves.dtype)[:, None], ctx.n), carry

    def read(self, q: Tokens, state: FourierState) -> Tensor:
        """The transform back at each row's x; 0 from an empty context."""
        with torch.autocast(q.h.device.type, enabled=False):
            cos, sin = self._waves(q.x).unbind(1)
            c, s = state.s.to(cos.dtype).unbind(1)
            z = torch.fft.fft(torch.complex(c, -s), norm="ortho")
            # the published sums grow with n, dz and f; these factors keep the scale of h
            scale = len(self.frequencies) ** -0.5 / state.n.clamp_min(1).to(cos.dtype)
            return ((cos @ z.real - sin @ z.imag) * scale[:, None, None]).to(q.h.dtype)

    def _waves(self, x: Tensor) -> Tensor:
        """Cosines and sines, `[b, 2, n, f]`; far from the origin float32 would lose what is left of whole turns."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        wide = dtype if x.device.type == "mps" else torch.float64  # which that lacks
        turns = x.to(wide) @ (self.frequencies.to(wide) / (2 * math.pi)).mT
        angle = 2 * math.pi * (turns - turns.detach().round()).to(dtype)
        return torch.stack([angle.cos(), angle.sin()], 1)
