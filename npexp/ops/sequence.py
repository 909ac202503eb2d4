"""Along the ranks of a task: a Fourier transform of each task's own length, and linear recurrences."""

import math

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor
from torch.nn.functional import pad


def fourier_half_ranks(h: Float[Tensor, "b n d"], n: Int[Tensor, " b"]) -> Float[Tensor, "b m d"]:
    """Real part of the DFT over a task's own n rows and the d features, at every multiple of half a frequency.

    Row m holds frequency m / 2, m = 0 .. 2n - 1; what follows, at least one row, means nothing. Even rows are
    `torch.fft.fft2(h[i, :n]).real`, odd rows lie halfway between.

    Lengths differ, so the DFT is a convolution with a chirp (Bluestein 1970): j m = (j^2 + m^2 - (m - j)^2) / 2. Time
    O(N log N d) for N slots, with nothing but the chirp depending on the length; in float32 or better.

    Args:
        h: rows in order, real ones first; later ones may hold anything.
        n: real rows.
    """
    real = torch.promote_types(h.dtype, torch.float32)
    with torch.autocast(h.device.type, enabled=False):
        h = pad(h.to(real), (0, 0, 0, 1))  # a row to spare: of none there is no FFT
        slots = torch.arange(2 * h.shape[1], device=h.device)
        inside = slots[: h.shape[1]] < n[:, None]
        z = torch.fft.fft(torch.where(inside[..., None], h, torch.zeros_like(h)))
        length = 2 * n.clamp_min(1)[:, None]
        # exp(i pi slot^2 / length), whose argument grows with n^2: reduced in integers, exactly
        angle = (slots.square() % (2 * length)).double() * math.pi / length
        chirp = torch.polar(torch.ones_like(angle), angle).to(z.dtype)  # [b, m]
        size = 1 << (len(slots) + h.shape[1] - 2).bit_length()  # of a circle in which nothing overlaps
        around = pad(chirp, (0, size - len(slots)))
        around[:, size - h.shape[1] + 1 :] = chirp[:, 1 : h.shape[1]].flip(1)  # it is symmetric
        z = torch.fft.fft(z * chirp[:, : h.shape[1], None].conj(), size, dim=1) * torch.fft.fft(around)[..., None]
        return (torch.fft.ifft(z, dim=1)[:, : len(slots)] * chirp[..., None].conj()).real


def fourier_half_ranks_naive(h: Tensor, n: Tensor) -> list[Tensor]:
    """Twin of `fourier_half_ranks` that multiplies with the matrix of the DFT, `[2n, d]` for each task."""
    out = []
    for rows, count in zip(h, n.tolist(), strict=True):
        jm = torch.arange(2 * count).outer(torch.arange(count)).to(h.dtype)
        cd = torch.arange(h.shape[-1]).outer(torch.arange(h.shape[-1])).to(h.dtype)
        ranks, features = (torch.exp(-2j * math.pi * t / size) for t, size in ((jm, 2 * count or 1), (cd, len(cd))))
        out.append((ranks @ rows[:count].to(ranks.dtype) @ features).real)
    return out


def linear_recurrence(decay: Num[Tensor, "b n m"], value: Num[Tensor, "b n m"]) -> Num[Tensor, "b n m"]:
    """s_j = decay_j s_(j-1) + value_j from s_(-1) = 0, real or complex: work and memory O(n m) in 2 log2(n) steps.

    Pairs of steps are joined into one, the recurrence of half the length is solved alike, and the states in between
    follow (Blelloch 1990). Nothing is divided, so decays may be 0.
    """
    n = value.shape[1]
    if n < 2:
        return value
    first, second = slice(0, n - 1, 2), slice(1, n, 2)
    joined = value[:, second] + decay[:, second] * value[:, first]
    odd = linear_recurrence(decay[:, second] * decay[:, first], joined)
    before = pad(odd, (0, 0, 1, 0))[:, : (n + 1) // 2]
    states = torch.empty_like(value)
    states[:, ::2] = value[:, ::2] + decay[:, ::2] * before
    states[:, 1::2] = odd
    return states


def linear_recurrence_naive(decay: Tensor, value: Tensor) -> Tensor:
    """Twin of `linear_recurrence`, step by step."""
    s, states = torch.zeros_like(value[:, 0]), []
    for a, b in zip(decay.unbind(1), value.unbind(1), strict=True):
        s = a * s + b
        states.append(s)
    return torch.stack(states, 1)
