"""A U-Net over a lattice of one to three dimensions."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import relu

from npexp.errors import ConfigError, at_least

CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


class UNet(nn.Module):
    """Convolutions at ever coarser resolution and back, with shortcuts (Ronneberger et al. 2015, arXiv 1505.04597).

    Each level halves the resolution by a strided convolution, and a transposed one doubles it again. Full resolution
    sees only two thin layers, so that with kernels of 5 all levels together take about 13 dz^2 multiplications per
    lattice point in 1-D and 19 dz^2 in 2-D, where one convolution takes 5 dz^2 and 25 dz^2. An output then sees 2 to 4
    times 2^num_levels points to either side. Halving makes shifts exact only by multiples of 2^num_levels points.

    Args:
        dx: dimensions of the lattice, 1 to 3.
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
        self.down = nn.ModuleList(conv(dz, dz, kernel_size, stride=2, padding=half) for _ in range(num_levels))
        joined = [dz] + [2 * dz] * num_levels  # channels before each layer on the way up: the lowest has no shortcut
        self.up = nn.ModuleList(TRANSPOSED[dx](c, dz, 4, stride=2, padding=1) for c in joined[:-1])
        self.leave = conv(joined[-1], dim_out, 1)

    def forward(self, grid: Float[Tensor, "b c *g"]) -> Float[Tensor, "b e *g"]:
        """`[b, dim_in, size, ..., size]` to `[b, dim_out, size, ..., size]`."""
        h = self.enter(grid)
        shortcuts = []
        for down in self.down:
            shortcuts.append(h)
            h = down(relu(h))
        for up in self.up:
            h = torch.cat([up(relu(h)), shortcuts.pop()], 1)
        return self.leave(relu(h))
