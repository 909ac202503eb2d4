"""EQTNP, LBANP (Feng et al. 2023, arXiv 2211.08458) and CMANP (Feng et al. 2024, arXiv 2305.14567).

Pre-norm blocks; attention by einsum with every weight spelt out; latents copied for each task before they are normed
and projected, whether or not that depends on the task.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, einsum, nn
from torch.distributions import Normal
from torch.nn.functional import gelu, softplus

from benchmarks.twins.base import Twin, expand, linear, mlp, norm
from npexp.layers import attention, blocks
from npexp.layers.mlp import FeedForward
from npexp.mixers.cmab import CMAB
from npexp.models.transformer import TransformerNP


class Attention(nn.Module):
    """Multi-head attention with heads as tasks."""

    def __init__(self, ours: attention.Attention):
        super().__init__()
        self.num_heads = ours.num_heads
        self.to_q, self.to_kv, self.to_out = linear(ours.to_q), linear(ours.to_kv), linear(ours.to_out)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Rows of x read rows of y."""
        q, (k, v) = self.query(x), self.key_value(y)
        return self.merge(einsum("bij,bjd->bid", einsum("bid,bjd->bij", q, k).softmax(-1), v))

    def query(self, x: Tensor) -> Tensor:
        """Scaled queries, `[b h, n, dh]`."""
        q = self._split(self.to_q(x))
        return q * q.shape[-1] ** -0.5

    def key_value(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values, `[b h, n, dh]` each."""
        k, v = self.to_kv(y).chunk(2, -1)
        return self._split(k), self._split(v)

    def merge(self, out: Tensor) -> Tensor:
        """`[b h, n, dh]` to `[b, n, dz]`."""
        return self.to_out(out.unflatten(0, (-1, self.num_heads)).transpose(1, 2).flatten(2))

    def _split(self, h: Tensor) -> Tensor:
        return h.unflatten(-1, (self.num_heads, -1)).transpose(1, 2).flatten(0, 1)


class Read(nn.Module):
    """x + A(LN x, LN y); without a norm for y, x + A(LN x, LN x)."""

    def __init__(self, of_x: nn.LayerNorm, ours: attention.Attention, of_y: nn.LayerNorm | None = None):
        super().__init__()
        self.norm, self.attention = norm(of_x), Attention(ours)
        self.norm_y = None if of_y is None else norm(of_y)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Rows of x."""
        h = self.norm(x)
        return x + self.attention(h, h if self.norm_y is None else self.norm_y(y))


class Forward(nn.Module):
    """x + FF(LN x) with a GEGLU."""

    def __init__(self, of_x: nn.LayerNorm, ours: FeedForward):
        super().__init__()
        self.norm, self.up, self.down = norm(of_x), linear(ours.up), linear(ours.down)

    def forward(self, x: Tensor) -> Tensor:
        """Rows of x."""
        h, gates = self.up(self.norm(x)).chunk(2, -1)
        return x + self.down(h * gelu(gates))


def self_block(ours: blocks.SelfBlock) -> nn.Sequential:
    """x + A(LN x), then + FF."""
    return nn.Sequential(Read(ours.norm, ours.attention), Forward(ours.norm_ff, ours.ff))


class QueryTwin(Twin):
    """Targets have an embedder of their own and read something at every layer, never each other."""

    def __init__(self, model: TransformerNP, of_memory: Sequence[nn.LayerNorm]):
        super().__init__(model)
        self.embed_context = mlp(model.embedding.embed_context)
        self.embed_target = mlp(model.embedding.embed_target)
        layers = model.stack.blocks
        self.reads = nn.ModuleList(
            Read(block.norm, block.mixer.attention, own) for block, own in zip(layers, of_memory, strict=True)
        )
        self.forwards = nn.ModuleList(Forward(block.norm_ff, block.ff) for block in layers)
        self.norm = norm(model.stack.norm)

    def forward(self, xc: Tensor, yc: Tensor, xt: Tensor) -> Normal:
        """The law of each target alone."""
        return self.query(self.condition(xc, yc), xt)

    @abstractmethod
    def condition(self, xc: Tensor, yc: Tensor) -> list[Tensor]:
        """What targets read at each layer."""

    def query(self, memory: list[Tensor], xt: Tensor) -> Normal:
        """Targets through all layers."""
        h = self.embed_target(xt)
        for read, forward, seen in zip(self.reads, self.forwards, memory, strict=True):
            h = forward(read(h, seen))
        return self.law(self.norm(h))


class EQTNP(QueryTwin):
    """Self-attention of the context; layer i of the targets reads it after i - 1 layers."""

    def __init__(self, model: TransformerNP):
        super().__init__(model, [block.norm_context for block in model.stack.blocks])
        self.encoder = nn.ModuleList(
            nn.Sequential(Read(block.norm, block.mixer.attention), Forward(block.norm_ff, block.ff))
            for block in model.stack.context_blocks
        )

    def condition(self, xc: Tensor, yc: Tensor) -> list[Tensor]:
        """The context after 0, 1, ... layers."""
        memory = [self.embed_context(torch.cat([xc, yc], -1))]
        for layer in self.encoder:
            memory.append(layer(memory[-1]))
        return memory


class LBANP(QueryTwin):
    """Carried latents read the embedded context and themselves, layer by layer."""

    def __init__(self, model: TransformerNP):
        mixers = [block.mixer for block in model.stack.blocks]
        super().__init__(model, [m.norm for m in mixers])
        self.latents = nn.Parameter(mixers[0].latents.data.clone())
        self.pools = nn.ModuleList(
            Read(block.mixer.pool.norm, block.mixer.pool.attention, block.norm_context) for block in model.stack.blocks
        )
        self.towers = nn.ModuleList(
            nn.Sequential(Forward(m.pool.norm_ff, m.pool.ff), *(self_block(b) for b in m.self_blocks)) for m in mixers
        )

    def condition(self, xc: Tensor, yc: Tensor) -> list[Tensor]:
        """The latents of each layer."""
        ctx = self.embed_context(torch.cat([xc, yc], -1))
        z, memory = expand(self.latents, len(xc)), []
        for pool, tower in zip(self.pools, self.towers, strict=True):
            z = tower(pool(z, ctx))
            memory.append(z)
        return memory


class Held(NamedTuple):
    """What a block has pooled: average values `[b h, m, dh]`, and their log-normalisers `[b h, m, 1]`."""

    out: Tensor
    lse: Tensor


class CMANPBlock(nn.Module):
    """The block's latents read the context, the carried latents read the block's."""

    def __init__(self, ours: CMAB, of_context: nn.LayerNorm):
        super().__init__()
        self.latents = nn.Parameter(ours.block_latents.data.clone())
        self.pool = Read(ours.norm_pool, ours.pool, of_context)
        self.tower = nn.Sequential(Forward(ours.norm_ff, ours.ff), self_block(ours.self_block))
        carry = ours.carry_cross
        self.carry_read = Read(carry.norm, carry.attention, carry.norm_keys)
        self.carry_tower = nn.Sequential(Forward(carry.norm_ff, carry.ff), self_block(ours.carry_self))

    def forward(self, z: Tensor, ctx: Tensor) -> Tensor:
        """The next carried latents, from the whole context at once."""
        return self._carry(z, self.pool(expand(self.latents, len(ctx)), ctx))

    def resume(self, z: Tensor, held: Held) -> Tensor:
        """The same from what was pooled."""
        latents = expand(self.latents, len(z))
        return self._carry(z, latents + self.pool.attention.merge(held.out))

    def fold(self, held: Held | None, ctx: Tensor) -> Held:
        """Takes in some points: the cumulative average of the paper's section 4."""
        q = self.pool.attention.query(self.pool.norm(expand(self.latents, len(ctx))))
        k, v = self.pool.attention.key_value(self.pool.norm_y(ctx))
        logits = einsum("bid,bjd->bij", q, k)
        if held is None:
            lse = logits.logsumexp(-1, keepdim=True)
            return Held(einsum("bij,bjd->bid", (logits - lse).exp(), v), lse)
        lse = held.lse + softplus((logits - held.lse).logsumexp(-1, keepdim=True))
        return Held((held.lse - lse).exp() * held.out + einsum("bij,bjd->bid", (logits - lse).exp(), v), lse)

    def _carry(self, z: Tensor, u: Tensor) -> Tensor:
        return self.carry_tower(self.carry_read(z, self.tower(u)))


class CMANP(QueryTwin):
    """Blocks that read the embedded context with latents that do not depend on it."""

    def __init__(self, model: TransformerNP):
        super().__init__(model, [block.mixer.norm for block in model.stack.blocks])
        self.latents = nn.Parameter(model.stack.blocks[0].mixer.latents.data.clone())
        self.blocks = nn.ModuleList(CMANPBlock(block.mixer, block.norm_context) for block in model.stack.blocks)

    def condition(self, xc: Tensor, yc: Tensor) -> list[Tensor]:
        """The carried latents after each block, by one softmax over the whole context."""
        ctx = self.embed_context(torch.cat([xc, yc], -1))
        z, memory = expand(self.latents, len(xc)), []
        for block in self.blocks:
            z = block(z, ctx)
            memory.append(z)
        return memory

    def stream(self, held: list[Held] | None, x: Tensor, y: Tensor, size: int) -> tuple[list[Held], list[Tensor]]:
        """Takes in points, `size` at a time: what every block has pooled by then, and what targets read."""
        ctx = self.embed_context(torch.cat([x, y], -1))
        z, now, memory = expand(self.latents, len(x)), [], []
        for i, block in enumerate(self.blocks):
            pooled = None if held is None else held[i]
            for chunk in ctx.split(size, 1):
                pooled = block.fold(pooled, chunk)
            z = block.resume(z, pooled)
            now.append(pooled)
            memory.append(z)
        return now, memory
