"""Dense attention with another feed-forward, or with fewer weights: systems that leave the mixing as it is."""

from functools import partial
from typing import Any

from torch import nn

from npexp.errors import at_least
from npexp.layers.attention import Attention
from npexp.layers.block_sparse import BlockSparseFeedForward
from npexp.layers.factorised import LowRankLinear, MultiplicativeLinear
from npexp.layers.mixture_of_experts import MixtureOfExperts
from npexp.layers.mlp import Activation, FeedForward
from npexp.layers.product_key import ProductKeyMemory
from npexp.mixers.base import Site, register
from npexp.mixers.dense import Dense


class _Conditional(Dense):
    """What these have in common: attention and its cost are those of "dense"."""

    family = "conditional"
    published = "n^2"
    exponent = 2.0
    dense_limit: dict[str, Any] | None = {}  # as it stands


class _MixtureOfExperts(_Conditional):
    """Dense attention with a mixture of feed-forward experts, of `dim_feedforward` hidden units each.

    Many parameters for little work; an even load is asked for in the loss, and no row is ever dropped, so that what a
    row gets depends on it alone. `npexp.layers.conditional.active_parameters` counts what one row uses.

    Args:
        site: where in the model it sits.
        num_experts: e, experts of a layer.
        balance: weight of the load-balance loss, in nats per target.
    """

    joins = False  # the loads of context and of targets are two, and each is to be even
    top_k: int
    every = 1  # how many layers have experts: all, or every second one from the first on
    gated = False  # experts with a gated linear unit, whatever the stack's activation

    def __init__(self, site: Site, num_experts: int = 4, balance: float = 0.01):
        super().__init__(site)
        self.sparse = site.layer % self.every == 0
        self.num_experts, self.balance = at_least("num_experts", num_experts, self.top_k), balance

    @classmethod
    def period(cls, site: Site) -> int:
        return cls.every

    def feedforward(self, dz: int, dim: int, activation: Activation) -> nn.Module:
        """The experts, or what the stack has anyway in a layer without."""
        if not self.sparse:
            return FeedForward(dz, dim, activation)
        kind: Activation = "geglu" if self.gated else activation
        return MixtureOfExperts(dz, dim, kind, self.num_experts, self.top_k, self.balance)


@register("switch")
class Switch(_MixtureOfExperts):
    """Switch Transformer: each row passes one of several feed-forwards (Fedus et al. 2021, arXiv 2101.03961).

    The cheapest mixture: the work of "dense" with e times the feed-forward's parameters. Published with a limit on what
    an expert takes, which would let targets see each other.
    """

    paper = "2101.03961"
    top_k = 1


@register("gshard")
class GShard(_MixtureOfExperts):
    """GShard: in every second layer each row passes two of several feed-forwards (Lepikhin et al. 2020).

    arXiv 2006.16668. Smoother than "switch", as gradients compare two experts. The paper drops the second expert at
    random in training, and rows beyond an expert's capacity; neither happens here.
    """

    paper = "2006.16668"
    top_k, every = 2, 2


@register("glam")
class GLaM(_MixtureOfExperts):
    """GLaM: like "gshard", with gated linear units in the experts (Du et al. 2021, arXiv 2112.06905)."""

    paper = "2112.06905"
    top_k, every, gated = 2, 2, True


@register("product_key")
class ProductKey(_Conditional):
    """Dense attention and a product key memory as the feed-forward (Lample et al. 2019, arXiv 1907.05242).

    For a model that must remember much and compute little: each row reads heads times k of n^2 learned values, found
    in O(n) rather than O(n^2). The stack's `dim_feedforward` plays no part.

    Args:
        site: where in the model it sits.
        num_keys: n, half-keys on either side.
        top_k: k, values that each head reads.
        memory_heads: reads per row.
        dim_query: width of their queries.
    """

    paper = "1907.05242"

    def __init__(self, site: Site, num_keys: int = 32, top_k: int = 8, memory_heads: int = 4, dim_query: int = 32):
        super().__init__(site)
        self.memory = (num_keys, top_k, memory_heads, dim_query)

    def feedforward(self, dz: int, dim: int, activation: Activation) -> nn.Module:
        """The memory."""
        return ProductKeyMemory(dz, *self.memory)


@register("scaling")
class Scaling(_Conditional):
    """Scaling Transformer: sparse feed-forward and sparse query, key, value and output maps (Jaszczur et al. 2021).

    arXiv 2111.12763. One hidden unit of every block takes part, chosen by a controller, and heads share one matrix
    behind weights of their own. Fewer and sparser parameters than "dense", for rows that come one by one; in batches it
    is no faster. Left out: the convolution along the sequence, which a set does not have, and noise in training.

    Args:
        site: where in the model it sits.
        block: hidden units of which one takes part.
        rank: of the controller.
    """

    paper = "2111.12763"
    dense_limit = None

    def __init__(self, site: Site, block: int = 8, rank: int = 16):
        super().__init__(site)
        self.attention = Attention(
            site.dz, site.num_heads, linear=partial(MultiplicativeLinear, size=site.dz // site.num_heads)
        )
        self.block, self.rank = block, rank

    def feedforward(self, dz: int, dim: int, activation: Activation) -> nn.Module:
        """The one that uses a unit of every block."""
        return BlockSparseFeedForward(dz, dim, activation, self.block, self.rank)


@register("low_rank")
class LowRank(_Conditional):
    """Low-Rank Transformer: all linear maps of attention and feed-forward are factorised (Winata et al. 2020).

    arXiv 1910.13923. For small devices: about 2 rank / dz of the parameters and of that part of the work; time in nc
    is as for "dense".

    Args:
        site: where in the model it sits.
        rank: of each map.
    """

    paper = "1910.13923"
    dense_limit = None

    def __init__(self, site: Site, rank: int = 16):
        super().__init__(site)
        self.linear = partial(LowRankLinear, rank=rank)
        self.attention = Attention(site.dz, site.num_heads, linear=self.linear)

    def feedforward(self, dz: int, dim: int, activation: Activation) -> nn.Module:
        """The stack's own with factorised maps."""
        return FeedForward(dz, dim, activation, self.linear)
