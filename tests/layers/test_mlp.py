"""Row-wise networks against the concatenations that they spare themselves."""

import pytest
import torch

from npexp.layers.mlp import Entry, mlp, whole


@pytest.mark.parametrize("bias", [True, False])
def test_parts_are_a_concatenation(bias):
    torch.manual_seed(0)
    shapes = (3, 4, 1, 2), (3, 4, 5, 1), (2, 1, 4, 1, 3)  # broadcast to [2, 3, 4, 5, 6]
    parts = tuple(torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in shapes)
    entry = Entry(6, 7, bias=bias).double()
    expected = torch.nn.functional.linear(torch.cat([p.expand(2, 3, 4, 5, -1) for p in parts], -1), entry.weight)
    expected = expected if entry.bias is None else expected + entry.bias
    torch.testing.assert_close(entry(parts), expected)
    torch.testing.assert_close(entry(whole(parts)), expected)
    gradients = (torch.autograd.grad(y.square().sum(), [*parts, *entry.parameters()]) for y in (entry(parts), expected))
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_parts_are_as_wide_as_the_whole_under_autocast():
    entry, parts = Entry(5, 3), (torch.randn(4, 1, 2), torch.randn(4, 6, 3))
    with torch.autocast("cpu", torch.bfloat16):
        assert entry(parts).dtype == entry(whole(parts)).dtype == torch.bfloat16
        torch.testing.assert_close(entry(parts), entry(whole(parts)), rtol=0.03, atol=0.03)


def test_a_network_takes_parts():
    network, parts = mlp(5, 8, 2, 3), (torch.randn(4, 1, 2), torch.randn(4, 6, 3))
    torch.testing.assert_close(network(parts), network(whole(parts)))
