"""Pooling: a few tokens, each a softmax average of the context, stand for all of it."""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from npexp.errors import at_least, positive
from npexp.layers.attention import Attention
from npexp.layers.blocks import CrossBlock, SelfBlock
from npexp.mixers.base import Carry, Mixer, Site, Tokens, register
from npexp.ops.attention import Part, attend_part, merge_parts


class PoolState(NamedTuple):
    """The averages with their log-normalisers, None in layers that pool nothing, and the tokens read, `[b, k, dz]`."""

    part: Part | None
    z: Tensor


class _Pool(Mixer, ABC):
    """Tokens that follow from a pool which does not look at queries: two contexts' pools merge exactly.

    Time O((nc + nt) k dz + k^2 dz) per layer, state O(k dz).
    """

    family = "latent"
    foldable = True
    cost = "nc k + k^2 + nt k"

    def __init__(self, site: Site, dim_feedforward: int):
        super().__init__()
        self.self_block = SelfBlock(site.dz, site.num_heads, dim_feedforward)
        self.norm = nn.LayerNorm(site.dz)
        self.attention = Attention(site.dz, site.num_heads)

    @abstractmethod
    def pool(self, ctx: Tokens, carry: Carry) -> Part | None:
        """The averages over some points, if this layer takes any."""

    @abstractmethod
    def tokens(self, part: Part | None, carry: Carry) -> tuple[Tensor, Carry]:
        """The tokens that are read, and what is carried on."""

    def summarise(self, ctx: Tokens, carry: Carry = None) -> tuple[PoolState, Carry]:
        """Pools the context, then computes the tokens from the pool."""
        return self._finish(self.pool(ctx, carry), carry)

    def extend(self, state: PoolState, new: Tokens, carry: Carry = None) -> tuple[PoolState, Carry]:
        """Merges the new points' pool into the old one."""
        part = self.pool(new, carry)
        return self._finish(part if state.part is None else merge_parts(state.part, part), carry)

    def read(self, q: Tokens, state: PoolState) -> Tensor:
        """Attention of each row over the tokens."""
        return self.attention(q.h, self.attention.project(self.norm(state.z.to(self.norm.weight.dtype))))

    def _finish(self, part: Part | None, carry: Carry) -> tuple[PoolState, Carry]:
        z, carry = self.tokens(part, carry)
        return PoolState(part, z), carry


@register("pma")
class PMA(_Pool):
    """Pooling by multihead attention, the decoder of the Set Transformer (Lee et al. 2019, arXiv 1810.00825).

    k learned seeds pool the raw context once, Z = SAB(MAB(S, C)); later layers are Z <- SAB(Z). Points are added
    exactly, at the price of k tokens' worth of memory: one seed is a deep set. "cmab" looks at the context in every
    layer and can forget points as well.

    Args:
        site: where in the model it sits.
        num_seeds: k.
        dim_feedforward: hidden width of the seeds' feed-forward networks.
        init_stddev: standard deviation of the initial seeds.
    """

    update = "stack"
    contexts = ("raw",)
    paper = "1810.00825"
    published = "n k"

    def __init__(self, site: Site, num_seeds: int = 32, dim_feedforward: int = 128, init_stddev: float = 1.0):
        super().__init__(site, dim_feedforward)
        positive("init_stddev", init_stddev)
        self.looks = site.layer == 0
        shape = (at_least("num_seeds", num_seeds, 1), site.dz)
        self.seeds = nn.Parameter(init_stddev * torch.randn(shape)) if self.looks else None
        self.block = CrossBlock(site.dz, site.num_heads, dim_feedforward, norm_keys=False) if self.looks else None

    def pool(self, ctx: Tokens, carry: Carry) -> Part | None:
        """The seeds' read of the context, in the first layer."""
        if isinstance(carry, Tensor):
            return None
        attention = self.block.attention
        seeds = self.block.norm(self.seeds).expand(ctx.h.shape[0], -1, -1)
        return attention.part(seeds, attention.project(ctx.h, ctx.mask))

    def tokens(self, part: Part | None, carry: Carry) -> tuple[Tensor, Carry]:
        """The seeds, once they have read, among themselves."""
        z = carry
        if part is not None:
            z = self.seeds + self.block.attention.merge(part.out)
            z = z + self.block.ff(self.block.norm_ff(z))
        z = self.self_block(z)
        return z, z


@register("token_learner")
class TokenLearner(_Pool):
    """TokenLearner: z_i = sum_j softmax_j(s_i(h_j)) h_j, then self-attention among the k (Ryoo et al. 2021).

    Paper: arXiv 2106.11297. The scores s are a network of two layers that sees one point at a time, where "isab" has
    one of queries and keys; every layer learns tokens anew, and rows read them in place of the published fuser. Softmax
    in place of the sigmoid gate of the first version, whose average would need the number of points. With
    `context="raw"` points are added exactly.

    Args:
        site: where in the model it sits.
        num_tokens: k.
        dim_feedforward: hidden width of the tokens' feed-forward network.
    """

    update = "layer"
    paper = "2106.11297"
    published = "n k + k^2"

    def __init__(self, site: Site, num_tokens: int = 16, dim_feedforward: int = 128):
        super().__init__(site, dim_feedforward)
        self.hidden = nn.Linear(site.dz, site.dz)
        self.scores = nn.Parameter(torch.randn(at_least("num_tokens", num_tokens, 1), site.dz))

    def pool(self, ctx: Tokens, carry: Carry) -> Part:
        """The averages: attention of k constant queries, the last layer of s, over hidden units and points."""
        keys, queries = gelu(self.hidden(ctx.h)), self.scores.expand(ctx.h.shape[0], 1, -1, -1)
        return attend_part(queries, keys[:, None], ctx.h[:, None], ctx.mask)

    def tokens(self, part: Part | None, carry: Carry) -> tuple[Tensor, Carry]:
        """The averages, once they have seen each other."""
        return self.self_block(part.out[:, 0].to(self.norm.weight.dtype)), carry
