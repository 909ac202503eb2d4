"""Sparse Sinkhorn attention: rows read their own block and a soft permutation of all blocks."""

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from npexp.errors import ConfigError, at_least
from npexp.layers.attention import Attention
from npexp.layers.groups import Lists, read_lists
from npexp.mixers.base import Carry, Mixer, Site, Tokens, register
from npexp.mixers.pattern import rows_of
from npexp.mixers.windows import below, root


def balance(logits: Tensor, valid: Tensor, iterations: int) -> Tensor:
    """Towards a doubly stochastic matrix (Sinkhorn 1964): columns and rows of exp(logits) normalised in turn.

    Rows come last and sum to 1 whatever the rounds. Columns only tend to 1, the slower the further logits are apart.

    Args:
        logits: `[..., n, n]`.
        valid: entries that count, `[..., n, n]`, all of some rows and the same columns; others become 0.
        iterations: rounds.
    """
    lowest = torch.finfo(logits.dtype).min / 4  # finite, as logsumexp of nothing has no gradient
    for dim in [-2, -1] * iterations:
        logits = logits.masked_fill(~valid, lowest)  # again each time, or invalid entries would turn uniform
        logits = logits - logits.logsumexp(dim, keepdim=True)
    return torch.where(valid, logits.exp(), torch.zeros_like(logits))


@register("sinkhorn")
class Sinkhorn(Mixer):
    """Sparse Sinkhorn attention (Tay et al. 2020, arXiv 2002.11296): each block reads itself and a sorted partner.

    The context is cut into blocks of ranks. A bilinear form of their means, balanced towards a doubly stochastic matrix
    R, says which block each one is sent: row i reads the keys and values of its own block and of sum_j R_ij block_j.
    What is sent to a place is the average over the blocks that have the place, and weighs in the softmax as much as R
    gives to those. Heads have an R each. Targets read as their rank's block does.

    Sees beyond "local_block" at the price of blending blocks; averaged keys are vague, and "reformer" or "routing"
    keep them apart. With blocks of the square root of nc, time O((nc + nt) sqrt(nc) dz), state O(nc).

    Args:
        site: where in the model it sits.
        block: ranks per block; None takes the square root of each task's nc. Fixed, blending costs nc^2 / block.
        iterations: rounds of balancing.
        temperature: of the sorting network; lower is nearer to a permutation, and takes more rounds to balance.
    """

    family = "learned"
    paper = "2002.11296"
    published = "n b + (n / b)^2"
    exponent = 1.5
    cost = "(nc + nt) sqrt(nc)"
    permutation_invariant = False
    needs_order = True
    state = "grows"
    dense_limit = {"block": 10**6}

    def __init__(self, site: Site, block: int | None = None, iterations: int = 8, temperature: float = 0.75):
        super().__init__()
        if block is not None:
            at_least("block", block, 1)
        self.block, self.iterations = block, at_least("iterations", iterations, 1)
        if at_least("temperature", temperature, 0.0) == 0:
            raise ConfigError("expected temperature to be positive, got 0: take a small one such as 0.1")
        self.temperature = temperature
        self.attention = Attention(site.dz, site.num_heads)
        self.to_rows = nn.Linear(site.dz, site.dz, bias=False)
        self.to_columns = nn.Linear(site.dz, site.dz, bias=False)

    def summarise(self, ctx: Tokens, carry: Carry = None) -> tuple[Lists, Carry]:
        """Keys and values of each block and of what it is sent."""
        kv, nc = self.attention.project(ctx.h), ctx.h.shape[1]
        size = self._size(ctx.n)
        width = max(min(self.block or int(root(torch.tensor([nc]))), nc), 1)
        count = max(-(-nc // width), 1)
        within, start = (torch.arange(n, device=ctx.n.device) for n in (width, count))
        index = start[:, None] * size[..., None] + within  # [b, count, width]
        there = (within < size[..., None]) & (index < ctx.n[:, None, None])
        index = torch.where(there, index, nc).flatten(1)[:, None, :, None]

        def blocks(t: Tensor) -> Tensor:
            t = pad(t, (0, 0, 0, 1))
            return t.gather(2, index.expand(*t.shape[:2], -1, t.shape[-1])).unflatten(2, (count, width))

        known, k, v = there[:, None], blocks(kv.k), blocks(kv.v)
        mean = blocks(ctx.h[:, None])[:, 0].sum(2) / there.sum(2).clamp_min(1)[..., None]
        r = self._sort(mean, there.any(2))
        with torch.autocast(k.device.type, enabled=False):
            sent_k, sent_v = (torch.einsum("bhij,bhjwd->bhiwd", r, t) for t in (k, v))
            share = r @ known.to(r.dtype)
            least = torch.finfo(share.dtype).eps  # below is round-off
            some = share.clamp_min(least)[..., None]
            bias = torch.cat([some.log(), torch.zeros_like(k[..., :1])], 3) * (k.shape[-1] + 1) ** 0.5
            k, v = torch.cat([sent_k / some, k], 3), torch.cat([sent_v / some, v], 3)
        real = torch.cat([share > least, known.expand_as(share)], 3)
        return Lists(torch.cat([k, bias], -1), pad(v, (0, 1)), real), carry

    def read(self, q: Tokens, state: Lists) -> Tensor:
        """Attention of each row over the list of its block."""
        heads, label = self.attention.query(q.h), below(rows_of(q)) // self._size(q.n)
        d = heads.shape[-1]
        # one column more: it meets the bias, and the scale of the softmax is that of d again
        heads = pad(heads * ((d + 1) / d) ** 0.5, (0, 1), value=1.0)
        return self.attention.merge(read_lists(heads, label[:, None].expand(heads.shape[:3]), state)[..., :d])

    def _sort(self, mean: Tensor, there: Tensor) -> Tensor:
        """R `[b, h, count, count]` from block means `[b, count, dz]`."""
        h = self.attention.num_heads
        rows, columns = (t.unflatten(-1, (h, -1)).transpose(1, 2) for t in (self.to_rows(mean), self.to_columns(mean)))
        with torch.autocast(mean.device.type, enabled=False):
            rows, columns = (t.to(torch.promote_types(t.dtype, torch.float32)) for t in (rows, columns))
            logits = rows @ columns.mT * (rows.shape[-1] ** -0.5 / self.temperature)
            return balance(logits, (there[:, None, :, None] & there[:, None, None]).expand_as(logits), self.iterations)

    def _size(self, n: Tensor) -> Tensor:
        """Ranks per block, `[b, 1]`."""
        return root(n) if self.block is None else torch.full_like(n, self.block)[:, None]
