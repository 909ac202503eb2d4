"""Transforms and recurrences along ranks against matrices and loops."""

import pytest
import torch

from npexp.ops.sequence import (
    fourier_half_ranks,
    fourier_half_ranks_naive,
    linear_recurrence,
    linear_recurrence_naive,
)
from tests.contracts.checks import CLOSE


def rows(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype).requires_grad_()


@pytest.mark.parametrize("d", [1, 6, 7])
def test_transform(d):
    h, n = rows(5, 9, d), torch.tensor([9, 8, 5, 1, 0])
    fast, slow = fourier_half_ranks(h, n), fourier_half_ranks_naive(h, n)
    weights = torch.randn_like(fast)
    losses = [0.0, 0.0]
    for i, exact in enumerate(slow):
        found, count = fast[i, : len(exact)], n[i]
        torch.testing.assert_close(found, exact, **CLOSE)
        torch.testing.assert_close(found[::2], torch.fft.fft2(h[i, :count]).real if count else found[::2], **CLOSE)
        for j, t in enumerate((found, exact)):
            losses[j] = losses[j] + (t * weights[i, : len(exact)]).sum()
    torch.testing.assert_close(*(torch.autograd.grad(loss, h)[0] for loss in losses), **CLOSE)


def test_transform_of_nothing():
    assert fourier_half_ranks(torch.zeros(2, 0, 4), torch.tensor([0, 0])).abs().sum() == 0


def test_transform_ignores_padding_and_keeps_its_digits():
    """In float32, at a length where the chirp's argument would lose its digits were it not reduced exactly."""
    h, n = rows(1, 3001, 2, dtype=torch.float32).detach(), torch.tensor([2900])
    found = fourier_half_ranks(torch.where(torch.arange(3001)[:, None] < n, h, torch.nan), n)[0, :5800:2]
    exact = torch.fft.fft2(h[0, :2900].double()).real
    assert (found - exact).norm() / exact.norm() < 1e-6


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("n", [0, 1, 2, 3, 8, 13, 64, 100])
def test_recurrence(n, dtype):
    decay, value = (rows(2, n, 3, seed=s, dtype=dtype) for s in (0, 1))
    fast = linear_recurrence(decay, value)
    if n == 0:
        assert fast.shape == value.shape
        return
    slow = linear_recurrence_naive(decay, value)
    torch.testing.assert_close(fast, slow, **CLOSE)
    weights = torch.randn_like(fast)
    for leaf in (decay, value) if n > 1 else (value,):
        grads = (torch.autograd.grad((t * weights).sum().real, leaf, retain_graph=True)[0] for t in (fast, slow))
        torch.testing.assert_close(*grads, **CLOSE)


def test_recurrence_forgets_all():
    decay, value = torch.zeros(1, 9, 2, dtype=torch.float64), rows(1, 9, 2)
    torch.testing.assert_close(linear_recurrence(decay, value), value, rtol=0, atol=0)
