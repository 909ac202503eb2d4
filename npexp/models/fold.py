"""Conditioning as a fold over chunks of the context, also with gradients, in memory that does not grow with it."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial, reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from npexp.ops.attention import Part, share_part
from npexp.ops.tree import tensors, tree_map

Rows = tuple[Tensor, Tensor, Tensor | None]  # x, y and mask: `Points`
Pool = Callable[[Any, Any], Any]  # the summary of old points, None where there are none, and of new ones


def chunks(points: Rows, size: int) -> Iterator[Rows]:
    """Views of the points, `size` at a time; one empty chunk for an empty set."""
    n = points[0].shape[1]
    return (_rows(points, slice(i, i + size)) for i in (range(0, n, size) if n else [0]))


def fold_and_recompute(pool: Pool, points: Rows, size: int, weights: Iterable[nn.Parameter]) -> tuple[Any, Rows]:
    """The summary of the points, with gradients for which the backward pass computes each chunk again.

    For summaries of sums, of `Part`s, and of what follows from these. Given the whole, the gradient by one chunk needs
    no other, see `share_part`: all that is kept is the points and the summary, and what is computed for a chunk goes
    before the next one comes. A third more operations than keeping everything; no gradients of gradients.

    Args:
        pool: the summary of old points, or None, and new ones.
        points: x, y and mask.
        size: points per chunk.
        weights: of the model.

    Returns:
        A summary in which sums and parts have gradients, and no points, for it to be extended by: what follows from
        sums and parts then has them too.
    """
    # under autocast, weights that were cast here would be remembered, and found again without their gradients
    with torch.no_grad(), _autocast_as_now(points[0])():
        whole = reduce(pool, chunks(points, size), None)
    learnt = [w for w in weights if w.requires_grad]
    leaves = iter(_Recomputed.apply(pool, size, points, whole, *points[:2], *learnt))
    return tree_map(lambda _: next(leaves), whole), _rows(points, slice(0))


class _Recomputed(torch.autograd.Function):
    """The tensors of a folded summary, whose sums and parts have gradients."""

    @staticmethod
    def forward(ctx: Any, pool: Pool, size: int, points: Rows, whole: Any, *inputs: Tensor) -> tuple[Tensor, ...]:
        leaves = tensors(whole)
        ctx.save_for_backward(*points, *leaves)
        ctx.set_materialize_grads(False)
        ctx.pool, ctx.size, ctx.rows, ctx.weights = pool, size, type(points), inputs[2:]
        ctx.autocast = _autocast_as_now(points[0])
        return tuple(leaf.detach() for leaf in leaves)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        x, y, mask, *leaves = ctx.saved_tensors
        of_points: list[tuple[Tensor | None, ...]] = []
        of_weights: list[Tensor | None] = [None] * len(ctx.weights)
        for chunk in chunks(ctx.rows(x, y, mask), ctx.size):
            of_x, of_y, *new = _gradients(ctx, chunk, leaves, grads)
            of_points.append((of_x, of_y))
            of_weights = [b if a is None else a if b is None else a + b for a, b in zip(of_weights, new, strict=True)]
        joined = (None if parts[0] is None else torch.cat(parts, 1) for parts in zip(*of_points, strict=True))
        return None, None, None, None, *joined, *of_weights


def _gradients(ctx: Any, chunk: Rows, leaves: list[Tensor], grads: tuple[Tensor | None, ...]) -> list[Tensor | None]:
    """By a chunk's x and y, and by the weights through this chunk; None where there is none."""
    x, y = (t.detach().requires_grad_(need) for t, need in zip(chunk[:2], ctx.needs_input_grad[4:6], strict=True))
    with torch.enable_grad(), ctx.autocast():
        part, whole = ctx.pool(None, ctx.rows(x, y, chunk[2])), iter(leaves)
        shares = _shares(part, tree_map(lambda _: next(whole), part))
    pairs = [(s, g) for s, g in zip(shares, grads, strict=True) if g is not None and s.requires_grad]
    inputs = [x, y, *ctx.weights]
    learnt = [t for t in inputs if t.requires_grad]
    if not pairs:  # what learns is behind the summary
        return [None] * len(inputs)
    outs, of_outs = zip(*pairs, strict=True)
    found = iter(torch.autograd.grad(outs, learnt, of_outs, allow_unused=True))
    return [next(found) if t.requires_grad else None for t in inputs]


def _shares(part: Any, whole: Any) -> list[Tensor]:
    """What a chunk's summary adds to that of all, to first order, tensor by tensor."""
    if isinstance(part, Part):
        return list(share_part(part, whole))
    if isinstance(part, tuple):
        return [share for pair in zip(part, whole, strict=True) for share in _shares(*pair)]
    return [part] if isinstance(part, Tensor) else []


def _rows(points: Rows, which: slice) -> Rows:
    return type(points)(*(None if p is None else p[:, which] for p in points))


def _autocast_as_now(like: Tensor) -> Callable[[], torch.autocast]:
    """Makes contexts in which the present autocast holds, but remembers no weights."""
    kind = like.device.type
    dtype, enabled = torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)
    return partial(torch.autocast, kind, dtype, enabled, cache_enabled=False)
