"""Attention against its naive twin, and parts against the whole."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from npexp.ops.attention import Part, attend, attend_naive, attend_part, merge_parts, share_part


def inputs(b=3, h=2, nq=5, nk=63, dh=8, dtype=torch.float64):
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(b, h, n, dh, generator=g, dtype=dtype, requires_grad=True) for n in (nq, nk, nk))
    mask = torch.rand(b, nk, generator=g) < 0.7
    mask[0] = False  # one task without any context
    return q, k, v, mask


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("nk", [1, 63, 100])
def test_fused_equals_naive(masked, scale, nk):
    q, k, v, mask = inputs(nk=nk)
    mask = mask if masked else None
    fast, slow = attend(q, k, v, mask, scale), attend_naive(q, k, v, mask, scale)
    torch.testing.assert_close(fast, slow)
    weight = torch.randn_like(fast)
    for a, b in zip(*(torch.autograd.grad((o * weight).sum(), (q, k, v)) for o in (fast, slow)), strict=True):
        torch.testing.assert_close(a, b)


def test_no_keys_give_zero():
    q, k, v, _ = inputs(nk=0)
    assert (attend(q, k, v) == 0).all() and (attend_naive(q, k, v) == 0).all()
    q, k, v, mask = inputs()
    out = attend(q, k, v, mask)
    assert (out[0] == 0).all() and out.isfinite().all()
    out.sum().backward()
    assert all(t.grad.isfinite().all() for t in (q, k, v))


def test_masked_attention_stays_fused():
    """A slip in shapes would fall back to quadratic memory without a word."""
    q, k, v, mask = inputs(nq=128, nk=128, dtype=torch.float32)
    with profile(activities=[ProfilerActivity.CPU]) as p:
        attend(q, k, v, mask)
    assert any("flash_attention_for_cpu" in e.key for e in p.key_averages())


@pytest.mark.parametrize("size", [1, 7, 63])
@pytest.mark.parametrize("logit_scale", [1.0, 30.0])
def test_merged_chunks_equal_the_whole(size, logit_scale):
    q, k, v, mask = inputs()
    whole = attend_part(q, k * logit_scale, v, mask)
    part = Part(torch.zeros_like(whole.out), torch.full_like(whole.lse, -torch.inf))  # the identity
    for i in range(0, 63, size):
        s = slice(i, i + size)
        part = merge_parts(part, attend_part(q, k[:, :, s] * logit_scale, v[:, :, s], mask[:, s]))
    torch.testing.assert_close(part.out, whole.out, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(part.lse, whole.lse, rtol=1e-12, atol=1e-12)


def test_merging_is_differentiable_with_empty_parts():
    q, k, v, mask = inputs()
    merged = merge_parts(
        attend_part(q, k[:, :, :30], v[:, :, :30], mask[:, :30]),
        attend_part(q, k[:, :, 30:], v[:, :, 30:], mask[:, 30:]),
    )
    whole = attend(q, k, v, mask)
    for a, b in zip(*(torch.autograd.grad(o.square().sum(), (q, k, v)) for o in (merged.out, whole)), strict=True):
        assert a.isfinite().all()
        torch.testing.assert_close(a, b)


def test_merging_nothing_with_nothing_has_gradients():
    q, k, v, _ = inputs()
    none = Part(torch.zeros_like(q), torch.full(q.shape[:3], -torch.inf, dtype=q.dtype))
    some = attend_part(q, k, v)
    for other in (none, some):
        parts = [Part(*(t.detach().clone().requires_grad_() for t in part)) for part in (none, other)]
        merged = merge_parts(*parts)
        assert torch.equal(merged.lse, other.lse)
        score = merged.out.square().sum() + torch.nn.functional.softplus(merged.lse).sum()
        for t in torch.autograd.grad(score, [t for part in parts for t in part]):
            assert t.isfinite().all()


@pytest.mark.parametrize("size", [1, 20, 63])
def test_shares_of_parts_have_the_gradients_of_the_whole(size):
    """Of the average and of its log-normaliser, by one chunk after the other."""
    q, k, v, mask = inputs()
    whole = attend_part(q, k, v, mask)
    seen = whole.lse.isfinite()
    by = Part(torch.randn_like(whole.out), torch.where(seen, torch.randn_like(whole.lse), 0))
    expected = torch.autograd.grad([whole.out, whole.lse], (q, k, v), by, retain_graph=True)
    found = [torch.zeros_like(t) for t in (q, k, v)]
    for i in range(0, 63, size):
        s = slice(i, i + size)
        share = share_part(attend_part(q, k[:, :, s], v[:, :, s], mask[:, s]), whole)
        for total, new in zip(found, torch.autograd.grad(share, (q, k, v), by, retain_graph=True), strict=True):
            total += new
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


def test_parts_are_float32_in_half_precision():
    q, k, v, mask = (t.bfloat16() if t.is_floating_point() else t for t in inputs())
    part = attend_part(q, k, v, mask)
    assert part.out.dtype == part.lse.dtype == torch.float32
