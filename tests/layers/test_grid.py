import math

import pytest
import torch

from npexp.errors import ConfigError, DataError
from npexp.layers.grid import Lattice
from npexp.layers.setconv import FLOOR, FromLattice, ToLattice, mean_and_density
from npexp.layers.unet import UNet

LATTICES = [Lattice.dense(1, (-1.0, 1.0), 5.0), Lattice.dense(2, (-1.0, 1.0), 3.0), Lattice.sized(3, (-1.0, 1.0), 4)]


def points(dx: int, b: int = 2, n: int = 6, dy: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    x = 2 * torch.rand(b, n, dx, generator=g, dtype=torch.float64) - 1
    return x, torch.randn(b, n, dy, generator=g, dtype=torch.float64)


def test_dense_lattice_covers_domain_and_margin():
    lattice = Lattice.dense(2, (-1.0, 2.0), 4.0, margin=0.3, multiple=8)
    axis = lattice.axis(torch.zeros(1, dtype=torch.float64))
    assert (
        lattice.shape == (24, 24) and lattice.num_points == 576
    )  # 13 in the domain, 2 + 2 beyond, then a multiple of 8
    torch.testing.assert_close(axis.diff(), torch.full((23,), 0.25, dtype=torch.float64))
    assert axis[0] <= -1.3 and axis[-1] >= 2.3
    assert (axis == -1).any() and (axis == 2).any()  # data on a grid of this spacing coincide with it


def test_sized_lattice_ends_with_the_domain():
    axis = Lattice.sized(1, (0.0, 1.0), 5).axis(torch.zeros(1))
    torch.testing.assert_close(axis, torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0]))


@pytest.mark.parametrize("lattice", LATTICES, ids=lambda lattice: f"{lattice.dx}d")
def test_nearest_is_the_nearest(lattice):
    x, _ = points(lattice.dx)
    distance = (x[:, :, None] - lattice.points(x)).square().sum(-1)
    assert (lattice.nearest(x) == distance.argmin(-1)).all()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Lattice.dense(4, (-1.0, 1.0), 4.0),
        lambda: Lattice.dense(1, (1.0, 1.0), 4.0),
        lambda: Lattice.dense(1, (-1.0, math.inf), 4.0),
        lambda: Lattice.dense(1, (-1.0, 1.0), 0.0),
        lambda: Lattice.dense(1, (-1.0, 1.0), 4.0, margin=-1.0),
        lambda: Lattice.sized(1, (-1.0, 1.0), 1),
    ],
)
def test_impossible_lattices_are_refused(make):
    with pytest.raises(ConfigError, match="expected"):
        make()


def test_inputs_outside_are_refused_but_not_padding():
    lattice = Lattice.dense(2, (-1.0, 1.0), 4.0, margin=1.0)
    x = torch.zeros(2, 3, 2)
    lattice.check("context", x + 1)
    for bad in (1.01, -1.01, math.nan, math.inf):
        x[1, 2, 0] = bad
        with pytest.raises(DataError, match=r"context x .* \[-1, 1\].*task 1, point 2, column 0.*domain"):
            lattice.check("context", x)
        lattice.check("context", x, torch.tensor([[True, True, True], [True, True, False]]))


@pytest.mark.parametrize("lattice", LATTICES, ids=lambda lattice: f"{lattice.dx}d")
def test_sums_are_those_of_a_double_loop(lattice):
    x, y = points(lattice.dx)
    mask = torch.rand(2, 6, generator=torch.Generator().manual_seed(1)) < 0.7
    encoder = ToLattice(lattice).double()
    sums = encoder(x, y, mask).sums
    assert sums.shape == (2, 3, *lattice.shape)
    scale, places = encoder.log_scale.exp(), lattice.points(x)
    for task in range(2):
        for g in range(0, lattice.num_points, 7):
            total = torch.zeros(3, dtype=torch.float64)
            for i in range(6):
                if mask[task, i]:
                    weight = (-(x[task, i] - places[g]).square().sum() / (2 * scale**2)).exp()
                    total += weight * torch.cat([torch.ones(1), y[task, i]])
            torch.testing.assert_close(sums.flatten(2)[task, :, g], total)


