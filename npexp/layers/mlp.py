"""Row-wise networks."""

import functools
import itertools
from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from npexp.errors import UnknownNameError, at_least

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU}
Activation = Literal["relu", "gelu", "geglu"]
Features = Tensor | tuple[Tensor, ...]  # the latter a concatenation of parts, each with axes of size 1 where it repeats


class Entry(nn.Linear):
    """A linear map of features that may come in parts: what repeats is mapped once, then broadcast.

    What all targets of a task share, or all draws of a latent variable, need not be copied for each of them.
    """

    def forward(self, h: Features) -> Tensor:
        """`[..., dim_in]`, whole or in parts, to `[..., dim_out]`."""
        if isinstance(h, Tensor):
            return super().forward(h)
        weights = self.weight.split([part.shape[-1] for part in h], 1)
        first, *others = sorted((linear(*pair) for pair in zip(h, weights, strict=True)), key=Tensor.numel)
        return functools.reduce(torch.add, others, first if self.bias is None else first + self.bias.to(first))


def whole(h: Features) -> Tensor:
    """Features in one piece."""
    if isinstance(h, Tensor):
        return h
    shape = torch.broadcast_shapes(*(part.shape[:-1] for part in h))
    return torch.cat([part.expand(*shape, -1) for part in h], -1)


def mlp(dim_in: int, dim_hidden: int, dim_out: int, depth: int, activation: str = "relu") -> nn.Sequential:
    """A multi-layer perceptron of `depth` linear layers, the hidden ones `dim_hidden` wide, of `Features`.

    Raises:
        ConfigError: a width or the depth below 1.
    """
    for value in (dim_in, dim_hidden, dim_out):
        at_least("the width of a network", value, 1)
    at_least("the depth of a network", depth, 1)
    sizes = [dim_in, *[dim_hidden] * (depth - 1), dim_out]
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b) if layers else Entry(a, b), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers[:-1])


def zero_end(network: nn.Sequential) -> nn.Sequential:
    """The same network, whose outputs are 0 until it has learned something."""
    nn.init.zeros_(network[-1].weight)
    nn.init.zeros_(network[-1].bias)
    return network


class FeedForward(nn.Module):
    """The row-wise half of a Transformer layer: dz -> dim -> dz.

    Args:
        dz: width of the tokens.
        dim: hidden width.
        activation: "relu" or "gelu"; "geglu" gates a linear map by a GELU (Shazeer 2020, arXiv 2002.05202) and has a
            first matrix twice as wide.
        linear: makes the two linear maps.
    """

    def __init__(
        self, dz: int, dim: int, activation: Activation = "geglu", linear: Callable[[int, int], nn.Module] = nn.Linear
    ):
        super().__init__()
        if activation not in get_args(Activation):
            raise UnknownNameError("activation", activation, get_args(Activation))
        at_least("dim_feedforward", dim, 1)
        self.gated = activation == "geglu"
        self.up = linear(dz, 2 * dim if self.gated else dim)
        self.act = nn.GELU() if self.gated else ACTIVATIONS[activation]()
        self.down = linear(dim, dz)

    def forward(self, h: Tensor, mask: Tensor | None = None) -> Tensor:
        """`[..., dz]` to `[..., dz]`; the mask of real rows is for feed-forwards that count theirs."""
        return self.down(self.hidden(h))

    def hidden(self, h: Tensor) -> Tensor:
        """The hidden units, `[..., dz]` to `[..., dim]`."""
        h = self.up(h)
        if self.gated:
            value, gate = h.chunk(2, -1)
            return value * self.act(gate)
        return self.act(h)


class FourierFeatures(nn.Module):
    """Learned sines and cosines of the inputs, appended to them: `[..., dx]` to `[..., dx + 2 k]`.

    A ReLU network of raw x learns fine structure slowly; a few frequencies remove that handicap (Tancik et al. 2020,
    arXiv 2006.10739).

    Args:
        dx: size of the input.
        num_frequencies: k; 0 leaves x alone.
        max_frequency: largest initial angular frequency, radians per unit of x.
    """

    def __init__(self, dx: int, num_frequencies: int, max_frequency: float = 15.0):
        super().__init__()
        at_least("num_frequencies", num_frequencies, 0)
        self.dim_out = dx + 2 * num_frequencies
        if dx == 1:  # evenly spread magnitudes
            start = torch.linspace(0.0, max_frequency, num_frequencies + 1)[1:, None]
        else:  # evenly spread magnitudes in random directions
            start = torch.nn.functional.normalize(torch.randn(num_frequencies, dx), dim=-1)
            start = start * torch.linspace(0.0, max_frequency, num_frequencies + 1)[1:, None]
        self.frequencies = nn.Parameter(start) if num_frequencies else None

    def forward(self, x: Tensor) -> Tensor:
        """`[..., dx]` to `[..., dx + 2 k]`."""
        if self.frequencies is None:
            return x
        angle = x @ self.frequencies.mT
        return torch.cat([x, angle.sin(), angle.cos()], -1)
