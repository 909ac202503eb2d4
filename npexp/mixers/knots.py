"""Mixers of fixed length: they work on G knots along the order, and every row reads at its own place between them."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from npexp.errors import at_least
from npexp.layers.attention import Attention, KeyValue
from npexp.layers.mlp import Activation, mlp
from npexp.mixers.base import Carry, Mixer, Site, Tokens, register
from npexp.ops.knots import from_knots, knot_weights, to_knots


class KnotState(NamedTuple):
    """What a layer has worked out for each knot, `[b, G, d]`."""

    rows: Tensor


class KnotMixer(Mixer):
    """A published operator on sequences of one length N, freed from it: it runs on G knots.

    The context is averaged onto knots at the quantiles (g + 1/2) / G of its order, and rows read by linear
    interpolation at their own quantile. With as many points as knots this is the published operator, exactly.

    Positions mean ranks: for inputs beyond some six dimensions, where no curve keeps neighbours together, take a
    latent or kernel mixer. One point more moves all quantiles, so summaries cannot be extended.

    Args:
        site: where in the model it sits.
        num_knots: G.
    """

    family = "fixed"
    permutation_invariant = False
    needs_order = True
    state = "constant"
    cost = "(nc + nt) G"

    def __init__(self, site: Site, num_knots: int):
        super().__init__()
        self.num_knots = at_least("num_knots", num_knots, 1)

    def gather(self, ctx: Tokens, h: Tensor) -> Tensor:
        """Features of the context's points, averaged onto the knots, `[b, G, d]`, in float32 or better."""
        return to_knots(h, ctx.pos, ctx.n, ctx.mask, self.num_knots)

    def at(self, q: Tokens, rows: Tensor) -> Tensor:
        """Rows of the knots at the places of q, `[b, n, d]`."""
        return from_knots(rows, q.pos, q.n)


@register("linformer")
class Linformer(KnotMixer):
    """Linformer (Wang et al. 2020, arXiv 2006.04768): attention to k mixtures of keys and of values.

    K' = (G/n) sum_j E(u_j) k_j and V' alike with F, where E(u) and F(u), shared by the heads, interpolate G learned
    rows of size k. A row chooses among the mixtures by content, unlike in the other mixers of fixed length; what a
    mixture holds depends on ranks alone, so single points are hard to single out. Time O(nc G dz + nt k dz), state
    O(k dz).

    Args:
        site: where in the model it sits.
        num_knots: G, how finely E and F follow the order.
        num_rows: k.
    """

    paper = "2006.04768"
    published = "n"
    cost = "nc G + nt k"

    def __init__(self, site: Site, num_knots: int = 64, num_rows: int = 32):
        super().__init__(site, num_knots)
        self.attention = Attention(site.dz, site.num_heads)
        size = (num_knots, at_least("num_rows", num_rows, 1))
        self.e = nn.Parameter(torch.randn(size) * num_knots**-0.5)
        self.f = nn.Parameter(torch.randn(size) * num_knots**-0.5)

    def summarise(self, ctx: Tokens, carry: Carry = None) -> tuple[KeyValue, Carry]:
        """K' and V', `[b, h, k, dh]`."""
        dtype = torch.promote_types(ctx.h.dtype, torch.float32)
        with torch.autocast(ctx.h.device.type, enabled=False):
            weights, h = knot_weights(ctx.pos, ctx.n, self.num_knots, dtype), ctx.h.to(dtype)
            if ctx.mask is not None:
                h = torch.where(ctx.mask[..., None], h, torch.zeros_like(h))
            scale = self.num_knots / ctx.n.clamp_min(1).to(dtype)
            sums = scale[:, None, None] * (weights.mT @ h)
        # keys and values have no bias: those of sums are the sums of theirs
        kv = self.attention.project(sums)
        with torch.autocast(ctx.h.device.type, enabled=False):
            return KeyValue(self.e.mT.to(kv.k.dtype) @ kv.k, self.f.mT.to(kv.v.dtype) @ kv.v, None), carry

    def read(self, q: Tokens, state: KeyValue) -> Tensor:
        """Attention of each row over the k mixtures."""
        return self.attention(q.h, state)


@register("mlp_mixer")
class MLPMixer(KnotMixer):
    """MLP-Mixer (Tolstikhin et al. 2021, arXiv 2105.01601): one network along the order, the same for every feature.

    W2 gelu(W1 v) with v one feature on all knots. What a row draws depends on its place and not on its content: the
    plainest of the mixers of fixed length. Time O((nc + nt) G dz), state O(G dz).

    Args:
        site: where in the model it sits.
        num_knots: G.
        dim_hidden: hidden width of the network along the order.
    """

    asks = False
    paper = "2105.01601"
    published = "n"

    def __init__(self, site: Site, num_knots: int = 64, dim_hidden: int = 128):
        super().__init__(site, num_knots)
        self.network = mlp(num_knots, dim_hidden, num_knots, 2, "gelu")

    def summarise(self, ctx: Tokens, carry: Carry = None) -> tuple[KnotState, Carry]:
        """The network's output for every knot."""
        knots = self.gather(ctx, ctx.h)
        return KnotState(self.network(knots.mT).mT.to(knots.dtype)), carry

    def read(self, q: Tokens, state: KnotState) -> Tensor:
        """The output at each row's place."""
        return self.at(q, state.rows).to(q.h.dtype)


@register("gmlp")
class GMLP(KnotMixer):
    """gMLP (Liu et al. 2021, arXiv 2105.08050): gelu(U q) gated by a linear map along the order; no feed-forward.

    out = V (z1 * (W LN(z2) + b)) with (z1, z2) = gelu(U h). W starts near 0 and b at 1, so that at first rows keep to
    themselves. As published the unit is a whole layer, and has no feed-forward behind it. Gates let content decide
    what of its place a row takes, which "mlp_mixer" lacks. Time O((nc + nt) (G + dz) dim_hidden), state
    O(G dim_hidden).

    Args:
        site: where in the model it sits.
        num_knots: G.
        dim_hidden: width of z1 and of z2.
    """

    paper = "2105.08050"
    published = "n^2"

    def __init__(self, site: Site, num_knots: int = 64, dim_hidden: int = 128):
        super().__init__(site, num_knots)
        self.to_rows = nn.Linear(site.dz, at_least("dim_hidden", dim_hidden, 1))
        self.to_knots = nn.Linear(site.dz, dim_hidden)
        self.norm = nn.LayerNorm(dim_hidden)
        self.along = nn.Linear(num_knots, num_knots)
        self.to_out = nn.Linear(dim_hidden, site.dz)
        nn.init.normal_(self.along.weight, std=1e-3)
        nn.init.ones_(self.along.bias)

    def summarise(self, ctx: Tokens, carry: Carry = None) -> tuple[KnotState, Carry]:
        """The gate of every knot."""
        knots = self.gather(ctx, self.norm(gelu(self.to_knots(ctx.h))))
        return KnotState(self.along(knots.mT).mT.to(knots.dtype)), carry

    def read(self, q: Tokens, state: KnotState) -> Tensor:
        """Each row's features, gated by those of its place."""
        gated = gelu(self.to_rows(q.h)) * self.at(q, state.rows)
        return self.to_out(gated.to(self.to_out.weight.dtype))

    def feedforward(self, dz: int, dim: int, activation: Activation) -> None:
        """None: the unit is the whole layer."""
        return None
