"""Attention against its naive twin, and parts against the whole."""

import math

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from npexp.ops import attention
from npexp.ops.attention import Part, attend, attend_naive, attend_part, merge_parts, share_part

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


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


def spelled(q, k, v, mask, bias):
    """Average and log-normaliser in PyTorch's own words; bias and mask of every pair."""
    logits = torch.where(mask, q @ k.mT / q.shape[-1] ** 0.5 + bias, -torch.inf)
    return torch.where(mask, logits.softmax(-1), 0) @ v, logits.logsumexp(-1)


def pairs(nq, nk):
    """Which pairs there are, some rows without any, and a bias that excludes others."""
    g = torch.Generator().manual_seed(1)
    mask = torch.rand(3, nq, nk, generator=g) < 0.7
    mask[:, 1] = False
    bias = 3 * torch.randn(3, 2, nq, nk, generator=g, dtype=torch.float64)
    bias[:, :, 2, nk // 2 :] = bias[:, 1, 3] = -torch.inf
    return mask, bias


def test_parts_are_a_softmax_with_gradients_where_rows_are_empty():
    q, k, v, _ = inputs()
    mask, bias = pairs(5, 63)
    seen = mask[:, None] & (bias > -torch.inf)
    bias.requires_grad_()
    found = attend_part(q, k, v, mask, bias=bias)
    expected = spelled(q, k, v, seen, bias)
    there = seen.any(-1)
    assert not there.all() and (found.lse[~there] == -torch.inf).all() and (found.out[~there] == 0).all()
    torch.testing.assert_close(found.out[there], expected[0][there])
    torch.testing.assert_close(found.lse, expected[1])
    # of rows in which there is something; a NaN of the others would show, too
    by = [torch.randn_like(t[there]) for t in found]
    gradients = []
    for out, lse in (found, (expected[0].nan_to_num(), expected[1])):
        gradients.append(torch.autograd.grad([out[there], lse[there]], (q, k, v, bias), by, retain_graph=True))
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, torch.where(b.isnan(), 0, b))
    everything = torch.autograd.grad([*found], (q, k, v, bias), [torch.ones_like(t) for t in found])
    assert all(t.isfinite().all() for t in everything)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_huge_logits_have_parts(dtype):
    """exp of any of them would overflow; of two that are the same the average is in the middle."""
    q, k = torch.full((1, 1, 1, 4), 100.0, dtype=dtype), torch.tensor([100.0, 100, -100], dtype=dtype)
    v = torch.tensor([1.0, 3, 100], dtype=dtype)[:, None]
    part = attend_part(q, k[:, None].expand(1, 1, 3, 4), v[None, None])
    assert part.out.item() == 2
    assert part.lse.item() == pytest.approx(20_000 + math.log(2))


def test_what_is_no_number_is_not_taken_for_nothing():
    q, k, v, _ = inputs()
    k = k.detach().clone()
    k[0, 0, 0] = torch.nan
    part = attend_part(q, k, v)
    assert part.lse[0, 0].isnan().all() and part.out[0, 0].isnan().all()
    assert part.lse[1:].isfinite().all()


@pytest.mark.parametrize("kind", ["none", "keys", "pairs", "bias"])
@pytest.mark.parametrize("nk", [64, 65, 300])
def test_tiles_without_gradients_are_the_whole(kind, nk, monkeypatch):
    q, k, v, keys = inputs(nk=nk)
    mask, bias = pairs(5, nk)
    given = {"none": {}, "keys": {"mask": keys}, "pairs": {"mask": mask}, "bias": {"mask": keys, "bias": bias}}[kind]
    whole = attend_part(q, k, v, **given)
    monkeypatch.setattr(attention, "TILE", 1)  # 64 keys at a time, then, the fewest
    merged = []
    monkeypatch.setattr(attention, "merge_parts", lambda a, b: merged.append(1) or merge_parts(a, b))
    assert torch.equal(attend_part(q, k, v, **given).out, whole.out) and not merged
    with torch.no_grad():
        tiles = attend_part(q, k, v, **given)
    assert len(merged) == (nk - 1) // 64
    torch.testing.assert_close(tiles.out, whole.out, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(tiles.lse, whole.lse, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("device", "tiles"), [("cpu", 8), pytest.param("cuda", 1, marks=GPU)])
def test_tiles_are_large_where_starting_an_operation_is_dear(device, tiles, monkeypatch):
    q, k = (torch.zeros(1, 1, n, 2, device=device) for n in (2**10, 2**11))
    merged = []
    monkeypatch.setattr(attention, "merge_parts", lambda a, b: merged.append(1) or merge_parts(a, b))
    with torch.no_grad():
        attend_part(q, k, k)
    assert len(merged) + 1 == tiles


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
