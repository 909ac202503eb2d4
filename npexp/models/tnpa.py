"""Autoregressive Transformer neural process, with or without a bounded buffer."""

import torch
from torch import Tensor

from npexp.errors import at_least
from npexp.layers.embedding import PointEmbedding
from npexp.layers.mlp import Activation
from npexp.likelihoods import Decoding, Likelihood, Predictive, Verbs
from npexp.mixers.stack import Stack
from npexp.models.base import Points, State, join
from npexp.models.sequential import SequentialTNP


class TNPA(SequentialTNP):
    """TNP-A (Nguyen & Grover 2022, arXiv 2207.04179): the weights of TNP-D, decoding target by target.

    `predict` gives the chain-rule law in the caller's order: scored in one pass, O((nc + nt)^2), sampled with cached
    keys in nt steps of O(nc + nt). Its moments and marginals are those of each target alone. The context mixes in both
    directions and is invariant to permutations; the order of the targets matters.

    With a `buffer_size` K it is the causal autoregressive buffer (Hassan et al. 2025, arXiv 2510.09477): after every K
    realised targets the context is encoded anew with them in it; K = 1 is TNP-D decoded autoregressively. Training then
    shows no realised target to half of the targets and a random number of them to the others, so that one network
    predicts well from any filling.

    Args:
        dx: input size.
        dy: output size.
        dz: width of the tokens.
        num_layers: layers.
        num_heads: attention heads.
        dim_feedforward: hidden width of the feed-forward networks.
        bias: whether query, key and value maps have a bias.
        norm_first: pre-norm, or post-norm as published.
        activation: of the feed-forward networks: "relu", "gelu" or "geglu".
        depth_embedding: linear layers of the embedder.
        flag: tells targets from context points in the shared embedder.
        dim_head: hidden width of the network in front of the likelihood.
        buffer_size: K, realised targets after which the context is encoded anew; None is never, the published TNP-A.
        likelihood: the head; None is a Gaussian with floor 0.01.
    """

    decoding = Decoding()

    def __init__(
        self,
        dx: int,
        dy: int,
        dz: int = 64,
        num_layers: int = 6,
        num_heads: int = 4,
        dim_feedforward: int = 128,
        bias: bool = False,
        norm_first: bool = False,
        activation: Activation = "relu",
        depth_embedding: int = 4,
        flag: bool = True,
        dim_head: int = 128,
        buffer_size: int | None = None,
        likelihood: Likelihood | None = None,
    ):
        super().__init__(
            dx,
            dy,
            PointEmbedding(dx, dy, dz, depth_embedding, shared=True, flag=flag),
            Stack(
                dx,
                "dense",
                num_layers,
                dz,
                num_heads,
                dim_feedforward,
                {"bias": bias},
                activation=activation,
                norm_first=norm_first,
            ),
            dz,
            dim_head,
            likelihood,
            sort=False,
        )
        self.buffer_size = buffer_size if buffer_size is None else at_least("buffer_size", buffer_size, 1)
        self.cost = f"{num_layers} layers of (nc + nt)^2"

    def training_law(
        self, xc: Tensor, yc: Tensor, xt: Tensor, mask_c: Tensor | None = None, mask_t: Tensor | None = None
    ) -> Predictive:
        """The chain rule; with a buffer, its estimate from random fillings."""
        law = self.chain(self.encode(xc, yc, mask_c), xt, mask_t)
        if self.buffer_size is not None and law.verbs.score is not None:
            law.verbs = law.verbs._replace(score=self._score_fillings)
        return law

    def _verbs(self) -> Verbs:
        return super()._verbs()._replace(absorb=self._absorb)

    def _absorb(self, state: State, x: Tensor, y: Tensor, mask: Tensor | None) -> State:
        held, new = state.summary.realised, self._points(x, y, mask)
        realised = new if held is None else join(held, new)
        if self.buffer_size is not None and realised.x.shape[1] >= self.buffer_size:
            return self.update(state, *realised)
        return state._replace(summary=self._realise(state.summary, new)._replace(realised=realised))

    def _score(self, state: State, xt: Tensor, yt: Tensor, mask_t: Tensor | None) -> Tensor:
        size = self.buffer_size or max(xt.shape[1], 1)
        total = xt.new_zeros(xt.shape[0])
        for i in range(0, xt.shape[1], size):
            x, y, mask = (None if v is None else v[:, i : i + size] for v in (xt, yt, mask_t))
            total = total + super()._score(state, x, y, mask)
            if i + size < xt.shape[1]:
                state = self.update(state, x, y, mask)
        return total

    def _score_fillings(self, state: State, xt: Tensor, yt: Tensor, mask_t: Tensor | None) -> Tensor:
        """The first targets fill the buffer; each target reads none of it, or a random prefix without itself."""
        k = min(self.buffer_size - 1, xt.shape[1])  # a full buffer is emptied before anyone reads it
        buffer = Points(xt[:, :k], yt[:, :k], None if mask_t is None else mask_t[:, :k])
        most = torch.arange(xt.shape[1], device=xt.device).clamp_max(k).expand(xt.shape[:2])
        prefix = 1 + (torch.rand(xt.shape[:2], device=xt.device) * most).long()  # uniform on 1 .. most
        before = torch.where(torch.rand(xt.shape[:2], device=xt.device) < 0.5, 0, prefix.clamp_max(most))
        return self._score_given(state.summary, buffer, xt, yt, mask_t, before)
