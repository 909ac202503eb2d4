"""What all Transformer neural processes share: embed, stack, head."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from npexp.batch import count
from npexp.errors import ConfigError
from npexp.layers.embedding import PointEmbedding
from npexp.layers.moments import Moments
from npexp.likelihoods import Likelihood, Predictive
from npexp.mixers.base import LATER, Carry, Tokens
from npexp.mixers.stack import Stack
from npexp.models.base import NeuralProcess, Points, State
from npexp.ops.order import canonical_order, curve_key, target_rank


class TransformerSummary(NamedTuple):
    """What targets read.

    Args:
        layers: one mixer state per layer.
        n: real context points, `[b]`.
        keys: sorted curve keys of the context, `[b, nc]`, where the mixer needs an order, else None.
        realised: decoded targets that stand behind the context in the layers, in autoregressive models, else None.
        moments: of the context, in models that solve them, else None.
    """

    layers: tuple[Any, ...]
    n: Tensor
    keys: Tensor | None
    realised: Points | None = None
    moments: Moments | None = None


class TransformerNP(NeuralProcess):
    """An embedder, a stack of layers around one mixer, and a head; variants choose the parts in their constructors.

    Targets see the context through the stack's summaries and never each other. Cost, state size, updates and removals
    are the mixer's.

    Args:
        dx: input size.
        dy: output size.
        embedding: points to tokens.
        stack: the layers.
        dz: width of the tokens.
        dim_head: hidden width of the network in front of the likelihood.
        likelihood: the head; None is a Gaussian with floor 0.01.
        sort: brings the context into canonical order first, O(nc log nc), which makes predictions bit-for-bit the same
            for every permutation. Every update then sorts, and encodes, all points anew. Forced where the mixer needs
            an order.
    """

    def __init__(
        self,
        dx: int,
        dy: int,
        embedding: PointEmbedding,
        stack: Stack,
        dz: int,
        dim_head: int,
        likelihood: Likelihood | None,
        sort: bool,
    ):
        super().__init__(dx, dy)
        if not (embedding.absolute or stack.mixer.translation_equivariant):
            raise ConfigError(
                f"expected a mixer that sees differences of x, as tokens carry none, got {type(stack.mixer).__name__}: "
                "take one whose traits say translation_equivariant, such as 'kernel' or 'te'"
            )
        self.embedding, self.stack = embedding, stack
        self.translation_equivariant = not embedding.absolute
        self._use_head(likelihood, dz, dim_head, 2)
        self.sort = sort or stack.mixer.needs_order
        exact = stack.updatable and not self.sort
        self.update_rule = "exact" if exact else "recompute"
        self.remove_rule = "exact" if exact and stack.removable else "none"
        self.constant_state = exact and stack.mixer.state == "constant"
        self.foldable = exact and stack.mixer.foldable
        self.cost = f"{len(stack.blocks)} layers of {stack.mixer.cost}"
        self.permutation_invariant = self.sort or stack.mixer.permutation_invariant

    def training_law(
        self, xc: Tensor, yc: Tensor, xt: Tensor, mask_c: Tensor | None = None, mask_t: Tensor | None = None
    ) -> Predictive:
        """Context and targets in one pass, where the stack can."""
        if self.sort or self.stack.causal or self.train_chunk_size is not None or not self.stack.joins:
            return super().training_law(xc, yc, xt, mask_c, mask_t)
        points = self._points(xc, yc, mask_c)
        n, nc = count(points.mask, points.x), xc.shape[1]
        xt = self._targets(State(None, n, None), xt, mask_t)
        rows = Tokens(self.embedding.both(points.x, points.y, xt), torch.cat([points.x, xt], 1), None, n)
        return self.head(self.stack(rows, nc, points.mask), mask_t)

    def _encode(self, points: Points, carry: Carry = None) -> TransformerSummary:
        keys = None
        if self.sort:
            order = canonical_order(*points)
            points = Points(*(None if p is None else _take(p, order) for p in points))
            keys = curve_key(points.x) if self.stack.mixer.needs_order else None
        return self._summarise(points, keys, carry)

    def _summarise(self, points: Points, keys: Tensor | None, carry: Carry) -> TransformerSummary:
        """Of points in their order."""
        tokens = self._context(points)
        return TransformerSummary(self.stack.summarise(tokens, carry), tokens.n, keys)

    def _extend(self, summary: TransformerSummary, points: Points, carry: Carry = None) -> TransformerSummary:
        new = self._context(points, summary)
        return summary._replace(layers=self.stack.extend(summary.layers, new, carry), n=summary.n + new.n)

    def _pool(self, summary: TransformerSummary | None, points: Points) -> TransformerSummary:
        later = LATER if self.foldable else None
        return self._encode(points, later) if summary is None else self._extend(summary, points, later)

    def _retract(self, summary: TransformerSummary, points: Points) -> TransformerSummary:
        old = self._context(points)
        return summary._replace(layers=self.stack.retract(summary.layers, old), n=summary.n - old.n)

    def _predict(self, state: State, xt: Tensor, mask_t: Tensor | None) -> Predictive:
        return self.head(self._features(state.summary, self.embedding.target(xt), xt, mask_t), mask_t)

    def _features(self, summary: TransformerSummary, h: Tensor, xt: Tensor, mask_t: Tensor | None) -> Tensor:
        """Targets, whose tokens are h at first, after all layers."""
        rank = None if summary.keys is None else target_rank(summary.keys, curve_key(xt), summary.n)
        return self.stack.read(Tokens(h, xt, mask_t, summary.n, rank), summary.layers)

    def _context(self, points: Points, before: TransformerSummary | None = None) -> Tokens:
        """Tokens of context points; a causal stack's read those in front of them, `before` included."""
        h = self.embedding.context(points.x, points.y)
        slot = torch.arange(h.shape[1], device=h.device).expand(h.shape[:2])
        if points.mask is not None:
            h = torch.where(points.mask[..., None], h, torch.zeros_like(h))
        n, seen = count(points.mask, points.x), 1 + slots(before) + slot if self.stack.causal else None
        return Tokens(h, points.x, points.mask, n, slot if self.sort else None, seen, slot)


def slots(summary: TransformerSummary | None) -> int:
    """Slots that a dense summary holds, padded ones included."""
    return 0 if summary is None else summary.layers[0].k.shape[2]


def _take(rows: Tensor, order: Tensor) -> Tensor:
    """Rows `[b, n]` or `[b, n, d]` in the given order `[b, n]`."""
    index = order if rows.ndim == 2 else order[..., None].expand_as(rows)
    return rows.gather(1, index)
