"""Entmax: a softmax that gives most of what it weighs exactly 0, and attention with it."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from npexp.ops.scan import remember_inputs

STEPS = 16  # of Newton's method at most: rounding is reached after six as a rule, and eleven with 10,000 near ties


def entmax(
    logits: Float[Tensor, "*#batch n"],
    alpha: Float[Tensor, "*#batch 1"],
    mask: Bool[Tensor, "*#batch n"] | None = None,
) -> Float[Tensor, "*batch n"]:
    """alpha-entmax (Peters et al. 2019, arXiv 1905.05702): p_i = [(alpha - 1) s_i - tau]_+^(1 / (alpha - 1)).

    The number tau is the one with which p sums to 1. Softmax is the limit alpha -> 1, sparsemax is alpha = 2. Time and
    memory O(n) per row, in float32 or better, with gradients in the logits and in alpha (Correia et al. 2019, arXiv
    1909.00015). What is masked gets exactly 0, and so does everything where all is.

    tau is found by Newton's method on the norm of z = [(alpha - 1) s - tau]_+ with exponent 1 / (alpha - 1), which is 1
    at the solution, convex, and all but straight: from below it never overshoots, however large the logits.

    Args:
        logits: s.
        alpha: above 1, at most 2; rounding errors are magnified by 1 / (alpha - 1).
        mask: which may have weight.
    """
    dtype = torch.promote_types(logits.dtype, torch.float32)
    with torch.autocast(logits.device.type, enabled=False):
        scale, power, s = alpha.to(dtype) - 1, 1 / (alpha.to(dtype) - 1), logits.to(dtype)
        if s.shape[-1] == 0:
            return s * scale
        keep = torch.ones_like(s, dtype=torch.bool) if mask is None else mask | ~mask.any(-1, keepdim=True)
        s = torch.where(keep, s, 0.0)
        top = s.detach().masked_fill(~keep, -torch.inf).amax(-1, keepdim=True)
        u = torch.where(keep, scale * (s - top), -2.0)  # at most 0, and tau is at least -1
        with torch.no_grad():
            tau = torch.full_like(u[..., :1], -1.0)
            for _ in range(STEPS):
                z = (u - tau).clamp_min(0)
                less = torch.where(z > 0, z.pow(power - 1), 0.0)
                total, slope = (z * less).sum(-1, keepdim=True), less.sum(-1, keepdim=True)
                step = (total - total ** (1 - scale)) / slope
                tau = tau + step
                if bool((step <= torch.finfo(dtype).eps).all()):
                    break
        p = (u - tau).clamp_min(0).pow(power)
        # a last step, to first order: next to nothing, but with the derivatives of an exact solution
        p = (p - less / slope * (p.sum(-1, keepdim=True) - 1)).clamp_min(0)
        return p if mask is None else torch.where(mask, p, 0.0)


def entmax_naive(
    logits: Float[Tensor, "*#batch n"], alpha: Float[Tensor, "*#batch 1"], mask: Bool[Tensor, "*#batch n"] | None = None
) -> Float[Tensor, "*batch n"]:
    """Twin of `entmax` that halves the interval in which tau is; without gradients."""
    with torch.no_grad():
        s = logits if mask is None else logits.masked_fill(~mask, -torch.inf)
        s = (alpha - 1) * s
        high = s.amax(-1, keepdim=True)
        low = high - 1
        for _ in range(80):
            tau = (low + high) / 2
            large = (s - tau).clamp_min(0).pow(1 / (alpha - 1)).sum(-1, keepdim=True) > 1
            low, high = torch.where(large, tau, low), torch.where(large, high, tau)
        return (s - low).clamp_min(0).pow(1 / (alpha - 1)).nan_to_num(0.0)  # a row of nothing is NaN


def entmax_attend(
    q: Float[Tensor, "b h nq dh"],
    k: Float[Tensor, "b h nk dh"],
    v: Float[Tensor, "b h nk dh"],
    alpha: Float[Tensor, " h"],
    mask: Bool[Tensor, "b *nq nk"] | None = None,
    tile: int = 256,
) -> Float[Tensor, "b h nq dh"]:
    """Attention with alpha-entmax of q.k / sqrt(dh) in place of softmax, in float32 or better.

    Time O(nq nk), memory O(tile nk + nq dh), with gradients too, for which each tile is computed again. An empty key
    set gives 0.

    Args:
        q: queries.
        k: keys.
        v: values.
        alpha: of each head.
        mask: which keys may be attended, by all rows or by each.
        tile: queries at a time.
    """
    nq = q.shape[2]
    if mask is not None:
        mask = (mask[:, None] if mask.ndim == 2 else mask).expand(-1, nq, -1)[:, None]
    if nq <= tile:
        return _rows(q, k, v, alpha, mask)
    parts = (slice(i, i + tile) for i in range(0, nq, tile))
    return torch.cat(
        [remember_inputs(_rows, q[:, :, i], k, v, alpha, None if mask is None else mask[:, :, i]) for i in parts], 2
    )


def _rows(q: Tensor, k: Tensor, v: Tensor, alpha: Tensor, mask: Tensor | None) -> Tensor:
    dtype = torch.promote_types(q.dtype, torch.float32)
    with torch.autocast(q.device.type, enabled=False):
        logits = q.to(dtype) @ k.to(dtype).mT * q.shape[-1] ** -0.5
        return entmax(logits, alpha[:, None, None], mask) @ v.to(dtype)
