"""Synthesizers: attention whose weights are not products of queries and keys."""

from abc import abstractmethod

import torch
from torch import Tensor, nn

from npexp.errors import at_least
from npexp.layers.mlp import mlp
from npexp.mixers.base import Carry, Site, Tokens, register
from npexp.mixers.knots import KnotMixer, KnotState


class _Synthesizer(KnotMixer):
    """softmax(logits) V with values V on G knots and one logit per knot and head, from anything but keys.

    Tay et al. 2021 (arXiv 2005.00743). Whether they do as well as "dense" on a task tells whether comparing contents
    matters there. Time O((nc + nt) G dz), state O(G dz).
    """

    paper = "2005.00743"
    published = "n^2"

    def __init__(self, site: Site, num_knots: int):
        super().__init__(site, num_knots)
        self.num_heads = site.num_heads
        self.to_v = nn.Linear(site.dz, site.dz, bias=False)
        self.to_out = nn.Linear(site.dz, site.dz)

    @abstractmethod
    def logits(self, q: Tokens) -> Tensor:
        """One number per row, head and knot, `[b, n, h, G]`."""

    def summarise(self, ctx: Tokens, carry: Carry = None) -> tuple[KnotState, Carry]:
        """Values on the knots."""
        knots = self.gather(ctx, ctx.h)
        return KnotState(self.to_v(knots).to(knots.dtype)), carry

    def read(self, q: Tokens, state: KnotState) -> Tensor:
        """Each row's average of the knots' values."""
        values = state.rows.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        weights = self.logits(q).transpose(1, 2).to(values.dtype).softmax(-1)
        return self.to_out((weights @ values).transpose(1, 2).flatten(2).to(self.to_out.weight.dtype))

    def _along(self, q: Tokens, table: Tensor) -> Tensor:
        """A learned table `[G, h, d]` at the places of q, `[b, n, h, d]`."""
        rows = self.at(q, table.flatten(1).expand(q.h.shape[0], -1, -1))
        return rows.unflatten(-1, table.shape[1:])


@register("synthesizer_dense")
class DenseSynthesizer(_Synthesizer):
    """Dense Synthesizer (arXiv 2005.00743): softmax(W2 relu(W1 h)); a row's content alone chooses among the knots.

    Args:
        site: where in the model it sits.
        num_knots: G.
    """

    def __init__(self, site: Site, num_knots: int = 64):
        super().__init__(site, num_knots)
        self.network = mlp(site.dz, site.dz, site.num_heads * num_knots, 2)

    def logits(self, q: Tokens) -> Tensor:
        """W2 relu(W1 h)."""
        return self.network(q.h).unflatten(-1, (self.num_heads, -1))


@register("synthesizer_random")
class RandomSynthesizer(_Synthesizer):
    """Random Synthesizer (arXiv 2005.00743): softmax(R), a learned G x G matrix per head whatever the data.

    A row reads with its own place's row of R, interpolated.

    Args:
        site: where in the model it sits.
        num_knots: G.
    """

    asks = False

    def __init__(self, site: Site, num_knots: int = 64):
        super().__init__(site, num_knots)
        self.table = nn.Parameter(torch.randn(num_knots, site.num_heads, num_knots))

    def logits(self, q: Tokens) -> Tensor:
        """R(u)."""
        return self._along(q, self.table)


@register("synthesizer_factorised_random")
class FactorisedRandomSynthesizer(_Synthesizer):
    """Factorised random Synthesizer (arXiv 2005.00743): softmax(R1 R2') with R1 and R2 of k columns; fewer weights.

    Args:
        site: where in the model it sits.
        num_knots: G.
        rank: k.
    """

    asks = False

    def __init__(self, site: Site, num_knots: int = 64, rank: int = 8):
        super().__init__(site, num_knots)
        size, scale = (num_knots, site.num_heads, at_least("rank", rank, 1)), rank**-0.25  # products of variance 1
        self.left = nn.Parameter(scale * torch.randn(size))
        self.right = nn.Parameter(scale * torch.randn(size))

    def logits(self, q: Tokens) -> Tensor:
        """R1(u) R2'."""
        return torch.einsum("bnhk,ghk->bnhg", self._along(q, self.left), self.right)


@register("synthesizer_factorised_dense")
class FactorisedDenseSynthesizer(_Synthesizer):
    """Factorised dense Synthesizer (arXiv 2005.00743): softmax of all products of a factors with b others, G = a b.

    Both come from a row's content. One chooses among blocks of neighbouring knots, the other within every block; fewer
    weights than "synthesizer_dense".

    Args:
        site: where in the model it sits.
        num_blocks: a.
        block_size: b.
    """

    def __init__(self, site: Site, num_blocks: int = 8, block_size: int = 8):
        super().__init__(site, at_least("num_blocks", num_blocks, 1) * at_least("block_size", block_size, 1))
        self.sizes = (num_blocks, block_size)
        self.network = mlp(site.dz, site.dz, site.num_heads * sum(self.sizes), 2)

    def logits(self, q: Tokens) -> Tensor:
        """A(h) (x) B(h)."""
        a, b = self.network(q.h).unflatten(-1, (self.num_heads, -1)).split(self.sizes, -1)
        return (a[..., :, None] * b[..., None, :]).flatten(-2)
