"""What bootstrapping neural processes share: bootstraps of the context in place of a latent variable."""

from abc import abstractmethod
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from npexp.batch import count, real
from npexp.errors import at_least
from npexp.layers.mlp import Entry
from npexp.likelihoods import Likelihood, Predictive, SetMixture
from npexp.models.base import NeuralProcess, Points, State
from npexp.ops.order import canonical_order
from npexp.ops.tree import tensors, tree_map

STREAM_SEED = 0


class BootstrapSummary(NamedTuple):
    """What is kept of the context, and of its bootstraps, whose tensors start with the axes `[b, s]`."""

    context: Any
    bootstraps: Any


class BootstrapNeuralProcess(NeuralProcess):
    """A deterministic neural process whose uncertainty about functions comes from resampling the context (Lee et al.
    2020, "Bootstrapping Neural Processes", arXiv 2008.02956).

    The network itself, the *base*, predicts the context from s resampled contexts (paired bootstrap). The standardised
    residuals of what was observed are resampled in turn, centred, and added to those predictions (residual bootstrap),
    which gives s contexts with the original inputs and other outputs. Each is encoded and reaches the decoder's first
    hidden layer through a linear map of its own, beside the representation of the real context. A prediction is the
    equal mixture over the s bootstraps: joint, as a task's targets share theirs. Resampling takes no gradient.

    `predict` reads resampling indices off one fixed stream of uniform numbers that all tasks share, after sorting each
    context canonically, so it is deterministic and neither order, padding nor batch mates matter. Objectives draw their
    own through `bootstrap`. Conditioning encodes the context 2 s + 1 times and decodes it s times, predicting reads
    s + 1 summaries; updates recompute.

    Args:
        dx: input size.
        dy: output size.
        num_samples: bootstraps that `predict` mixes over.
    """

    def __init__(self, dx: int, dy: int, num_samples: int):
        super().__init__(dx, dy)
        self.num_samples = at_least("num_samples", num_samples, 1)

    def _use_decoder(self, likelihood: Likelihood | None, dim_r: int, dz: int, depth: int) -> None:
        """Sets the decoder: a linear layer, to which a bootstrap is added, and `depth - 1` more that end in the law."""
        at_least("depth_decoder", depth, 2)
        self.enter = Entry(dim_r + self.dx, dz)
        self.inject = Entry(dim_r, dz, bias=False)
        self._use_head(likelihood, dz, dz, depth - 1)
        self.joint = True  # a mixture over sets, whatever its components

    def bootstrap(
        self,
        xc: Float[Tensor, "b nc dx"],
        yc: Float[Tensor, "b nc dy"],
        mask_c: Bool[Tensor, "b nc"] | None,
        num_samples: int,
    ) -> State:
        """`encode` with so many bootstraps drawn afresh from PyTorch's generator, for training."""
        points = Points(*(None if p is None else p.clone() for p in self._points(xc, yc, mask_c)))
        b, n = points.x.shape[:2]
        stream = torch.rand(n, 2, num_samples, b, dtype=torch.float64, device=points.x.device)
        return State(self._summarise(points, stream), count(points.mask, points.x), points)

    def base(
        self, state: State, xt: Float[Tensor, "b nt dx"], mask_t: Bool[Tensor, "b nt"] | None = None
    ) -> Predictive:
        """The law without bootstraps, which training keeps good: residuals are measured under it."""
        return self._law(state.summary.context, self._targets(state, xt, mask_t), mask_t)

    def _encode(self, points: Points) -> BootstrapSummary:
        # NumPy fills in order, so what a point draws does not depend on how many follow
        stream = np.random.default_rng(STREAM_SEED).random((points.x.shape[1], 2, self.num_samples, 1))
        return self._summarise(points, torch.as_tensor(stream, device=points.x.device))

    def _predict(self, state: State, xt: Tensor, mask_t: Tensor | None) -> SetMixture:
        context, bootstraps = state.summary
        s = tensors(bootstraps)[0].shape[1]
        side_by_side = tree_map(lambda t: t.transpose(0, 1).flatten(0, 1), bootstraps)  # [s b, ...]
        r = self.inject(self._read(side_by_side, xt.repeat(s, 1, 1)))
        hidden = self._hidden(context, xt) + r.unflatten(0, (s, -1))
        return SetMixture(self.head(hidden.relu(), mask_t))

    def _summarise(self, points: Points, stream: Float[Tensor, "n 2 s #b"]) -> BootstrapSummary:
        """The summary for given uniform numbers: point, paired or residual bootstrap, sample, task."""
        s = stream.shape[2]
        order = canonical_order(*points)
        points = Points(*(None if p is None else _rows(p, order) for p in points))
        with torch.no_grad():
            resampled = self._resample(points, stream)
        bootstraps = self._represent(resampled)
        return BootstrapSummary(
            self._represent(points), tree_map(lambda t: t.unflatten(0, (s, -1)).transpose(0, 1), bootstraps)
        )

    def _resample(self, points: Points, stream: Tensor) -> Points:
        """Contexts `[s b, n, ...]` with the inputs of `points`, which are sorted, and resampled outputs."""
        n = count(points.mask, points.x)
        # [2, s, b, n]; padded slots come last, so indices below n are real points
        index = (stream.movedim(0, -1) * n[:, None]).long().minimum(n[:, None] - 1).clamp_min(0)
        paired, residual = index
        s = len(paired)
        x, y = (p.repeat(s, 1, 1) for p in points[:2])
        mask = None if points.mask is None else points.mask.repeat(s, 1)

        drawn = Points(*(_rows(p, paired).flatten(0, 1) for p in points[:2]), mask)
        law = self._law(self._represent(drawn), x, mask)
        mean = law.mean
        stddev = law.stddev.clamp_min(torch.finfo(mean.dtype).eps)  # a law may be certain, of 0 or 1 say
        residuals = (y - mean) / stddev
        residuals = residuals.gather(1, residual.flatten(0, 1)[..., None].expand_as(residuals))
        residuals = residuals.where(real(mask, x)[..., None], 0.0)
        centre = residuals.sum(1, keepdim=True) / n.clamp_min(1).repeat(s)[:, None, None]  # as released: of those drawn
        return Points(x, (mean + stddev * (residuals - centre)).to(y.dtype), mask)

    def _law(self, summary: Any, x: Tensor, mask: Tensor | None) -> Predictive:
        return self.head(self._hidden(summary, x).relu(), mask)

    def _hidden(self, summary: Any, x: Tensor) -> Tensor:
        return self.enter((*self._read(summary, x), x))

    @abstractmethod
    def _represent(self, points: Points) -> Any:
        """What is kept of a context, a nested tuple of tensors whose first axis is b."""

    @abstractmethod
    def _read(self, summary: Any, xt: Tensor) -> tuple[Tensor, ...]:
        """The context as each target sees it, in parts: `[b, nt, d]`, or `[b, 1, d]` where all see the same."""


def _rows(values: Tensor, index: Tensor) -> Tensor:
    """Rows of each task: values `[b, n, ...]` at index `[*s, b, k]` to `[*s, b, k, ...]`."""
    return values[torch.arange(len(values), device=values.device)[:, None], index]
