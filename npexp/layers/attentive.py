"""The two paths of the attentive neural processes: each target's own view of the context, and one view for all."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from npexp.layers.attention import KeyValue
from npexp.layers.blocks import PostNormMAB
from npexp.layers.deepset import Pool, pool_rows
from npexp.layers.mlp import mlp


class AttentivePath(nn.Module):
    """Self-attention of the context, which each target then attends to (Kim et al. 2019, arXiv 1901.05761).

    In the wiring of Lee et al. 2020 (arXiv 2008.02956): inputs are queries and keys, whole points are values.

    Args:
        dx: input size.
        dy: output size.
        dz: hidden width, and that of what a target reads.
        num_heads: attention heads.
        depth_value: linear layers that embed a context point, before self-attention.
        depth_key: linear layers that embed an input as query or key.
    """

    def __init__(self, dx: int, dy: int, dz: int, num_heads: int, depth_value: int, depth_key: int):
        super().__init__()
        self.embed_value = mlp(dx + dy, dz, dz, depth_value)
        self.mix_value = PostNormMAB(dz, num_heads)
        self.embed_key = mlp(dx, dz, dz, depth_key)
        self.cross = PostNormMAB(dz, num_heads)

    def forward(
        self, x: Float[Tensor, "b n dx"], y: Float[Tensor, "b n dy"], mask: Bool[Tensor, "b n"] | None = None
    ) -> KeyValue:
        """What targets will attend to: O(n^2)."""
        value = _mix(self.mix_value, self.embed_value(torch.cat([x, y], -1)), mask)
        return self.cross.project(self.embed_key(x), value, mask)

    def read(self, memory: KeyValue, xt: Float[Tensor, "b nt dx"]) -> Float[Tensor, "b nt dz"]:
        """Each target's own view of the context: O(n nt)."""
        return self.cross(self.embed_key(xt), memory)


class PooledPath(nn.Module):
    """Self-attention of the context, then a mean between two networks: one vector per task (same sources).

    Args:
        dx: input size.
        dy: output size.
        dz: hidden width.
        dim_out: size of the vector.
        num_heads: attention heads.
        depth_phi: linear layers that embed a context point, before self-attention.
        depth_rho: linear layers after the mean.
    """

    def __init__(self, dx: int, dy: int, dz: int, dim_out: int, num_heads: int, depth_phi: int, depth_rho: int):
        super().__init__()
        self.embed = nn.Sequential(mlp(dx + dy, dz, dz, depth_phi), nn.ReLU())
        self.mix = PostNormMAB(dz, num_heads)
        self.rho = mlp(dz, dz, dim_out, depth_rho)

    def forward(
        self, x: Float[Tensor, "b n dx"], y: Float[Tensor, "b n dy"], mask: Bool[Tensor, "b n"] | None = None
    ) -> Pool:
        """The pooled context: O(n^2)."""
        return pool_rows(_mix(self.mix, self.embed(torch.cat([x, y], -1)), mask), mask)

    def summary(self, pool: Pool) -> Float[Tensor, "b e"]:
        """rho of the mean."""
        return self.rho(pool.mean.to(next(self.rho.parameters()).dtype))


class AttentivePaths(nn.Module):
    """Both paths side by side, the deterministic context of CANP and BANP. Arguments as above.

    Attributes:
        dim_out: width of what `read` gives.
    """

    def __init__(self, dx: int, dy: int, dz: int, num_heads: int, depth_value: int, depth_key: int, depth_rho: int):
        super().__init__()
        self.attentive = AttentivePath(dx, dy, dz, num_heads, depth_value, depth_key)
        self.pooled = PooledPath(dx, dy, dz, dz, num_heads, depth_value, depth_rho)
        self.dim_out = 2 * dz

    def forward(
        self, x: Float[Tensor, "b n dx"], y: Float[Tensor, "b n dy"], mask: Bool[Tensor, "b n"] | None = None
    ) -> tuple[KeyValue, Pool]:
        """The context of each path: O(n^2)."""
        return self.attentive(x, y, mask), self.pooled(x, y, mask)

    def read(
        self, summary: tuple[KeyValue, Pool], xt: Float[Tensor, "b nt dx"]
    ) -> tuple[Float[Tensor, "b nt dz"], Float[Tensor, "b 1 dz"]]:
        """Each target's own view of the context, and the common one: O(n nt)."""
        memory, pool = summary
        return self.attentive.read(memory, xt), self.pooled.summary(pool)[:, None]


def _mix(block: PostNormMAB, h: Tensor, mask: Tensor | None) -> Tensor:
    return block(h, block.project(h, h, mask))
