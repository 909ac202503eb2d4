"""Pooling of ranks against loops over groups."""

import pytest
import torch

from npexp.ops.rank_pool import convolve_ranks, convolve_ranks_naive, mean_ranks, mean_ranks_naive

MASK = torch.arange(11) < torch.tensor([11, 7, 1, 0])[:, None]


def compare(fast, naive, t, mask, *weights):
    """Values, and gradients by rows and weights."""
    found, expected = fast(t), naive(t)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected)
    g = torch.randn(found.shape, dtype=found.dtype)
    grads = [torch.autograd.grad((out * g).sum(), (t, *weights)) for out in (found, expected)]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)
    if mask is not None:
        pads = ~(mask[:, None] if t.ndim == 4 else mask).expand(t.shape[:-1])
        assert not grads[0][0][pads].any()


@pytest.mark.parametrize("size", [1, 2, 3, 11, 20])
@pytest.mark.parametrize("mask", [None, MASK], ids=["full", "ragged"])
@pytest.mark.parametrize("heads", [(), (2,)], ids=["tokens", "heads"])
def test_pooling_is_group_by_group(size, mask, heads):
    torch.manual_seed(0)
    t = torch.randn(4, *heads, 11, 3, dtype=torch.float64, requires_grad=True)
    w = torch.randn(*heads, size, 3, 5, dtype=torch.float64, requires_grad=True)
    compare(lambda t: mean_ranks(t, size, mask), lambda t: mean_ranks_naive(t, size, mask), t, mask)
    compare(lambda t: convolve_ranks(t, w, mask), lambda t: convolve_ranks_naive(t, w, mask), t, mask, w)


def test_odd_tails_keep_one_and_pads_do_not_count():
    t = torch.tensor([1.0, 3.0, 5.0, torch.nan, torch.nan]).view(1, 5, 1)
    mask = ~t[..., 0].isnan()
    assert mean_ranks(t, 2, mask).flatten().tolist() == [2, 5, 0]
    assert mask[:, ::2].tolist() == [[True, True, False]]
    one = torch.ones(2, 1, 1)
    assert convolve_ranks(t, one, mask).flatten().tolist() == [4, 10, 0]  # as if the lone 5 came twice


def test_the_mean_is_a_convolution():
    t = torch.randn(4, 11, 3)
    torch.testing.assert_close(convolve_ranks(t, torch.eye(3).repeat(4, 1, 1) / 4, MASK), mean_ranks(t, 4, MASK))


def test_no_points_and_low_precision():
    assert mean_ranks(torch.zeros(2, 0, 3), 2).shape == (2, 0, 3)
    assert convolve_ranks(torch.zeros(2, 4, 0, 3), torch.zeros(4, 2, 3, 5)).shape == (2, 4, 0, 5)
    t, w = torch.randn(4, 11, 3), torch.randn(2, 3, 5)
    with torch.autocast("cpu", torch.bfloat16):
        assert mean_ranks(t.bfloat16(), 2).dtype == torch.bfloat16
        rounded = convolve_ranks(t, w)
    torch.testing.assert_close(rounded, convolve_ranks(t, w), rtol=0, atol=0)
