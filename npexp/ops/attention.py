"""Softmax attention, whole and in mergeable parts.

Masks are boolean over the keys, `[b, nk]` for all rows or `[b, nq, nk]` for each, True = may be attended. An empty key
set gives 0, never NaN.
"""

import functools
import itertools
import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

TILE = 2**18  # logits at a time on a CPU: 1 MiB in float32
WIDE = 64 * TILE  # elsewhere, where starting many small operations would take longer than they do


def attend(
    q: Float[Tensor, "b h nq dh"],
    k: Float[Tensor, "b h nk dh"],
    v: Float[Tensor, "b h nk dh"],
    mask: Bool[Tensor, "b *nq nk"] | None = None,
    scale: float | None = None,
) -> Float[Tensor, "b h nq dh"]:
    """Softmax attention through PyTorch's fused kernel: time O(nq nk), memory O(nq + nk).

    A mask `[b, nk]` is broadcast, never materialised to `[b, h, nq, nk]`, and `q`, `k` and `v` share one head size:
    either slip would silently select the quadratic-memory path.
    """
    if k.shape[2] == 0:  # zeros, but with a graph: distributed training wants a gradient for every parameter
        return attend_part(q, k, v).out.to(q.dtype)
    return scaled_dot_product_attention(q, k.to(q.dtype), v.to(q.dtype), _per_head(mask), scale=scale)


def attend_naive(
    q: Float[Tensor, "b h nq dh"],
    k: Float[Tensor, "b h nk dh"],
    v: Float[Tensor, "b h nk dh"],
    mask: Bool[Tensor, "b *nq nk"] | None = None,
    scale: float | None = None,
) -> Float[Tensor, "b h nq dh"]:
    """Twin of `attend` that spells out the softmax."""
    return attend_part(q, k, v, mask, scale).out


class Part(NamedTuple):
    """Softmax attention over some of the keys, in a form that can be merged with the rest.

    Args:
        out: average of the values, `[b, h, nq, dv]`.
        lse: log-sum-exp of the masked logits, `[b, h, nq]`; -inf for an empty key set.
    """

    out: Tensor
    lse: Tensor


def attend_part(
    q: Float[Tensor, "b h nq dh"],
    k: Float[Tensor, "b h nk dh"],
    v: Float[Tensor, "b h nk dv"],
    mask: Bool[Tensor, "b *nq nk"] | None = None,
    scale: float | None = None,
    bias: Float[Tensor, "#b h nq nk"] | None = None,
) -> Part:
    """Softmax attention with its log-normaliser: time O(nq nk), in float32 or better.

    A bias is added to the scaled logits; where it is -inf there is no attention. With gradients memory is O(nq nk);
    without, keys are taken so many at a time that logits stay in the cache of a CPU, or are few for a GPU.
    """
    size = max(64, (TILE if q.is_cpu else WIDE) // max(math.prod(q.shape[:-1]), 1))
    if not torch.is_grad_enabled() and k.shape[2] > size:
        wholes = (None if t is None else t.split(size, -1) for t in (mask, bias))
        masks, biases = (itertools.repeat(None) if t is None else t for t in wholes)
        tiles = zip(k.split(size, 2), v.split(size, 2), masks, biases, strict=False)
        return functools.reduce(merge_parts, (attend_part(q, *kv, m, scale, b) for *kv, m, b in tiles))
    dtype = torch.promote_types(q.dtype, torch.float32)
    with torch.autocast(q.device.type, enabled=False):
        logits = (q.to(dtype) * (q.shape[-1] ** -0.5 if scale is None else scale)) @ k.to(dtype).mT
        if bias is not None:  # -inf where there is no attention; the rest is for gradients: inf - inf is NaN
            logits = (logits + bias.to(dtype)).masked_fill(bias == -torch.inf, -torch.inf)
        if mask is not None:
            logits = logits.masked_fill(~_per_head(mask), -torch.inf)
        top = logits.new_zeros(logits.shape[:-1]) if logits.shape[-1] == 0 else _finite(logits.detach().amax(-1))
        weights = logits.sub_(top[..., None]).exp_()
        mass = weights.sum(-1)
        some = mass != 0
        mass = torch.where(some, mass, 1.0)  # nothing to attend to: weights are 0, and gradients must be numbers
        return Part(weights @ v.to(dtype) / mass[..., None], torch.where(some, top + mass.log(), -torch.inf))


def merge_parts(a: Part, b: Part) -> Part:
    """Attention over the union of two disjoint key sets; the identity is (0, -inf).

    The rescaling of Feng et al. 2024 (arXiv 2305.14567, section 4) written symmetrically: nothing is exponentiated
    but non-positive numbers, so no logit is too large.
    """
    nothing = torch.maximum(a.lse, b.lse) == -torch.inf  # of which logaddexp has no gradient but NaN
    lse = torch.logaddexp(a.lse.masked_fill(nothing, 0.0), b.lse).masked_fill(nothing, -torch.inf)
    shift = _finite(lse)
    return Part((a.lse - shift).exp()[..., None] * a.out + (b.lse - shift).exp()[..., None] * b.out, lse)


def split_part(whole: Part, gone: Part) -> Part:
    """Attention over the keys that are left when some are taken out; undoes `merge_parts`.

    Rounding errors of both are magnified by the share of mass that is left, 1 - exp(gone.lse - whole.lse). Where
    nothing seems to be left the result is empty.
    """
    t = gone.lse - _finite(whole.lse)
    share = (-t.expm1()).clamp_min(0.0)
    some = share > 0
    left = (whole.out - t.exp()[..., None] * gone.out) / torch.where(some, share, torch.ones_like(share))[..., None]
    return Part(torch.where(some[..., None], left, torch.zeros_like(left)), whole.lse + share.log())


def share_part(part: Part, whole: Part) -> Part:
    """What a part adds to the whole it has been merged into, to first order: shares of all parts add up.

    With the final log-normaliser l held fixed a part brings w o_i to the numerator and w to the denominator,
    w = exp(l_i - l). Linearised at the whole (o, l), that is w (o_i - o) to the average and w to its log-normaliser, so
    that the gradient of the whole by any one part needs neither the other parts nor how they were merged.
    """
    out, shift = whole.out.detach(), _finite(whole.lse.detach())
    weight = (part.lse - shift).exp()
    return Part(weight[..., None] * (part.out - out), weight)


def _per_head(mask: Tensor | None) -> Tensor | None:
    """The mask with axes for heads and, where it has none, for rows."""
    return None if mask is None else mask[:, None, None] if mask.ndim == 2 else mask[:, None]


def _finite(lse: Tensor) -> Tensor:
    return torch.where(lse == -torch.inf, torch.zeros_like(lse), lse)
