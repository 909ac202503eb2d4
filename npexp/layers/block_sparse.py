"""A feed-forward that uses one hidden unit of every block."""

import torch
from torch import Tensor
from torch.nn.functional import one_hot, pad

from npexp.errors import at_least
from npexp.layers.conditional import Conditional
from npexp.layers.factorised import LowRankLinear
from npexp.layers.mlp import Activation, FeedForward


class BlockSparseFeedForward(Conditional):
    """A feed-forward of whose hidden units one in every block takes part (Jaszczur et al. 2021, arXiv 2111.12763).

    A controller of low rank chooses it: the unit with the largest logit, and gradients as if it were a softmax. The
    paper adds Gumbel noise in training; here a prediction is the same in training. The sparsity saves work only where
    rows come one by one: a batch of them is computed as if dense, O(n dz dim), since rows choose differently.

    Args:
        dz: width of the tokens.
        dim: hidden width.
        activation: of the hidden units.
        block: units of which one is chosen; the last block may have fewer.
        rank: of the controller.
    """

    def __init__(self, dz: int, dim: int, activation: Activation, block: int, rank: int):
        super().__init__()
        self.dim, self.block = dim, at_least("block", block, 1)
        self.ff = FeedForward(dz, dim, activation)
        self.controller = LowRankLinear(dz, dim, rank)

    @property
    def idle(self) -> int:
        """Maps to and from the units that are not chosen."""
        unit = (sum(p.numel() for p in self.ff.parameters()) - self.ff.down.bias.numel()) // self.dim
        return unit * (self.dim - -(-self.dim // self.block))

    def forward(self, h: Tensor, mask: Tensor | None = None) -> Tensor:
        """`[..., dz]` to `[..., dz]`, row-wise."""
        logits = pad(self.controller(h), (0, -self.dim % self.block), value=-torch.inf)
        soft = logits.unflatten(-1, (-1, self.block)).softmax(-1)
        hard = one_hot(soft.argmax(-1), self.block)
        chosen = (hard + (soft - soft.detach())).flatten(-2)[..., : self.dim]  # exactly 0 and 1
        return self.ff.down(self.ff.hidden(h) * chosen)
