"""Random features: kernel attention whose kernel is, on average, that of softmax."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from npexp.errors import at_least
from npexp.mixers.base import Site, register
from npexp.mixers.linear import KernelMixer

LARGEST = 60.0  # of the logs of keys' features, up or down: float32 holds each, and sums of many
SMALLEST = 1e-27  # smallest sum of a feature over keys that is told from 0: below exp(-60)


@register("performer")
class Performer(KernelMixer):
    """Performer: positive orthogonal random features, FAVOR+ (Choromanski et al. 2021, arXiv 2009.14794).

    phi_i(y) = exp(w_i.y - |y|^2 / 2) has E phi(q)'phi(k) = exp(q.k), so that with many features this is softmax
    attention, provided that |q| and |k| are about 1: at 4, as after a layer norm with 16 channels per head, no
    affordable number will do, and it is best seen as a kernel of its own, or given a temperature. The w are drawn once.

    The state is a plain sum without a running maximum, so that with `context="raw"` points are inserted and removed
    exactly. For that, |k| must have a bound, or features of large keys would be 0 in float32: after scaling, norms r of
    keys and queries become r / (1 + (r / R)^4)^(1/4), which is r up to half of R and stays below R. There features are
    between exp(-60) and exp(60); R = sqrt(w^2 + 120) - w with the largest |w| is about 6.7 for heads of 16 channels and
    5 for heads of 64. Rows are stabilised when they read.

    Args:
        site: where in the model it sits.
        num_features: m per head.
        temperature: gives q and k norm 1 and logits t cos(q, k), t learned for each head and at first this one; up to
            about 2 the approximation is good. None is the published form, logits q.k / sqrt(dh).
    """

    paper = "2009.14794"
    published = "n"
    cost = "(nc + nt) m dz"
    floor = 1e-8  # for empty contexts: other denominators are at least 1, as no feature of a key is 0

    def __init__(self, site: Site, num_features: int = 64, temperature: float | None = None):
        super().__init__(site)
        at_least("num_features", num_features, 1)
        self.register_buffer("w", orthogonal(site.num_heads, num_features, site.dz // site.num_heads))
        self.log_temperature = None
        if temperature is not None:
            start = math.log(at_least("temperature", temperature, 1e-6))
            self.log_temperature = nn.Parameter(torch.full((site.num_heads, 1, 1), start))

    def features(self, k: Tensor) -> Tensor:
        """exp(w.k - |k|^2 / 2)."""
        k = self._scale(k)
        return (k @ self.w.mT - k.square().sum(-1, keepdim=True) / 2).exp()

    def query_features(self, q: Tensor, z: Tensor) -> Tensor:
        """exp(w.q) up to a factor that makes the largest term of each row's denominator 1."""
        logits = self._scale(q) @ self.w.mT
        terms = logits + z.clamp_min(SMALLEST).log()[:, :, None]
        return (logits - terms.detach().amax(-1, keepdim=True)).exp()

    def _scale(self, y: Tensor) -> Tensor:
        """Half of the logits' scale for either side, and the bound on norms."""
        if self.log_temperature is None:
            y = y * y.shape[-1] ** -0.25
        else:
            y = normalize(y, dim=-1, eps=1e-6) * (self.log_temperature / 2).exp()
        largest = self.w.norm(dim=-1).amax()
        bound = (largest.square() + 2 * LARGEST).sqrt() - largest  # where bound largest + bound^2 / 2 = LARGEST
        return y * (1 + (y.square().sum(-1, keepdim=True) / bound.square()).square()) ** -0.25


@register("rfa")
class RFA(KernelMixer):
    """Random feature attention: sines and cosines of unit-norm queries and keys (Peng et al. 2021, arXiv 2103.02143).

    phi(y) = [sin(W y), cos(W y)] / sqrt(m) has E phi(q)'phi(k) = exp(-|(q - k) / width|^2 / 2), with norms 1 that of
    softmax with logits q.k / width^2. Unlike "performer" it needs no exponentials and its logits are bounded; but
    features have signs, so that an estimated denominator may be anything: what is below a hundredth per point, where
    the truth at width 1 is at least 0.14, is taken for noise. The recency gate of the paper, which needs an order, is
    left out. With `context="raw"` points are inserted and removed exactly.

    Args:
        site: where in the model it sits.
        num_features: m per head, two features each.
        width: of the kernel, at first; learned for each channel. Much below 1 the estimates drown in noise.
    """

    paper = "2103.02143"
    published = "n"
    cost = "(nc + nt) m dz"
    floor = 0.01

    def __init__(self, site: Site, num_features: int = 64, width: float = 1.0):
        super().__init__(site)
        dh, start = site.dz // site.num_heads, math.log(at_least("width", width, 1e-6))
        self.register_buffer("w", torch.randn(site.num_heads, at_least("num_features", num_features, 1), dh))
        self.log_width = nn.Parameter(torch.full((site.num_heads, 1, dh), start))

    def features(self, k: Tensor) -> Tensor:
        """[sin(W k), cos(W k)] / sqrt(m)."""
        angle = normalize(k, dim=-1, eps=1e-6) @ (self.w * (-self.log_width).exp()).mT
        return torch.cat([angle.sin(), angle.cos()], -1) * self.w.shape[1] ** -0.5


def orthogonal(num_heads: int, num_features: int, dh: int) -> Tensor:
    """Rows like those of a Gaussian matrix, but orthogonal in blocks of dh, `[h, m, dh]`."""
    q, r = torch.linalg.qr(torch.randn(num_heads, -(-num_features // dh), dh, dh))
    # without the signs Q is not uniform: its rows have a mean, and with it the estimates
    directions = (q * r.diagonal(dim1=-2, dim2=-1).sign()[..., None, :]).flatten(1, 2)[:, :num_features]
    return directions * torch.randn(num_heads, num_features, dh).norm(dim=-1, keepdim=True)
