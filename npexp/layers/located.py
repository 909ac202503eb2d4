"""A memory with places: sums of what lies around them, and a small Transformer over the places."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from npexp.batch import count
from npexp.errors import at_least
from npexp.layers.basis import Basis
from npexp.layers.blocks import CrossBlock
from npexp.layers.location import spread
from npexp.layers.mlp import mlp

CHANNELS = 8  # learned values of a point for each width
RARE = 0.03  # density below which a place knows of no values
REACH = 2.1  # places start in [-reach, reach]^dx; the domain is [-2, 2]^dx


class Heaps(NamedTuple):
    """Plain sums around m places under k widths, so that points can be added and taken away.

    Args:
        sums: of learned channels, y, x and 1, each weighed by a Gaussian of the distance, `[b, k, m, c]`.
        count: number of points, `[b]`.
    """

    sums: Tensor
    count: Tensor


class LocatedMemory(nn.Module):
    """Kernel pooling at m learned places with k learned widths: state O(m k), update O(m k) per point.

    Weights are at most 1, so sums need no log-normaliser. The density is a channel of its own, as in a ConvCNP (Gordon
    et al. 2020, arXiv 1910.13556), with places that learn and need no lattice.

    Args:
        basis: waves of x, for the embeddings.
        dx: input size.
        dy: output size.
        num_locations: m; a lattice at first where it is a dx-th power, else spread evenly.
        num_widths: k.
        dz: width of the tokens.
    """

    def __init__(self, basis: Basis, dx: int, dy: int, num_locations: int, num_widths: int, dz: int):
        super().__init__()
        at_least("num_locations", num_locations, 1)
        at_least("num_widths", num_widths, 1)
        self.basis = basis
        side = round(num_locations ** (1 / dx))
        if side**dx == num_locations:
            axis = torch.linspace(-REACH, REACH, side) if side > 1 else torch.zeros(1)
            places = torch.cartesian_prod(*[axis] * dx).view(-1, dx)
        else:
            places = spread(num_locations, dx, REACH)
        self.places = nn.Parameter(places)
        self.step = 2 * REACH / num_locations ** (1 / dx)
        widths = torch.logspace(0, 1, num_widths, base=12.0) * (0.5 * self.step)  # half a step to six of them
        self.log_width = nn.Parameter(widths.log())
        around = dx + basis.m - 1
        self.values = mlp(around + dy, dz, num_widths * CHANNELS, 3, "gelu")
        self.embed = nn.Linear(num_widths * (CHANNELS + dy + dx + 1), dz)
        self.place = mlp(around, dz, dz, 2, "gelu")

    def pool(
        self, x: Float[Tensor, "b n dx"], y: Float[Tensor, "b n dy"], mask: Bool[Tensor, "b n"] | None = None
    ) -> Heaps:
        """The state of these points; sums in float64, O(n m k)."""
        k, wide = len(self.log_width), torch.float32 if x.device.type == "mps" else torch.float64
        with torch.autocast(x.device.type, enabled=False):
            own = self.places.dtype
            distance = (x.to(own)[:, :, None] - self.places).square().sum(-1)  # [b, n, m]
            weight = (-0.5 * distance[:, None] * (-2 * self.log_width).exp()[:, None, None]).exp()  # [b, k, n, m]
            if mask is not None:
                weight = torch.where(mask[:, None, :, None], weight, 0.0)
            rows = torch.cat([x, self.basis.waves(x), y], -1).to(own)
            learned = self.values(rows).unflatten(-1, (k, CHANNELS)).transpose(1, 2)
            given = torch.cat([y, x, torch.ones_like(x[..., :1])], -1).to(own)
            rows = torch.cat([learned, given[:, None].expand(-1, k, -1, -1)], -1).to(wide)
            return Heaps(weight.to(wide).mT @ rows, count(mask, x).to(wide))

    def tokens(self, state: Heaps) -> Float[Tensor, "b m dz"]:
        """What is known around each place."""
        sums = state.sums.to(self.places.dtype)
        dx, width = self.places.shape[-1], self.log_width.exp()[:, None, None]
        rho = sums[..., -1:]
        values, where = sums[..., : -dx - 1], sums[..., -dx - 1 : -1]
        away = (where - self.places * rho) / ((rho + RARE) * width)
        told = torch.cat([values / (rho + RARE), away, (rho.clamp_min(0) + 1e-3).log() / 3], -1)  # [b, k, m, c]
        return self.embed(told.transpose(1, 2).flatten(2)) + self.at(self.places[None])

    def at(self, x: Float[Tensor, "b n dx"]) -> Float[Tensor, "b n dz"]:
        """An embedding of places."""
        return self.place(torch.cat([x, self.basis.waves(x)], -1))


class Near(nn.Module):
    """A bias of attention logits: minus the squared distance in units of each head's learned width."""

    def __init__(self, num_heads: int, step: float):
        super().__init__()
        # from neighbours to the whole domain
        self.log_width = nn.Parameter((step * torch.logspace(0, 1, num_heads, base=2 * REACH / step)).log())

    def forward(self, x: Float[Tensor, "b n dx"], z: Float[Tensor, "m dx"]) -> Float[Tensor, "b h n m"]:
        """O(n m)."""
        distance = (x[:, :, None] - z).square().sum(-1)
        return -0.5 * distance[:, None] * (-2 * self.log_width).exp()[:, None, None]


class LocatedStack(nn.Module):
    """Layers over places; targets read the places after each of them: O(m^2 + nt m) per layer.

    Args:
        step: distance between neighbouring places.
        num_layers: layers.
        dz: width of the tokens.
        num_heads: attention heads.
        dim_feedforward: hidden width of the feed-forward networks.
    """

    def __init__(self, step: float, num_layers: int, dz: int, num_heads: int, dim_feedforward: int):
        super().__init__()
        at_least("num_layers", num_layers, 1)
        make = lambda: nn.ModuleList(CrossBlock(dz, num_heads, dim_feedforward) for _ in range(num_layers))  # noqa: E731
        self.mix, self.look = make(), make()
        self.near = nn.ModuleList(Near(num_heads, step) for _ in range(2 * num_layers))

    def forward(
        self,
        tokens: Float[Tensor, "b m dz"],
        z: Float[Tensor, "m dx"],
        h: Float[Tensor, "b n dz"],
        x: Float[Tensor, "b n dx"],
    ) -> Float[Tensor, "b n dz"]:
        """Rows h at x, having read the tokens at z."""
        places = z.expand(tokens.shape[0], -1, -1)
        for mix, look, among, around in zip(self.mix, self.look, self.near[::2], self.near[1::2], strict=True):
            tokens = mix(tokens, tokens, None, among(places[:1], z))
            h = look(h, tokens, None, around(x, z))
        return h
