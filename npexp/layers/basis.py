"""Basis functions of the inputs, in which functions are linear."""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from npexp.errors import ConfigError, UnknownNameError, at_least
from npexp.layers.mlp import mlp

Kind = Literal["fourier", "mlp", "fourier_mlp"]
PERIOD = 5.5  # of the slowest wave: more than the width of the domain, so that its two ends are not neighbours


class Basis(nn.Module):
    """phi(x): a constant and m - 1 waves with learned frequencies, or as many outputs of a network.

    Inputs lie in [-2, 2]^dx. In one dimension the waves start as a Fourier series, cosines and sines with angular
    frequencies 2 pi i / `PERIOD`, i = 1, 2, ...; in more, in random directions with magnitudes uniform up to
    i = (m / 2)^(1/dx), or up to `cycles` along each axis. A smooth function of lengthscale l on a box of side a needs m
    of order (a / l)^dx.

    Args:
        dx: input size.
        m: number of functions. On a CPU systems of 64 are solved in two thirds of the time of 63 or 65.
        kind: "fourier"; "mlp" is a network of x and "fourier_mlp" one of x and the waves, which learn more slowly.
        dim_hidden: width of the networks.
        cycles: of the fastest waves along each axis at first, over 1.375 widths of the domain; None is m / 2 in one
            dimension and (m / 2)^(1/dx) in more.

    Raises:
        UnknownNameError: no such kind.
        ConfigError: fewer than two functions, or cycles that are not one positive number per axis.
    """

    def __init__(
        self, dx: int, m: int, kind: Kind = "fourier", dim_hidden: int = 64, cycles: Sequence[float] | None = None
    ):
        super().__init__()
        self.m = at_least("num_features", m, 2)
        if kind not in get_args(Kind):
            raise UnknownNameError("basis", kind, get_args(Kind))
        k = m // 2
        if cycles is not None and not (len(cycles) == dx and all(0 < c < math.inf for c in cycles)):
            raise ConfigError(f"expected cycles with a positive number for each of {dx} axes, got {cycles}: correct it")
        fastest = torch.tensor([k ** (1 / dx)] * dx if cycles is None else cycles)
        self.register_buffer("extent", 2 * math.pi / PERIOD * fastest, persistent=False)  # of the first frequencies
        if dx == 1:
            waves = fastest / k * torch.arange(1.0, k + 1)[:, None]
        else:
            waves = nn.functional.normalize(torch.randn(k, dx), dim=-1) * (fastest * torch.rand(k, 1))
        self.frequencies = nn.Parameter(2 * math.pi / PERIOD * waves)
        self.kind = kind
        if kind != "fourier":
            self.network = mlp(dx if kind == "mlp" else dx + m - 1, dim_hidden, m - 1, 3, "gelu")

    def waves(self, x: Float[Tensor, "b n dx"]) -> Float[Tensor, "b n f"]:
        """Cosines, then sines, in the dtype of x; the last wave of an even m has no sine: `[b, n, m - 1]`."""
        # sums of products rather than a matrix product: the same to the last bit however many points come at a time
        angle = (x[..., None, :] * self.frequencies.to(x.dtype)).sum(-1)
        return torch.cat([angle.cos(), angle.sin()], -1)[..., : self.m - 1]

    def forward(self, x: Float[Tensor, "b n dx"]) -> Float[Tensor, "b n m"]:
        """phi, in the dtype of x."""
        if self.kind == "fourier":
            values = self.waves(x)
        else:
            own = self.frequencies.dtype
            rows = x if self.kind == "mlp" else torch.cat([x, self.waves(x)], -1)
            values = self.network(rows.to(own)).to(x.dtype)
        return torch.cat([values, torch.ones_like(values[..., :1])], -1)
