"""A large memory whose keys are pairs of half-keys."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import embedding_bag

from npexp.errors import ConfigError, at_least
from npexp.layers.conditional import Conditional


class ProductKeyMemory(Conditional):
    """A memory of n^2 learned values, of which each head of a row reads the k with the best keys (Lample et al. 2019).

    arXiv 1907.05242. Key (i, j) is the concatenation of half-keys i and j, so that the best k of n^2 keys are among the
    k^2 pairs of the best k halves. Queries pass a layer norm, where the paper has a batch norm, which would let rows
    see each other. O(rows heads (n dq + k^2 + k dz)).

    Args:
        dz: width of the tokens.
        num_keys: n, half-keys on either side.
        top_k: k, values that each head reads.
        num_heads: queries per row, with keys of their own and the values in common.
        dim_query: dq, width of a query; even.

    Raises:
        ConfigError: more values to read than half-keys, or an odd query.
    """

    def __init__(self, dz: int, num_keys: int, top_k: int, num_heads: int, dim_query: int):
        super().__init__()
        at_least("num_keys", num_keys, at_least("top_k", top_k, 1))
        if at_least("dim_query", dim_query, 2) % 2:
            raise ConfigError(f"expected dim_query to be even, one half for either key, got {dim_query}")
        self.num_heads, self.top_k = at_least("memory_heads", num_heads, 1), top_k
        self.to_q = nn.Linear(dz, num_heads * dim_query)
        self.norm = nn.LayerNorm(dim_query)
        self.keys = nn.Parameter(torch.randn(num_heads, 2, num_keys, dim_query // 2) * (dim_query / 2) ** -0.5)
        self.values = nn.Parameter(torch.randn(num_keys**2, dz) * dz**-0.5)

    @property
    def idle(self) -> int:
        read = self.num_heads * self.top_k
        return max(self.values.shape[0] - read, 0) * self.values.shape[1]

    def forward(self, h: Tensor, mask: Tensor | None = None) -> Tensor:
        """`[..., dz]` to `[..., dz]`, row-wise."""
        scores, chosen = self.choose(h.flatten(0, -2))
        weights = scores.softmax(-1).flatten(1)
        return embedding_bag(chosen.flatten(1), self.values, mode="sum", per_sample_weights=weights).view(h.shape)

    def choose(self, rows: Float[Tensor, "r dz"]) -> tuple[Float[Tensor, "r h k"], Int[Tensor, "r h k"]]:
        """The best k scores of each head and the indices of their values."""
        dtype, n = self.keys.dtype, self.keys.shape[2]
        halves = self.norm(self.to_q(rows).unflatten(-1, (self.num_heads, -1))).unflatten(-1, (2, -1))
        with torch.autocast(rows.device.type, enabled=False):  # which would round scores to ties
            best, index = torch.einsum("rhsd,hsnd->rhsn", halves.to(dtype), self.keys).topk(self.top_k)
            pairs = (best[:, :, 0, :, None] + best[:, :, 1, None]).flatten(2)
            places = (index[:, :, 0, :, None] * n + index[:, :, 1, None]).flatten(2)
            scores, among = pairs.topk(self.top_k)
            return scores, places.gather(-1, among)
