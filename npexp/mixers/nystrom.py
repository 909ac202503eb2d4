"""Nystrom attention: softmax through a few landmarks and the inverse of what they have to do with each other."""

import torch
from torch import Tensor

from npexp.batch import real
from npexp.errors import at_least
from npexp.layers.attention import Attention, KeyValue
from npexp.mixers.base import Carry, Mixer, Site, Tokens, register
from npexp.ops.attention import attend_part


@register("nystromformer")
class Nystromformer(Mixer):
    """Nystromformer: softmax(q K~') A^+ softmax(Q~ K') V with A = softmax(Q~ K~') (Xiong et al. 2021).

    Paper: arXiv 2102.03902. The m landmarks K~, Q~ are averages of runs of neighbouring points in canonical order, all
    of the context, so that targets do not see each other; a context of at most m points is its own landmarks. The
    published convolution beside the values needs a line of equidistant points and is left out.

    Time O((nc + nt) m dz + m^3 h), state O(m dz). Close to "dense" where attention is smooth along the order; what is
    sharp is lost in the averages. The iteration, unlike an inverse, damps what is nearly singular.

    Args:
        site: where in the model it sits.
        num_landmarks: m.
        num_iterations: Newton-Schulz steps towards A^+, as published; None takes the pseudo-inverse itself, which is
            exact for at most m points, and dearer.
    """

    family = "latent"
    permutation_invariant = False
    needs_order = True
    paper = "2102.03902"
    published = "n m"
    cost = "nc m + nt m"
    dense_limit = {"num_landmarks": 64, "num_iterations": None}

    def __init__(self, site: Site, num_landmarks: int = 32, num_iterations: int | None = 6):
        super().__init__()
        self.num_landmarks = at_least("num_landmarks", num_landmarks, 1)
        self.num_iterations = None if num_iterations is None else at_least("num_iterations", num_iterations, 1)
        self.attention = Attention(site.dz, site.num_heads)

    def summarise(self, ctx: Tokens, carry: Carry = None) -> tuple[KeyValue, Carry]:
        """Landmark keys, and what reading each is worth."""
        marks, live = self._landmarks(ctx)
        points, kv = self.attention.project(ctx.h, ctx.mask), self.attention.project(marks, live)
        q = self.attention.to_q(marks).to(kv.k.dtype).unflatten(-1, (kv.k.shape[1], -1)).transpose(1, 2)
        seen = attend_part(q, points.k, points.v, ctx.mask).out
        with torch.autocast(q.device.type, enabled=False):
            logits = (q @ kv.k.mT * q.shape[-1] ** -0.5).masked_fill(~live[:, None, None], torch.finfo(q.dtype).min)
            # rows and columns of no landmark are 0 in A, and so they are in its pseudo-inverse
            a = torch.where((live[:, :, None] & live[:, None])[:, None], logits.softmax(-1), torch.zeros_like(logits))
            return kv._replace(v=self._solve(a, seen)), carry

    def read(self, q: Tokens, state: KeyValue) -> Tensor:
        """Attention of each row over the landmarks."""
        return self.attention(q.h, state)

    def _landmarks(self, ctx: Tokens) -> tuple[Tensor, Tensor]:
        """Averages of runs of points as even as can be, `[b, m, dz]`, and which there are, `[b, m]`; O(nc m dz)."""
        slots, marks = (torch.arange(size, device=ctx.h.device) for size in (ctx.h.shape[1], self.num_landmarks))
        count = ctx.n.clamp_max(self.num_landmarks)[:, None]
        run = slots * count // ctx.n.clamp_min(1)[:, None]
        own = (run[:, None] == marks[:, None]) & real(ctx.mask, ctx.h)[:, None]
        with torch.autocast(ctx.h.device.type, enabled=False):
            weight = own.to(torch.promote_types(ctx.h.dtype, torch.float32))
            total = weight @ ctx.h.to(weight.dtype)
            return total / weight.sum(-1, keepdim=True).clamp_min(1), marks < count

    def _solve(self, a: Tensor, y: Tensor) -> Tensor:
        """A^+ Y, each matrix by its own entries only."""
        if self.num_iterations is None:
            # a step of refinement carries the gradient; that of the pseudo-inverse would cube the condition of A
            z = torch.linalg.pinv(a.detach(), rtol=torch.finfo(a.dtype).eps ** 0.5)
            w = z @ y
            return w + z @ (y - a @ w)
        norms = a.sum(-1).amax(-1) * a.sum(-2).amax(-1)
        z = a.mT / norms.clamp_min(torch.finfo(a.dtype).tiny)[..., None, None]
        one = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
        for _ in range(self.num_iterations):
            az = a @ z
            z = z @ (13 * one - az @ (15 * one - az @ (7 * one - az))) / 4
        return z @ y
