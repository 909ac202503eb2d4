"""Scan attention against its naive twin: values, gradients, memory."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from npexp.ops.attention import attend
from npexp.ops.scan import scan_attend, scan_attend_naive


def inputs(b=2, h=2, nq=5, nk=11, dh=4, dx=2, seed=0):
    g = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64, requires_grad=True)

    mask = torch.rand(b, nk, generator=g) < 0.7
    mask[:, :1] = True  # no task without any context
    return [draw(b, h, nq, dh), draw(b, h, nk, dh), draw(b, h, nk, dh), draw(b, nq, dx), draw(b, nk, dx)], mask


class Bias(torch.nn.Module):
    """Depends on everything a bias may see, and has a parameter."""

    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor([0.3, -0.7], dtype=torch.float64))

    def forward(self, q, k, xq, xk):
        distance = (xq[:, :, None] - xk[:, None]).square().sum(-1)
        return self.w[0] * distance[:, None] + self.w[1] * (q @ k.mT).sin()


@pytest.mark.parametrize("tile", [1, 4, 5, 64])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("scale", [None, 0.0])
def test_tiles_do_not_matter(tile, masked, scale):
    leaves, mask = inputs()
    mask, bias = (mask if masked else None), Bias()
    scanned = scan_attend(*leaves, bias, mask, scale, tile)
    naive = scan_attend_naive(*leaves, bias, mask, scale)
    torch.testing.assert_close(scanned, naive, rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(scan_attend(*leaves, bias, mask, scale, tile), naive, rtol=1e-12, atol=1e-12)
    weight = torch.randn_like(naive)
    for a, b in zip(
        *(torch.autograd.grad((o * weight).sum(), (*leaves, bias.w)) for o in (scanned, naive)), strict=True
    ):
        torch.testing.assert_close(a, b)


def test_gradients_match_finite_differences():
    leaves, mask = inputs(b=1, h=1, nq=2, nk=3, dh=2, dx=1)
    bias = Bias()

    def f(w, *leaves):
        return scan_attend(*leaves, lambda *a: torch.func.functional_call(bias, {"w": w}, a), mask, tile=2)

    assert torch.autograd.gradcheck(f, (bias.w, *leaves))


def test_without_a_bias_it_is_attention():
    (q, k, v, xq, xk), mask = inputs()
    out = scan_attend(q, k, v, xq, xk, lambda q, k, *_: torch.zeros_like(q @ k.mT), mask, tile=4)
    torch.testing.assert_close(out, attend(q, k, v, mask))


@pytest.mark.parametrize("nq", [0, 3])
@pytest.mark.parametrize("tile", [4, 64])
def test_no_keys_give_zero_with_finite_gradients(nq, tile):
    leaves, mask = inputs(nq=nq, nk=0)
    bias = Bias()
    out = scan_attend(*leaves, bias, mask, tile=tile)
    assert out.shape == (2, 2, nq, 4) and (out == 0).all()
    leaves, mask = inputs(nq=nq)
    mask = torch.zeros_like(mask)
    out = scan_attend(*leaves, bias, mask, tile=tile)
    assert (out == 0).all()
    out.sum().backward()
    assert all(t.grad.isfinite().all() for t in (*leaves, bias.w))


def peak(n: int, tile: int) -> int:
    """Most bytes held at a time in a forward and backward pass over n points."""
    leaves, _ = inputs(b=1, nq=n, nk=n)
    bias = Bias()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as p:
        scan_attend(*leaves, bias, tile=tile).sum().backward()
    held = highest = 0
    for event in p.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            highest = max(highest, held)
    return highest


def test_memory_is_linear():
    """Sixteen times the pairs, at most four times the memory, where one tile takes sixteen times."""
    assert peak(512, tile=64) < 4.5 * peak(128, tile=64)
    assert peak(512, tile=512) > 12 * peak(128, tile=512)
    assert peak(512, tile=64) < peak(512, tile=512) / 8
