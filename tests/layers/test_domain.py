"""The map of inputs to [-2, 2], and how it is found."""

import pytest
import torch

from npexp.errors import ConfigError
from npexp.layers.domain import Domain


def test_a_given_domain_is_mapped_and_kept():
    domain = Domain(2, (10.0, 14.0))
    x = torch.tensor([[[10.0, 14.0], [12.0, 11.0], [16.0, 4.0]]], dtype=torch.float64)
    expected = torch.tensor([[[-2.0, 2.0], [0.0, -1.0], [4.0, -8.0]]], dtype=torch.float64)
    assert torch.equal(domain(x), expected)
    domain.adapt(100 * x[0])
    assert torch.equal(domain(x), expected)


def test_an_automatic_domain_takes_the_range_of_each_axis():
    domain, x = Domain(2), torch.tensor([[10.0, -1.0], [14.0, 1.0], [11.0, 0.0]])
    assert torch.equal(domain(x[None]), x[None])  # [-2, 2] until it has seen some
    domain.adapt(x[:0])
    assert torch.equal(domain(x[None]), x[None])
    domain.adapt(x)
    assert torch.equal(domain(x[None])[0], torch.tensor([[-2.0, -2.0], [2.0, 2.0], [-1.0, 0.0]]))
    other = Domain(2)
    other.load_state_dict(domain.state_dict())
    assert torch.equal(other(x[None]), domain(x[None]))


def test_an_axis_without_extent_keeps_its_unit():
    domain = Domain(2)
    domain.adapt(torch.tensor([[3.0, 0.0], [3.0, 8.0]]))
    assert torch.equal(domain(torch.tensor([[[3.0, 4.0], [5.0, 8.0]]])), torch.tensor([[[0.0, 0.0], [2.0, 2.0]]]))


@pytest.mark.parametrize(
    "bad", [(1.0, 1.0), (2.0, -2.0), (0.0,), (0.0, 1.0, 2.0), (0.0, float("inf")), (float("nan"), 1.0)]
)
def test_impossible_domains(bad):
    with pytest.raises(ConfigError, match="low < high, got"):
        Domain(1, bad)
