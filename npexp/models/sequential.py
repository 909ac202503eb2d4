"""What Transformer neural processes share whose targets can read the targets before them in one pass."""

import torch
from torch import Tensor

from npexp.likelihoods import Verbs
from npexp.mixers.base import Tokens
from npexp.models.base import Points, State
from npexp.models.transformer import TransformerNP, TransformerSummary, slots


class SequentialTNP(TransformerNP):
    """A Transformer NP that scores p(y_1, ..., y_nt) = prod_i p(y_i | C, y_<i) in one pass.

    Realised targets (x_i, y_i) are appended to the keys of every layer, each reading the context and those before it;
    the query for target i reads the context and the realised targets before i. Cost O((nc + nt) nt).
    """

    def _verbs(self) -> Verbs:
        # a head through which targets see each other would hand y_i to target i by way of later queries
        return Verbs(self.dy, self._predict, self.update, self._score if self.consistent else None)

    def _realise(self, summary: TransformerSummary, points: Points) -> TransformerSummary:
        """The summary with realised targets behind the context, which does not change."""
        new = self._context(points)
        seen = 1 + slots(summary) + torch.arange(new.h.shape[1], device=new.h.device).expand(new.h.shape[:2])
        return summary._replace(layers=self.stack.extend(summary.layers, new._replace(seen=seen)))

    def _score(self, state: State, xt: Tensor, yt: Tensor, mask_t: Tensor | None) -> Tensor:
        """Sum over targets of log p(y_i | C, y_<i), `[b]`."""
        before = torch.arange(xt.shape[1], device=xt.device).expand(xt.shape[:2])
        return self._score_given(state.summary, Points(xt, yt, mask_t), xt, yt, mask_t, before)

    def _score_given(
        self,
        summary: TransformerSummary,
        realised: Points,
        xt: Tensor,
        yt: Tensor,
        mask_t: Tensor | None,
        before: Tensor,
    ) -> Tensor:
        """Sum over targets of log p(y_i | C, the first `before[i]` realised points), `[b]`."""
        nr, old = realised.x.shape[1], slots(summary)
        h = self.embedding.both(realised.x, realised.y, xt)
        after = 1 + torch.arange(nr, device=h.device).expand(h.shape[0], nr)  # a realised target reads itself, too
        rows = Tokens(h, torch.cat([realised.x, xt], 1), None, summary.n, None, old + torch.cat([after, before], 1))
        law = self.head(self.stack(rows, nr, realised.mask, summary.layers), mask_t)
        if not self.joint:
            return law.joint_log_prob(yt, mask_t)
        log_prob = law.marginal_log_prob(yt)
        if mask_t is not None:
            log_prob = torch.where(mask_t, log_prob, torch.zeros_like(log_prob))
        return log_prob.sum(-1)
