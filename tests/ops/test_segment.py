"""Segment softmax against its loop over segments."""

import torch

from npexp.ops.segment import attend_segments, attend_segments_naive


def draw(b=2, h=3, n=11, dh=4, m=5):
    g = torch.Generator().manual_seed(0)
    logits, v = (torch.randn(b, h, n, *d, generator=g, dtype=torch.float64) for d in ((), (dh,)))
    segment = torch.arange(b * n).view(b, n) % (m - 1)  # the last segment stays empty
    return logits, v, segment, torch.rand(b, n, generator=g) < 0.7


def test_values_and_gradients_are_those_of_the_loop():
    logits, v, segment, mask = draw()
    for real in (None, mask):
        found = []
        for attend in (attend_segments, attend_segments_naive):
            leaves = [t.clone().requires_grad_() for t in (logits, v)]
            part = attend(*leaves, segment, 4, real)
            weight = torch.linspace(-1, 1, part.out.numel(), dtype=torch.float64).view_as(part.out)
            seen = part.lse.isfinite()
            ((part.out * weight).sum() + part.lse[seen].square().sum()).backward()
            found.append((part.out, part.lse, *(leaf.grad for leaf in leaves)))
        for fast, slow in zip(*found, strict=True):
            torch.testing.assert_close(fast, slow, rtol=1e-12, atol=1e-12)


def test_empty_segments_read_nothing_and_spoil_no_gradient():
    logits, v, segment, _ = draw()
    logits.requires_grad_()
    part = attend_segments(logits, v, segment, 5)
    assert (part.out[:, :, -1] == 0).all() and (part.lse[:, :, -1] == -torch.inf).all()
    part.out.sum().backward()
    assert logits.grad.isfinite().all()


def test_logits_of_any_size_are_fine_and_sums_are_float32():
    logits, v, segment, _ = draw()
    part = attend_segments(1e4 * logits.bfloat16(), v.bfloat16(), segment, 5)
    assert part.out.dtype == part.lse.dtype == torch.float32
    assert part.out.isfinite().all() and part.lse[:, :, :3].isfinite().all()
    assert attend_segments(logits[:, :, :0], v[:, :, :0], segment[:, :0], 5).out.eq(0).all()
