"""Points to lattice and back, against loops over cells and targets."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention, softplus

from npexp.layers.gridding import CellAttention, KernelInterpolation, NearestRead
from npexp.layers.product_lattice import ProductLattice

LATTICE = ProductLattice.dense(2, [[0.0, 3.0], [0.0, 8.0]], [1.0, 0.5], [False, True])  # 4 x 4


def points(n=30, dy=2):
    g = torch.Generator().manual_seed(0)
    x = torch.rand(2, n, 2, generator=g, dtype=torch.float64) * torch.tensor([3.0, 6.0])  # some cells stay empty
    y, mask = torch.randn(2, n, dy, generator=g, dtype=torch.float64), torch.rand(2, n, generator=g) < 0.8
    return x, y, mask


def cell_attention():
    torch.manual_seed(0)
    return CellAttention(LATTICE, 2, 8, 2, 16).double()


def test_each_cell_attends_to_its_points_and_itself():
    encoder, (x, y, mask) = cell_attention(), points()
    tokens = encoder.tokens(encoder.pool(x, y, mask))
    token, attention = encoder.token[0, 0], encoder.attention
    seen = set()
    for task in range(2):
        for cell in range(16):
            node = torch.tensor([float(cell // 4), 2.0 * (cell % 4)], dtype=torch.float64)
            apart = x[task] - node
            apart[:, 1] = (apart[:, 1] + 4) % 8 - 4
            own = (apart[:, 0].abs() < 0.5) & (apart[:, 1].abs() < 1) & mask[task]
            seen.add(bool(own.any()))
            offset = apart[own] / torch.tensor([1.0, 2.0])
            h = encoder.norm_points(encoder.embed(torch.cat([2 * offset, y[task, own]], -1)))
            rows = torch.cat([h, encoder.norm(token)[None]])
            k, v = attention.to_kv(rows).chunk(2, -1)
            q = attention.to_q(encoder.norm(token))
            q, k, v = (t.view(-1, 2, 4).transpose(0, 1) for t in (q, k, v))
            h = token + attention.to_out(scaled_dot_product_attention(q, k, v).transpose(0, 1).reshape(8))
            h = h + encoder.ff(encoder.norm_ff(h))
            torch.testing.assert_close(tokens[task, cell], h, rtol=1e-10, atol=1e-10)
    assert seen == {True, False}


def test_empty_cells_hold_one_token_wherever_they_are():
    encoder, (x, y, _) = cell_attention(), points()
    tokens = encoder.tokens(encoder.pool(x[:, :0], y[:, :0]))
    torch.testing.assert_close(tokens, tokens[:1, :1].expand_as(tokens), rtol=0, atol=1e-12)


def test_cells_feel_how_many_points_they_hold():
    encoder = cell_attention()
    x, y = torch.ones(1, 1, 2, dtype=torch.float64), torch.ones(1, 1, 2, dtype=torch.float64)
    one = encoder.tokens(encoder.pool(x, y))
    five = encoder.tokens(encoder.pool(x.expand(1, 5, 2), y.expand(1, 5, 2)))
    assert (one - five).abs().max() > 1e-3


def test_kernel_spreads_points_by_their_distance():
    encoder, (x, y, mask) = KernelInterpolation(LATTICE, 2, 8, 4).double(), points()
    with torch.no_grad():
        encoder.raw_width.copy_(torch.tensor([0.3, -0.2]))
    pool, width = encoder.pool(x, y, mask), softplus(encoder.raw_width)
    node = LATTICE.axes[0].axis(x)[:, None], LATTICE.axes[1].axis(x)[None]
    rows, columns = (t.expand(4, 4).flatten() for t in node)
    # k = 4 covers both axes; on the circle the block of four around a point reaches two steps to either side
    apart = torch.stack([x[..., :1] - rows, ((x[..., 1:] - columns + 4) % 8 - 4) / 2], -1)  # [b, n, m, dx]
    weight = (-0.5 * (apart / width).square().sum(-1)).exp() * mask[..., None]
    torch.testing.assert_close(pool.density, weight.sum(1), rtol=1e-10, atol=1e-10)
    total = torch.einsum("bnm,bnd->bmd", weight, encoder.embed(y))
    torch.testing.assert_close(pool.total, total, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("encoder", [cell_attention(), KernelInterpolation(LATTICE, 2, 8, 3).double()])
def test_pools_of_parts_are_the_pool_of_the_whole(encoder):
    x, y, mask = points()
    whole = encoder.pool(x, y, mask)
    parts = [encoder.pool(x[:, s], y[:, s], mask[:, s]) for s in (slice(0, 1), slice(1, 12), slice(12, 30))]
    merged = encoder.merge(encoder.merge(parts[2], parts[0]), parts[1])
    for a, b in zip(merged, whole, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("k", [1, 3])
def test_targets_read_their_nearest_lattice_points(k):
    torch.manual_seed(0)
    decoder = NearestRead(LATTICE, 8, 2, 16, k).double()
    x, tokens = points(6)[0], torch.randn(2, 16, 8, dtype=torch.float64)
    read, attention = decoder(x, tokens), decoder.attention
    for task in range(2):
        for point in range(6):
            row = x[task, point, 0] - torch.arange(4.0, dtype=torch.float64)
            column = ((x[task, point, 1] - 2 * torch.arange(4.0, dtype=torch.float64) + 4) % 8 - 4) / 2
            index = torch.cartesian_prod(row.abs().argsort()[:k], column.abs().argsort()[:k])
            offset = torch.stack([row[index[:, 0]], column[index[:, 1]]], -1)
            nearest = torch.stack([row[row.abs().argmin()], column[column.abs().argmin()]])
            h = decoder.embed(2 * nearest)
            key, value = attention.to_kv(decoder.norm_keys(tokens[task, index[:, 0] * 4 + index[:, 1]])).chunk(2, -1)
            q = attention.to_q(decoder.norm(h))
            q, key, value = (t.view(-1, 2, 4).transpose(0, 1) for t in (q, key, value))
            bias = decoder.bias(offset).mT[:, None]
            h = h + attention.to_out(scaled_dot_product_attention(q, key, value, bias).reshape(8))
            h = h + decoder.ff(decoder.norm_ff(h))
            torch.testing.assert_close(read[task, point], h, rtol=1e-10, atol=1e-10)
