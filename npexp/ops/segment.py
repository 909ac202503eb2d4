"""Softmax attention in which each key belongs to one segment, and each segment has its own softmax."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from npexp.ops.attention import Part


def attend_segments(
    logits: Float[Tensor, "b h n"],
    v: Float[Tensor, "b h n dh"],
    segment: Int[Tensor, "b n"],
    num_segments: int,
    mask: Bool[Tensor, "b n"] | None = None,
) -> Part:
    """Per segment and head the softmax average of its keys' values, in float32 or better: O(n + num_segments).

    Returns `out` `[b, h, m, dh]` and `lse` `[b, h, m]` for m segments; an empty one has average 0 and lse -inf.

    Args:
        logits: of each key under its segment's query.
        v: values.
        segment: which segment each key belongs to, 0 to m - 1.
        num_segments: m.
        mask: real keys.
    """
    dtype = torch.promote_types(logits.dtype, torch.float32)
    b, h, n = logits.shape
    with torch.autocast(logits.device.type, enabled=False):
        logits, v = logits.to(dtype), v.to(dtype)
        if mask is not None:
            logits = logits.masked_fill(~mask[:, None], -torch.inf)
        index = segment[:, None].expand(b, h, n)
        top = logits.new_full((b, h, num_segments), -torch.inf)
        top = top.scatter_reduce(2, index, logits.detach(), "amax")
        top = torch.where(top == -torch.inf, torch.zeros_like(top), top)
        weight = (logits - top.gather(2, index)).exp()
        total = torch.zeros_like(top).scatter_add(2, index, weight)
        summed = v.new_zeros(b, h, num_segments, v.shape[-1])
        summed = summed.scatter_add(2, index[..., None].expand_as(v), weight[..., None] * v)
        empty = total == 0
        total = torch.where(empty, torch.ones_like(total), total)
        lse = torch.where(empty, torch.full_like(top, -torch.inf), top + total.log())
        return Part(summed / total[..., None], lse)


def attend_segments_naive(
    logits: Float[Tensor, "b h n"],
    v: Float[Tensor, "b h n dh"],
    segment: Int[Tensor, "b n"],
    num_segments: int,
    mask: Bool[Tensor, "b n"] | None = None,
) -> Part:
    """Twin of `attend_segments` that goes through the segments one by one."""
    outs, lses = [], []
    for i in range(num_segments):
        own = segment == i if mask is None else (segment == i) & mask
        part = logits.masked_fill(~own[:, None], -torch.inf)
        lses.append(part.logsumexp(-1))
        weights = torch.where(own.any(-1)[:, None, None], part.softmax(-1), torch.zeros_like(part))
        outs.append((weights[..., None] * v).sum(2))
    return Part(torch.stack(outs, 2), torch.stack(lses, 2))
