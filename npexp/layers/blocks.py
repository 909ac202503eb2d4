"""Attention blocks: a residual read followed by a residual feed-forward."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import relu

from npexp.layers.attention import Attention, KeyValue, check_heads
from npexp.layers.mlp import FeedForward
from npexp.ops.attention import attend


class CrossBlock(nn.Module):
    """MAB(X, Y) in pre-norm form: H = X + A(LN X; LN Y), H + FF(LN H) (Lee et al. 2019, arXiv 1810.00825).

    Args:
        dz: width of the tokens.
        num_heads: attention heads.
        dim_feedforward: hidden width of the GEGLU feed-forward.
        norm_keys: whether Y has a layer norm of its own; False where it comes in already normalised.
    """

    def __init__(self, dz: int, num_heads: int, dim_feedforward: int, norm_keys: bool = True):
        super().__init__()
        self.norm = nn.LayerNorm(dz)
        self.norm_keys = nn.LayerNorm(dz) if norm_keys else nn.Identity()
        self.attention = Attention(dz, num_heads)
        self.norm_ff = nn.LayerNorm(dz)
        self.ff = FeedForward(dz, dim_feedforward)

    def forward(
        self,
        x: Float[Tensor, "b n dz"],
        y: Float[Tensor, "b m dz"],
        mask: Bool[Tensor, "b m"] | None = None,
        bias: Float[Tensor, "#b h n m"] | None = None,
    ) -> Float[Tensor, "b n dz"]:
        """Rows of x read y: O(n m dz)."""
        h = x + self.attention(self.norm(x), self.attention.project(self.norm_keys(y), mask), bias)
        return h + self.ff(self.norm_ff(h))


class SelfBlock(nn.Module):
    """SAB(X) = MAB(X, X) with one layer norm for queries and keys."""

    def __init__(self, dz: int, num_heads: int, dim_feedforward: int):
        super().__init__()
        self.norm = nn.LayerNorm(dz)
        self.attention = Attention(dz, num_heads)
        self.norm_ff = nn.LayerNorm(dz)
        self.ff = FeedForward(dz, dim_feedforward)

    def forward(self, x: Float[Tensor, "b n dz"]) -> Float[Tensor, "b n dz"]:
        """O(n^2 dz)."""
        normed = self.norm(x)
        h = x + self.attention(normed, self.attention.project(normed))
        return h + self.ff(self.norm_ff(h))


class PostNormMAB(nn.Module):
    """The multihead attention block inside the published ANP (Lee et al. 2020, arXiv 2008.02956).

    q' = W_q q is both query and residual, logits are divided by sqrt(dz) rather than sqrt(dz / h), and both layer norms
    come after the sums: H = LN(q' + A(q'; k', v')), LN(H + relu(W_o H)).

    Args:
        dz: width of queries, keys, values and output.
        num_heads: attention heads.
    """

    def __init__(self, dz: int, num_heads: int):
        super().__init__()
        check_heads(dz, num_heads)
        self.num_heads = num_heads
        self.to_q = nn.Linear(dz, dz, bias=False)
        self.to_k = nn.Linear(dz, dz, bias=False)
        self.to_v = nn.Linear(dz, dz, bias=False)
        self.to_out = nn.Linear(dz, dz)
        self.norm = nn.LayerNorm(dz)
        self.norm_out = nn.LayerNorm(dz)

    def project(
        self, k: Float[Tensor, "b n dz"], v: Float[Tensor, "b n dz"], mask: Bool[Tensor, "b n"] | None = None
    ) -> KeyValue:
        """Keys and values, O(n dz^2); in float32 or better even under autocast, since states keep them."""
        k, v = (t.to(torch.promote_types(t.dtype, torch.float32)) for t in (self.to_k(k), self.to_v(v)))
        return KeyValue(self._split(k), self._split(v), mask)

    def forward(self, q: Float[Tensor, "b nq dz"], kv: KeyValue) -> Float[Tensor, "b nq dz"]:
        """Each query row reads the keys and values on its own, O(nq n dz)."""
        q = self.to_q(q)
        read = attend(self._split(q), kv.k, kv.v, kv.mask, scale=q.shape[-1] ** -0.5)
        h = self.norm(q + read.transpose(1, 2).flatten(2))
        return self.norm_out(h + relu(self.to_out(h)))

    def _split(self, h: Tensor) -> Tensor:
        return h.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