@pytest.mark.parametrize("lattice", LATTICES, ids=lambda lattice: f"{lattice.dx}d")
def test_reading_is_a_softmax_over_the_whole_lattice(lattice):
    x, _ = points(lattice.dx)
    grid = torch.randn(3, 2, 5, lattice.num_points, dtype=torch.float64)  # [s, b, c, g]
    decoder = FromLattice(lattice).double()
    distance = (x[:, :, None] - lattice.points(x)).square().sum(-1)  # [b, n, g]
    weights = (-distance / (2 * decoder.log_scale.exp() ** 2)).softmax(-1)
    expected = torch.einsum("bng,sbcg->sbnc", weights, grid)
    torch.testing.assert_close(decoder(grid, x), expected)
    torch.testing.assert_close(decoder(grid[0], x), expected[0])


def test_reading_survives_a_vanishing_length_scale():
    decoder = FromLattice(LATTICES[0]).double()
    decoder.log_scale.data.fill_(-20.0)
    x, _ = points(1)
    grid = torch.randn(2, 1, 11, dtype=torch.float64)
    torch.testing.assert_close(decoder(grid, x)[..., 0], grid[:, 0].gather(1, LATTICES[0].nearest(x)))


def test_density_tells_missing_from_zero():
    lattice = Lattice.dense(1, (-1.0, 1.0), 8.0)
    x = torch.tensor([[[0.0], [0.0]]])
    empty = mean_and_density(ToLattice(lattice)(x[:, :0], x[:, :0]))
    zero = mean_and_density(ToLattice(lattice)(x, torch.zeros_like(x)))
    assert (empty == 0).all() and (zero[:, 1] == 0).all()
    middle = lattice.size // 2
    torch.testing.assert_close(zero[0, 0, middle], torch.tensor(3.0).log())  # two points where they stand
    two = mean_and_density(ToLattice(lattice)(x, torch.tensor([[[1.0], [3.0]]])))
    torch.testing.assert_close(two[0, 1, middle], torch.tensor(4 / (2 + FLOOR)))


@pytest.mark.parametrize("dx", [1, 2, 3])
def test_unet_keeps_the_size(dx):
    assert UNet(dx, 2, 4, 3, num_levels=2, kernel_size=3)(torch.randn(5, 2, *(8,) * dx)).shape == (5, 3, *(8,) * dx)


@pytest.mark.parametrize("num_levels", [1, 2, 3])
def test_unet_sees_as_far_as_said(num_levels):
    net = UNet(1, 1, 2, 1, num_levels, kernel_size=5)
    for p in net.parameters():
        p.data.abs_()  # so that no two ways cancel, and no ReLU is off
    reach = []
    for middle in range(64, 64 + 2**num_levels):
        grid = torch.ones(1, 1, 128, requires_grad=True)
        net(grid)[0, 0, middle].backward()
        seen = grid.grad[0, 0].nonzero()
        reach += [middle - int(seen.min()), int(seen.max()) - middle]
    assert min(reach) == 2 * 2**num_levels and max(reach) == 4 * 2**num_levels - 2


@pytest.mark.parametrize("dx", [1, 2])
def test_unet_commutes_with_shifts_of_the_coarsest_step(dx):
    net = UNet(dx, 1, 4, 2, num_levels=2, kernel_size=3).double()
    grid = torch.zeros(1, 1, *(48,) * dx, dtype=torch.float64)
    grid[..., 20:24] = torch.randn(4, dtype=torch.float64)
    moved = net(grid.roll(4, -1))
    torch.testing.assert_close(moved[..., 16:36], net(grid).roll(4, -1)[..., 16:36], rtol=1e-12, atol=1e-12)


def test_even_kernels_are_refused():
    with pytest.raises(ConfigError, match="odd kernel_size"):
        UNet(1, 1, 4, 1, num_levels=1, kernel_size=4)
