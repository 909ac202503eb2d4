"""Knots against loops over them."""

import pytest
import torch

from npexp.ops.knots import from_knots, from_knots_naive, to_knots, to_knots_naive
from tests.contracts.checks import CLOSE

SIZES = torch.tensor([13, 5, 1, 0])
MASK = torch.arange(13) < SIZES[:, None]
RANKS = torch.arange(13).expand(4, 13)


def rows(*shape: int, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=g, dtype=torch.float64).requires_grad_()


def places(n: torch.Tensor) -> torch.Tensor:
    """All places a target can have: the first and the last, and those of a context in between."""
    return torch.stack([torch.full_like(n, -0.5, dtype=torch.float32), n / 2 - 1, (n - 1) / 2, n - 0.5], 1)


@pytest.mark.parametrize("num_knots", [1, 5, 8, 20])
def test_values_and_gradients(num_knots):
    h, knots = rows(4, 13, 3), rows(4, num_knots, 3, seed=1)
    pairs = [
        (to_knots(h, RANKS, SIZES, MASK, num_knots), to_knots_naive(h, RANKS, SIZES, MASK, num_knots), h),
        (from_knots(knots, RANKS, SIZES), from_knots_naive(knots, RANKS, SIZES), knots),
        (from_knots(knots, places(SIZES), SIZES), from_knots_naive(knots, places(SIZES), SIZES), knots),
    ]
    for fast, slow, leaf in pairs:
        torch.testing.assert_close(fast, slow, **CLOSE)
        weights = torch.randn_like(fast)
        grads = (torch.autograd.grad((t * weights).sum(), leaf)[0] for t in (fast, slow))
        torch.testing.assert_close(*grads, **CLOSE)


def test_padding_may_hold_anything():
    h = rows(4, 13, 3).detach()
    poisoned = torch.where(MASK[..., None], h, torch.full_like(h, torch.nan))
    clean = to_knots(h, RANKS, SIZES, MASK, 6)
    torch.testing.assert_close(to_knots(poisoned, RANKS, SIZES, MASK, 6), clean, rtol=0, atol=0)
    for i, n in enumerate(SIZES.tolist()):
        alone = to_knots(h[i : i + 1, :n], RANKS[:1, :n], SIZES[i : i + 1], None, 6)
        torch.testing.assert_close(alone[0], clean[i], **CLOSE)


@pytest.mark.parametrize("n", [1, 2, 7, 8, 9, 100])
def test_no_knot_goes_empty(n):
    ones = torch.ones(1, n, 1, dtype=torch.float64)
    knots = to_knots(ones, torch.arange(n)[None], torch.tensor([n]), None, 8)
    torch.testing.assert_close(knots, torch.ones_like(knots), **CLOSE)
    back = from_knots(knots, torch.arange(n + 1)[None] - 0.5, torch.tensor([n]))
    torch.testing.assert_close(back, torch.ones_like(back), **CLOSE)


def test_as_many_knots_as_points_are_the_points():
    h, ranks, n = rows(2, 11, 3), torch.arange(11).expand(2, 11), torch.tensor([11, 11])
    torch.testing.assert_close(to_knots(h, ranks, n, None, 11), h, **CLOSE)
    torch.testing.assert_close(from_knots(h, ranks, n), h, **CLOSE)


def test_a_row_at_a_knot_reads_the_knot():
    """With twice as many points as knots, these lie halfway between points 2g and 2g + 1."""
    knots = rows(1, 6, 3)
    between = torch.arange(6)[None] * 2 + 0.5
    torch.testing.assert_close(from_knots(knots, between, torch.tensor([12])), knots, **CLOSE)


def test_twice_the_points_leave_the_knots():
    def change(n: int) -> float:
        h = rows(1, n, 3).detach()
        twice = to_knots(h.repeat_interleave(2, 1), torch.arange(2 * n)[None], torch.tensor([2 * n]), None, 6)
        return float((to_knots(h, torch.arange(n)[None], torch.tensor([n]), None, 6) - twice).abs().max())

    assert change(50) < 1 / 50 and change(500) < 1 / 500
