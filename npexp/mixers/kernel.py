"""Kernel-biased attention: softmax attention that knows distances."""

from npexp.layers.relative import RadialBias, RelativeAttention
from npexp.mixers.base import Site, register
from npexp.mixers.relative import RelativeMixer


@register("kernel")
class Kernel(RelativeMixer):
    """softmax(q.k / sqrt(dh) + sum_k a_k exp(-|b_k| (|x_q - x_k| - c_k)^2)), the attention of TNP-KR and BSA-TNP.

    Jenson et al. 2024 and 2025 (arXiv 2411.12502, 2506.09163). Time O(nc^2 + nc nt) per layer like "dense"; memory
    O(nc dz + tile^2), since the bias is computed on the fly and forgotten. Knowing distances it leaves the plateau of
    ignoring the context far sooner than "dense", for about twice the time; where positions mean nothing, use that.

    Args:
        site: where in the model it sits.
        num_basis: terms of the radial basis network of each head.
        reach: distance up to which the terms are spread at first, in units of x.
        tile: queries and keys that are held against each other at a time.
    """

    paper = "2411.12502"

    def __init__(self, site: Site, num_basis: int = 5, reach: float = 1.0, tile: int = 256):
        super().__init__()
        bias = RadialBias(site.num_heads, num_basis, reach)
        self.attention = RelativeAttention(site.dz, site.num_heads, bias, tile)
