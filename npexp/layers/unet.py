"""A U-Net over a lattice of one to three dimensions."""

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import relu

from npexp.errors import ConfigError, at_least

CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


class UNet(nn.Module):
    """Convolutions at ever coarser resolution and back, with shortcuts (Ronneberger et al. 2015, arXiv 1505.04597).

    Each level halves the resolution by a strided convolution, and a transposed one doubles it again. At full resolution
    there are only the first and the last layer, so that almost all work is done on half the lattice or less: about
    13 dz^2 kernel multiplications per lattice point... 

    Args:
        dx: dimensions of the lattice.
        dim_in: channels that come.
        dz: channels inside.
        dim_out: channels that leave.
        num_levels: halvings L; the size of the lattice must be a multiple of 2^L.
        kernel_size: width of the convolutions, odd.
    """

    def __init__(self, dx: int, dim_in: int, dz: int, dim_out: int, num_levels: int, kernel_size: int):
        super().__init__()
        at_least("dz", dz, 1)
        at_least("num_levels", num_levels, 0)
        if at_least("kernel_size", kernel_size, 1) % 2 == 0:
            raise ConfigError(f"expected an odd kernel_size, got {kernel_size}: an even one has no middle")
        conv, half = CONV[dx], kernel_size // 2
        self.enter = conv(dim_in, dz, kernel_size, padding=half)
        self.down = nn.ModuleList(conv(dz, dz, kernel_size, 2, half) for _ in range(num_levels))
        self.up = nn.ModuleList(TRANSPOSED[dx](dz if i == 0 else 2 * dz, dz, 4, 2, 1) for i in range(num_levels))
        self.leave = conv(2 * dz if num_levels else dz, dim_out, 1)

    def forward(self, grid):
        h = self.enter(grid)
        skips = []
        for down in self.down:
            skips.append(h)
            h = down(relu(h))
        for up in self.up:
            h = up(relu(h))
            h = torch.cat([h, skips.pop()], 1)
        return self.leave(relu(h))
