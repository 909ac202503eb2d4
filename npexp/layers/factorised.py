"""Linear maps with fewer parameters than their matrix has entries, in the place of `nn.Linear`."""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from npexp.errors import ConfigError, at_least


class LowRankLinear(nn.Module):
    """A linear map through a narrow middle (Winata et al. 2020, arXiv 1910.13923): O(rows (dim_in + dim_out) rank).

    Args:
        dim_in: width of the input.
        dim_out: width of the output.
        rank: width of the middle.
        bias: whether there is one.
    """

    def __init__(self, dim_in: int, dim_out: int, rank: int, bias: bool = True):
        super().__init__()
        self.inner = nn.Linear(dim_in, at_least("rank", rank, 1), bias=False)
        self.outer = nn.Linear(rank, dim_out, bias)
        with torch.no_grad():
            self.inner.weight.mul_(3**0.5)  # outputs start as large as those of a whole matrix

    def forward(self, h: Tensor) -> Tensor:
        """`[..., dim_in]` to `[..., dim_out]`."""
        return self.outer(self.inner(h))


class MultiplicativeLinear(nn.Module):
    """The multiplicative dense layer: output m of module s is sum_i h_i D_is E_im (Jaszczur et al. 2021).

    arXiv 2111.12763. The modules, such as the heads of an attention, see the input through one matrix E, each with
    weights D of its own on what comes in. It has dim_in (s + m) weights, and can permute its inputs. O(rows dim_in
    dim_out): with many rows it is cheapest to spell the matrix out.

    Args:
        dim_in: width of the input.
        dim_out: width of the output, a multiple of `size`.
        size: m, outputs of each module.
        bias: whether there is one.
    """

    def __init__(self, dim_in: int, dim_out: int, size: int, bias: bool = True):
        super().__init__()
        if dim_out % at_least("size", size, 1):
            raise ConfigError(f"expected the width of a map to be a multiple of size={size}, got {dim_out}")
        self.d = nn.Parameter(torch.randn(dim_in, dim_out // size))
        self.e = nn.Parameter(torch.empty(dim_in, size).uniform_(-1, 1) * dim_in**-0.5)
        self.bias = nn.Parameter(torch.zeros(dim_out)) if bias else None

    def forward(self, h: Tensor) -> Tensor:
        """`[..., dim_in]` to `[..., dim_out]`."""
        weight = (self.d[:, :, None] * self.e[:, None]).flatten(1)
        return linear(h, weight.mT, self.bias)
