"""Softmax attention with a bias computed from the inputs, tile by tile: exact, without an `[nq, nk]` matrix."""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from npexp.ops.attention import Part, attend_part, merge_parts

Bias = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""From queries `[b, h, nq, dh]`, keys `[b, h, nk, dh]` and their inputs `[b, nq, dx]`, `[b, nk, dx]` to what is added
to the logits, `[b, h, nq, nk]`. Every entry may depend on its own pair only."""


def scan_attend(
    q: Float[Tensor, "b h nq dh"],
    k: Float[Tensor, "b h nk dh"],
    v: Float[Tensor, "b h nk dh"],
    xq: Float[Tensor, "b nq dx"],
    xk: Float[Tensor, "b nk dx"],
    bias: Bias,
    mask: Bool[Tensor, "b nk"] | None = None,
    scale: float | None = None,
    tile: int = 512,
) -> Float[Tensor, "b h nq dh"]:
    """Scan attention (Jenson et al. 2024, arXiv 2411.12502): softmax(scale q.k + bias(q, k, xq, xk)) v.

    Online softmax over tiles of keys for each tile of queries: time O(nq nk), memory O((nq + nk) dh + tile^2), and the
    same with gradients, for which every tile is computed again in the backward pass (three times in all). What fits
    into one tile is computed at once. An empty key set gives 0.

    Args:
        q: queries.
        k: keys.
        v: values.
        xq: inputs of the queries.
        xk: inputs of the keys.
        bias: added to the logits; may hold parameters.
        mask: real keys.
        scale: factor of q.k, 1 / sqrt(dh) by default.
        tile: queries and keys per tile.
    """
    nq, nk = q.shape[2], k.shape[2]
    if max(nq, nk) <= tile:
        return attend_part(q, k, v, mask, scale, bias(q, k, xq, xk)).out
    rows = partial(_rows, k=k, v=v, xk=xk, bias=bias, mask=mask, scale=scale, tile=tile)
    starts = range(0, nq, tile) if nq else [0]
    tiles = [remember_inputs(rows, q[:, :, i : i + tile], xq[:, i : i + tile]) for i in starts]
    return torch.cat(tiles, 2)


def scan_attend_naive(
    q: Float[Tensor, "b h nq dh"],
    k: Float[Tensor, "b h nk dh"],
    v: Float[Tensor, "b h nk dh"],
    xq: Float[Tensor, "b nq dx"],
    xk: Float[Tensor, "b nk dx"],
    bias: Bias,
    mask: Bool[Tensor, "b nk"] | None = None,
    scale: float | None = None,
) -> Float[Tensor, "b h nq dh"]:
    """Twin of `scan_attend` that holds all logits at once."""
    logits = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale) + bias(q, k, xq, xk)
    if mask is not None:
        logits = logits.masked_fill(~mask[:, None, None], -torch.inf)
    return logits.softmax(-1).nan_to_num(0.0) @ v  # a row without keys is NaN, here and nowhere else


def _rows(q: Tensor, xq: Tensor, k: Tensor, v: Tensor, xk: Tensor, bias: Bias, mask, scale, tile: int) -> Tensor:
    """One tile of queries over all keys."""
    dtype = torch.promote_types(q.dtype, torch.float32)
    out, lse = q.new_zeros(q.shape, dtype=dtype), q.new_full(q.shape[:-1], -torch.inf, dtype=dtype)
    step = partial(_step, bias=bias, scale=scale)
    for i in range(0, max(k.shape[2], 1), tile):
        s = slice(i, i + tile)
        seen = None if mask is None else mask[:, s]
        out, lse = remember_inputs(step, out, lse, q, xq, k[:, :, s], v[:, :, s], xk[:, s], seen)
    return out


def _step(out: Tensor, lse: Tensor, q: Tensor, xq: Tensor, k: Tensor, v: Tensor, xk: Tensor, mask, bias: Bias, scale):
    part = merge_parts(Part(out, lse), attend_part(q, k, v, mask, scale, bias(q, k, xq, xk)))
    return part.out, part.lse


def remember_inputs(f: Callable, *inputs):
    """f(*inputs), keeping for the backward pass nothing but the inputs. Calls may be nested."""
    if not torch.is_grad_enabled():
        return f(*inputs)
    return checkpoint(f, *inputs, use_reentrant=False, preserve_rng_state=False)
