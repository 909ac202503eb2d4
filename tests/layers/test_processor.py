"""Window attention against boolean-masked dense attention."""

import itertools

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from npexp.errors import ConfigError
from npexp.layers.processor import Processor, Windows

CASES = [  # shape, window, periodic
    ((13,), (4,), (False,)),
    ((12,), (4,), (True,)),
    ((5, 6), (4, 3), (False, True)),
    ((7, 3), (3, 5), (False, False)),
    ((3, 4, 5), (2, 2, 3), (False, True, False)),
]


def shares_window(shape, width, shift, periodic):
    """[m, m]: floor((i + shift) / width) agrees along every axis, counted around where the axis closes."""
    cells = []
    for place in itertools.product(*map(range, shape)):
        moved = [
            (i + s) % n if closes else i + s for i, s, n, closes in zip(place, shift, shape, periodic, strict=True)
        ]
        cells.append(tuple(i // w for i, w in zip(moved, width, strict=True)))
    return torch.tensor([[a == b for b in cells] for a in cells])


def processor(shape, window, periodic, num_layers=2, patch=None):
    torch.manual_seed(0)
    found = Processor(shape, periodic, 8, num_layers, 2, 16, patch or (1,) * len(shape), window).double()
    with torch.no_grad():
        for p in found.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return found


def dense_block(block, h, mask):
    """The block with its attention spelt out over all pairs that the mask [m, m] allows."""
    attention, normed = block.attention, block.norm(h)
    q, k, v = (
        t.unflatten(-1, (2, 4)).transpose(1, 2) for t in (attention.to_q(normed), *attention.to_kv(normed).chunk(2, -1))
    )
    bias = torch.full((2, len(mask), len(mask)), -torch.inf, dtype=h.dtype)
    for members, real in zip(block.windows.index, block.windows.real, strict=True):
        for a, b in itertools.product(range(len(members)), repeat=2):
            if real[a] and real[b]:
                bias[:, members[a], members[b]] = block.bias[block.pair[a, b]]
    assert torch.equal(bias[0].isfinite(), mask)  # window members are exactly those that the predicate names
    read = scaled_dot_product_attention(q, k, v, bias[None].expand(len(h), -1, -1, -1))
    h = h + attention.to_out(read.transpose(1, 2).flatten(2))
    return h + block.ff(block.norm_ff(h))


@pytest.mark.parametrize(("shape", "window", "periodic"), CASES)
def test_window_attention_is_masked_dense_attention(shape, window, periodic):
    swin = processor(shape, window, periodic)
    m = torch.Size(shape).numel()
    h = torch.randn(3, m, 8, dtype=torch.float64)
    width = [min(w, n) for w, n in zip(window, shape, strict=True)]
    expected = h
    for layer, block in enumerate(swin.blocks):
        shift = [w // 2 if layer % 2 and w < n else 0 for w, n in zip(width, shape, strict=True)]
        mask = shares_window(shape, width, shift, periodic)
        expected = dense_block(block, expected, mask)
    torch.testing.assert_close(swin(h), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("layer", [0, 1])
def test_no_gradient_comes_from_outside_the_window(layer):
    swin = processor((13,), (4,), (False,))
    h = torch.randn(1, 13, 8, dtype=torch.float64)
    mask = shares_window((13,), (4,), (2 * layer,), (False,))
    for i in range(13):
        leaf = h.clone().requires_grad_()
        swin.blocks[layer](leaf)[0, i].sum().backward()
        assert torch.equal(leaf.grad[0].abs().sum(-1) > 0, mask[i])


def test_one_window_over_everything_sees_everything():
    for layer in range(2):
        swin = processor((3, 4), (8, 4), (False, True))
        assert swin.blocks[layer].windows.index.shape == (1, 12)
        h = torch.randn(2, 12, 8, dtype=torch.float64)
        everything = torch.ones(12, 12, dtype=torch.bool)
        torch.testing.assert_close(swin.blocks[layer](h), dense_block(swin.blocks[layer], h, everything))


def test_positions_are_relative():
    swin = processor((5, 6), (4, 6), (False, True))
    block = swin.blocks[0]
    steps = torch.tensor(list(itertools.product(range(4), range(6))))
    apart = steps[:, None] - steps[None]
    apart[..., 1] %= 6  # one window around the circle: a step back is five steps ahead
    numbers = {}
    for a, b in itertools.product(range(24), repeat=2):
        numbers.setdefault(tuple(apart[a, b].tolist()), set()).add(int(block.pair[a, b]))
    assert all(len(found) == 1 for found in numbers.values())
    assert len({n for found in numbers.values() for n in found}) == len(numbers) == 7 * 6


def test_slots_put_every_token_back():
    for shape, window, periodic in CASES:
        width = [min(w, n) for w, n in zip(window, shape, strict=True)]
        windows = Windows(shape, width, [w // 2 for w in width], periodic)
        assert torch.equal(windows.index.flatten()[windows.slot], torch.arange(torch.Size(shape).numel()))
        assert windows.real.flatten()[windows.slot].all() and windows.real.any(1).all()


@pytest.mark.parametrize("window", [None, (2, 2)])
def test_turning_a_closed_lattice_turns_what_comes_out(window):
    swin = processor((4, 6), window, (True, True), num_layers=3)
    h = torch.randn(2, 4, 6, 8, dtype=torch.float64)
    turned = swin(h.roll((2, 4), (1, 2)).flatten(1, 2)).unflatten(1, (4, 6)).roll((-2, -4), (1, 2))
    moved = (turned - swin(h.flatten(1, 2)).unflatten(1, (4, 6))).abs().max()
    assert (moved < 1e-10) == (window is not None)  # the ViT knows where it is


@pytest.mark.parametrize("patch", [(2, 3), (4, 6), (1, 2)])
def test_patches_are_boxes_and_come_apart_again(patch):
    swin = processor((4, 6), None, (False, False), patch=patch)
    h = torch.arange(24.0, dtype=torch.float64)[None, :, None].expand(1, 24, 8)
    patches = swin._patches(h)
    assert torch.equal(swin._points(patches), h)
    first = [6 * i + j for i in range(patch[0]) for j in range(patch[1])]
    assert patches[0, 0].view(-1, 8)[:, 0].tolist() == first
    assert swin(torch.randn(2, 24, 8, dtype=torch.float64)).shape == (2, 24, 8)


def test_sizes_that_do_not_divide_are_refused():
    with pytest.raises(ConfigError, match="patch to divide the lattice, got 2 and 5"):
        processor((5,), None, (False,), patch=(2,))
    with pytest.raises(ConfigError, match="window to divide a periodic axis, got 4 and 6"):
        processor((6,), (4,), (True,))
    with pytest.raises(ConfigError, match="window to be an integer, at least 1"):
        processor((6,), (0,), (True,))
