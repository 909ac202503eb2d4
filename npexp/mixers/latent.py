"""Latent bottlenecks: a few learned tokens absorb the context, everything else reads them."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from npexp.errors import at_least, positive
from npexp.layers.attention import Attention
from npexp.layers.blocks import CrossBlock, SelfBlock
from npexp.mixers.base import Carry, Mixer, Site, Tokens, register


class LatentState(NamedTuple):
    """The latents of one layer, `[b, m, dz]`."""

    z: Tensor


class _Latent(Mixer):
    """Latents that read the context: Z <- MAB(Z, C), followed by a tower of Z <- SAB(Z).

    Carried ones go on to the next layer, others start afresh there. Time O(nc m + nt m + m^2) per layer, state O(m).
    Not updatable: queries (carried latents) or keys (a context that moves on) depend on the data; see "cmab".

    Args:
        site: where in the model it sits.
        num_latents: m.
        dim_feedforward: hidden width of the latents' feed-forward.
        init_stddev: standard deviation of the initial latents.
    """

    family = "latent"
    published = "n m"
    joins = True
    carried: bool
    tower: int

    def __init__(
        self,
        site: Site,
        num_latents: int = 32,
        dim_feedforward: int = 128,
        init_stddev: float = 1.0,
    ):
        super().__init__()
        at_least("num_latents", num_latents, 1)
        positive("init_stddev", init_stddev)
        own = site.layer == 0 or not self.carried
        self.latents = nn.Parameter(init_stddev * torch.randn(num_latents, site.dz)) if own else None
        self.pool = CrossBlock(site.dz, site.num_heads, dim_feedforward, norm_keys=False)
        self.self_blocks = nn.ModuleList(SelfBlock(site.dz, site.num_heads, dim_feedforward) for _ in range(self.tower))
        self.norm = nn.LayerNorm(site.dz)
        self.attention = Attention(site.dz, site.num_heads)

    def summarise(self, ctx: Tokens, carry: Carry = None) -> tuple[LatentState, Carry]:
        """Latents that have read the context."""
        z = carry if self.carried and carry is not None else self.latents.expand(ctx.h.shape[0], -1, -1)
        z = self.pool(z, ctx.h, ctx.mask)
        for block in self.self_blocks:
            z = block(z)
        return LatentState(z), z

    def read(self, q: Tokens, state: LatentState) -> Tensor:
        """Attention of each row over the latents."""
        return self.attention(q.h, self.attention.project(self.norm(state.z)))


@register("ist")
class IST(_Latent):
    """Induced-set Transformer: the context reads the latents back and moves on.

    The pseudo-token form of Ashman et al. 2024 (arXiv 2406.12409), after the induced set attention of Lee et al. 2019
    (arXiv 1810.00825) but with latents carried across layers. More accurate than "lbanp" at the same m, dearer in
    nc; neither can be updated.
    """

    carried, tower = True, 0
    paper = "2406.12409"
    cost = "nc m + nt m"


@register("isab")
class ISAB(_Latent):
    """Induced set attention (Lee et al. 2019, arXiv 1810.00825): Z = MAB(I, C), then C and the targets read Z.

    Latents I are learned anew for every layer, where "ist" carries one set of them on: what a layer has gathered
    reaches the next through the context alone. "ist" is the better choice unless layers should forget.
    """

    carried, tower = False, 0
    paper = "1810.00825"
    cost = "nc m + nt m"


@register("lbanp")
class LBANP(_Latent):
    """Latents read the raw context at every layer, then each other; targets read every layer's (arXiv 2211.08458).

    The mixer of the latent bottlenecked attentive NP (Feng et al. 2023). The context is never updated, which makes it
    cheaper than "ist" on long contexts.
    """

    carried, tower = True, 1
    paper = "2211.08458"
    published = "n m + m^2"
    contexts = ("raw",)
    cost = "nc m + m^2 + nt m"


@register("perceiver")
class Perceiver(LBANP):
    """Perceiver (Jaegle et al. 2021, arXiv 2103.03206; IO: 2107.14795): "lbanp" with two self-attentions per read.

    More work on the latents for each look at the context: for long contexts that are cheap to sum up.
    """

    tower = 2
    paper = "2103.03206, 2107.14795"


@register("luna")
class Luna(Mixer):
    """Luna: pack Y = A(P; C), unpack A(C; Y), and P <- LN(P + Y) is carried on (Ma et al. 2021, arXiv 2106.01540).

    "ist" without feed-forward networks for the latents: cheaper, and rows read what was packed rather than the latents
    themselves. Time O((nc + nt) m dz) per layer, state O(m dz).

    Args:
        site: where in the model it sits.
        num_latents: m.
        init_stddev: standard deviation of the initial latents.
    """

    family = "latent"
    paper = "2106.01540"
    published = "n m"
    joins = True
    cost = "nc m + nt m"

    def __init__(self, site: Site, num_latents: int = 32, init_stddev: float = 1.0):
        super().__init__()
        at_least("num_latents", num_latents, 1)
        positive("init_stddev", init_stddev)
        self.latents = nn.Parameter(init_stddev * torch.randn(num_latents, site.dz)) if site.layer == 0 else None
        self.norm = nn.LayerNorm(site.dz)
        self.pack = Attention(site.dz, site.num_heads)
        self.attention = Attention(site.dz, site.num_heads)

    def summarise(self, ctx: Tokens, carry: Carry = None) -> tuple[LatentState, Carry]:
        """The packed context. Latents are normalised on arrival, so that the last ones need not be."""
        p = self.norm(self.latents.expand(ctx.h.shape[0], -1, -1) if carry is None else carry)
        y = self.pack(p, self.pack.project(ctx.h, ctx.mask)).to(p.dtype)
        return LatentState(y), p + y

    def read(self, q: Tokens, state: LatentState) -> Tensor:
        """Attention of each row over the packed context."""
        return self.attention(q.h, self.attention.project(state.z))
