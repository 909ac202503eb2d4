"""Multi-head attention with keys and values computed once and read many times."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from npexp.errors import ConfigError, at_least
from npexp.ops.attention import Part, attend, attend_part


def check_heads(dz: int, num_heads: int) -> None:
    """Raises `ConfigError` unless the heads share dz evenly."""
    if at_least("dz", dz, 1) % at_least("num_heads", num_heads, 1):
        raise ConfigError(f"expected dz to be a multiple of num_heads, got dz={dz} and num_heads={num_heads}")


class KeyValue(NamedTuple):
    """Projected keys and values, `[b, h, n, dh]` each, and the mask of real ones, `[b, n]` or None."""

    k: Tensor
    v: Tensor
    mask: Tensor | None


class Attention(nn.Module):
    """Multi-head softmax attention (Vaswani et al. 2017, arXiv 1706.03762); heads share dz evenly.

    Args:
        dz: width of queries, keys, values and output.
        num_heads: h; must divide dz.
        bias: whether the query, key and value maps have a bias; the output map always has.
        linear: makes the four linear maps, called as `nn.Linear` is.
    """

    def __init__(self, dz: int, num_heads: int, bias: bool = False, linear: Callable[..., nn.Module] = nn.Linear):
        super().__init__()
        check_heads(dz, num_heads)
        self.num_heads = num_heads
        self.to_q = linear(dz, dz, bias=bias)
        self.to_kv = linear(dz, 2 * dz, bias=bias)
        self.to_out = linear(dz, dz)

    def project(self, h: Float[Tensor, "b n dz"], mask: Bool[Tensor, "b n"] | None = None) -> KeyValue:
        """Keys and values of tokens, O(n dz^2); in float32 or better even under autocast, since states keep them."""
        kv = self.to_kv(h)
        k, v = kv.to(torch.promote_types(kv.dtype, torch.float32)).chunk(2, -1)
        return KeyValue(self._split(k), self._split(v), mask)

    def query(self, q: Float[Tensor, "b nq dz"]) -> Float[Tensor, "b h nq dh"]:
        """Queries of tokens, O(nq dz^2)."""
        return self._split(self.to_q(q))

    def forward(
        self,
        q: Float[Tensor, "b nq dz"],
        kv: KeyValue,
        bias: Float[Tensor, "#b h nq n"] | None = None,
        seen: Int[Tensor, "b nq"] | None = None,
    ) -> Float[Tensor, "b nq dz"]:
        """Each query row reads the keys and values on its own, O(nq n dz); with a bias also O(nq n) memory.

        With `seen`, row i reads the first `seen[i]` of them only.
        """
        kv = kv._replace(mask=visible(kv, seen))
        if bias is not None:  # a bias that learns would silently drop the fused kernel anyway
            return self.merge(self.part(q, kv, bias).out)
        return self.merge(attend(self.query(q), kv.k, kv.v, kv.mask))

    def part(self, q: Float[Tensor, "#b nq dz"], kv: KeyValue, bias: Float[Tensor, "#b h nq n"] | None = None) -> Part:
        """The read before the output map, with its log-normaliser, so that it can be merged with other keys.

        Rows that are the same for all tasks come once.
        """
        query = self.query(q).expand(kv.k.shape[0], -1, -1, -1)
        return attend_part(query, kv.k, kv.v, kv.mask, bias=bias)

    def merge(self, heads: Float[Tensor, "b h nq dh"]) -> Float[Tensor, "b nq dz"]:
        """Joins the heads and applies the output map."""
        return self.to_out(heads.transpose(1, 2).flatten(2).to(next(self.to_out.parameters()).dtype))

    def _split(self, h: Tensor) -> Tensor:
        return h.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


def visible(kv: KeyValue, seen: Int[Tensor, "b nq"] | None) -> Bool[Tensor, "b *nq n"] | None:
    """Which keys may be read, `[b, n]`, by each row if only its first `seen` ones may, `[b, nq, n]`; None for all."""
    if seen is None:
        return kv.mask
    first = torch.arange(kv.k.shape[2], device=seen.device) < seen[..., None]
    return first if kv.mask is None else first & kv.mask[:, None]
