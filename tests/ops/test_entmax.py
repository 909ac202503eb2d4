"""Entmax against its naive twin, the closed forms of its special cases, and finite differences."""

import pytest
import torch

from npexp.ops.attention import attend_naive
from npexp.ops.entmax import entmax, entmax_attend, entmax_naive


def draw(*shape, seed=0, scale=2.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def number(value):
    return torch.tensor([value], dtype=torch.float64)


def some(*shape, seed=1):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < 0.6


def sparsemax(s):
    """Martins & Astudillo 2016: tau from the sorted logits."""
    top = s.sort(-1, descending=True).values
    k = torch.arange(1, s.shape[-1] + 1)
    tau = (top.cumsum(-1) - 1) / k
    size = (k * top > top.cumsum(-1) - 1).sum(-1, keepdim=True)
    return (s - tau.gather(-1, size - 1)).clamp_min(0)


def entmax15(s):
    """Peters et al. 2019, algorithm 2."""
    s = s - s.amax(-1, keepdim=True)  # or squares of large logits would cancel
    top = (s / 2).sort(-1, descending=True).values
    k = torch.arange(1, s.shape[-1] + 1)
    mean, square = top.cumsum(-1) / k, top.square().cumsum(-1) / k
    tau = mean - ((1 - k * (square - mean.square())) / k).clamp_min(0).sqrt()
    size = (tau <= top).sum(-1, keepdim=True)
    return (s / 2 - tau.gather(-1, size - 1)).clamp_min(0).square()


@pytest.mark.parametrize("scale", [0.0, 0.1, 1.0, 30.0])
@pytest.mark.parametrize("n", [1, 2, 63, 1000])
def test_closed_forms(n, scale):
    s = draw(5, n, scale=scale)
    torch.testing.assert_close(entmax(s, number(2.0)), sparsemax(s), rtol=0, atol=1e-14)
    torch.testing.assert_close(entmax(s, number(1.5)), entmax15(s), rtol=0, atol=1e-14)


def test_softmax_is_the_limit():
    s = draw(5, 63)
    gaps = [(entmax(s, number(1 + eps)) - s.softmax(-1)).abs().max() for eps in (1e-2, 1e-3, 1e-4)]
    assert gaps[2] < 2e-4 and gaps[0] > 5 * gaps[1] > 25 * gaps[2]


@pytest.mark.parametrize("alpha", [1.001, 1.05, 1.3, 1.7, 1.999])
@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_any_alpha(alpha, scale):
    s, mask = draw(3, 4, 101, scale=scale), some(3, 1, 101)
    mask[1] = False
    found = entmax(s, number(alpha), mask)
    torch.testing.assert_close(found, entmax_naive(s, number(alpha), mask), rtol=0, atol=1e-10)
    torch.testing.assert_close(found.sum(-1), mask.any(-1).expand(3, 4).double())
    assert not found[~mask.expand_as(found)].any()


def test_steps_are_enough_for_long_contexts():
    """Hard cases: many near ties, among few that stand out."""
    for s in (draw(4, 20_000, scale=0.1), torch.rand(4, 20_000, dtype=torch.float64) ** 6):
        for alpha in (1.2, 1.9, 2.0):
            assert (entmax(s, number(alpha)).sum(-1) - 1).abs().max() < 1e-12


@pytest.mark.parametrize("mask", [None, some(2, 1, 7)], ids=["whole", "masked"])
def test_gradients_match_finite_differences(mask):
    s = draw(2, 3, 7).requires_grad_()
    alpha = torch.tensor([1.1, 1.5, 1.9], dtype=torch.float64)[:, None].requires_grad_()
    assert torch.autograd.gradcheck(lambda s, alpha: entmax(s, alpha, mask), (s, alpha))


def test_gradient_is_that_of_the_paper():
    """Correia et al. 2019: symmetric in s, and the formula for alpha."""
    s, alpha = draw(9).requires_grad_(), number(1.4).requires_grad_()
    p, a = entmax(s, alpha), 1.4
    assert (p == 0).any()
    g = draw(9, seed=3)
    by_s, by_alpha = torch.autograd.grad((p * g).sum(), (s, alpha))
    slope = torch.where(p > 0, p ** (2 - a), 0.0)
    share, entropy = slope / slope.sum(), -torch.where(p > 0, p * p.log(), 0.0)
    torch.testing.assert_close(by_s, slope * (g - (share * g).sum()))
    expected = (p - share) / (a - 1) ** 2 + (entropy - share * entropy.sum()) / (a - 1)
    torch.testing.assert_close(by_alpha[0], (expected * g).sum())


def test_nothing_to_weigh():
    """Rows of which all is masked, and rows of no logits."""
    s, alpha = draw(2, 5).requires_grad_(), number(1.3).requires_grad_()
    p = entmax(s, alpha, torch.zeros(2, 5, dtype=torch.bool))
    assert not p.any()
    assert all(not g.any() for g in torch.autograd.grad(p.sum() + (p * draw(2, 5)).sum(), (s, alpha)))
    assert entmax(s[:, :0], alpha).shape == (2, 0)


def test_masked_logits_may_be_anything():
    s, mask = draw(3, 9), some(3, 9)
    bad = torch.where(mask, s, torch.nan).requires_grad_()
    alpha = number(1.3).requires_grad_()
    p = entmax(bad, alpha, mask)
    torch.testing.assert_close(p, entmax(torch.where(mask, s, 1e6), alpha, mask))
    assert all(g.isfinite().all() for g in torch.autograd.grad((p * s).sum(), (bad, alpha)))


@pytest.mark.parametrize("alpha", [1.01, 1.5, 2.0])
def test_float32(alpha):
    s = draw(3, 1000)
    found = entmax(s.float(), number(alpha).float())
    assert found.dtype == torch.float32 and entmax(s.bfloat16(), number(alpha)).dtype == torch.float32
    torch.testing.assert_close(found.double(), entmax(s.float().double(), number(alpha)), rtol=0, atol=1e-5)


def test_the_entmax_package_agrees():
    package = pytest.importorskip("entmax")
    s = draw(5, 63)
    torch.testing.assert_close(entmax(s, number(1.5)), package.entmax15(s, -1))
    torch.testing.assert_close(entmax(s, number(1.3)), package.entmax_bisect(s, 1.3, n_iter=80))


@pytest.mark.parametrize("tile", [1, 3, 64])
@pytest.mark.parametrize("mask", [None, some(2, 11), some(2, 5, 11)], ids=["none", "keys", "pairs"])
def test_attention_in_tiles_is_the_whole(tile, mask):
    leaves = [draw(2, 3, n, 4, seed=n + i).requires_grad_() for i, n in enumerate((5, 11, 11))]
    alpha = torch.tensor([1.1, 1.5, 2.0], dtype=torch.float64, requires_grad=True)
    q, k, v = leaves
    spelled = None if mask is None else (mask[:, None, None] if mask.ndim == 2 else mask[:, None]).expand(2, 3, 5, 11)
    expected = entmax(q @ k.mT / 2, alpha[:, None, None], spelled) @ v
    found = entmax_attend(q, k, v, alpha, mask, tile)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    g = draw(2, 3, 5, 4, seed=9)
    for a, b in zip(*(torch.autograd.grad((o * g).sum(), (*leaves, alpha)) for o in (found, expected)), strict=True):
        torch.testing.assert_close(a, b)


def test_attention_tends_to_softmax():
    q, k, v = (draw(2, 3, n, 4, seed=n + i, scale=1.0) for i, n in enumerate((5, 11, 11)))
    mask = some(2, 11)
    found = entmax_attend(q, k, v, torch.full((3,), 1 + 1e-5, dtype=torch.float64), mask)
    torch.testing.assert_close(found, attend_naive(q, k, v, mask), rtol=0, atol=1e-4)


def test_attention_to_no_keys_is_zero_with_a_graph():
    q, k = draw(2, 3, 5, 4).requires_grad_(), draw(2, 3, 0, 4)
    out = entmax_attend(q, k, k, torch.full((3,), 1.5, dtype=torch.float64))
    assert out.shape == q.shape and not out.any() and out.requires_grad
