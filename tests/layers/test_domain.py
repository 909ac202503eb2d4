"""The map of inputs to [-2, 2], and how it is found."""

import pytest
import torch

from npexp.errors import ConfigError, DataError
from npexp.layers.domain import Domain


def test_a_given_domain_is_mapped_and_kept():
    domain = Domain(2, (10.0, 14.0))
    x = torch.tensor([[[10.0, 14.0], [12.0, 11.0], [14.5, 9.5]]], dtype=torch.float64)
    expected = torch.tensor([[[-2.0, 2.0], [0.0, -1.0], [2.5, -2.5]]], dtype=torch.float64)
    assert torch.equal(domain("context", x), expected)
    domain.adapt(100 * x[0])
    assert torch.equal(domain("context", x), expected)


def test_an_automatic_domain_takes_the_range_of_each_axis_once():
    domain, x = Domain(2), torch.tensor([[10.0, -1.0], [14.0, 1.0], [11.0, 0.0]])
    inside = torch.tensor([[[0.3, -2.7]]])
    assert torch.equal(domain("context", inside), inside)  # [-2, 2] until it has seen some
    domain.adapt(x[:0])
    assert torch.equal(domain("context", inside), inside)
    domain.adapt(x)
    assert torch.equal(domain("context", x[None])[0], torch.tensor([[-2.0, -2.0], [2.0, 2.0], [-1.0, 0.0]]))
    other = Domain(2)
    other.load_state_dict(domain.state_dict())
    for seen in (x, 100 * x):  # weights that were trained on one range are of no use on another
        other.adapt(seen)
        assert torch.equal(other("context", x[None]), domain("context", x[None]))


def test_an_axis_without_extent_keeps_its_unit():
    domain = Domain(2)
    domain.adapt(torch.tensor([[3.0, 0.0], [3.0, 8.0]]))
    x = torch.tensor([[[3.0, 4.0], [5.0, 8.0]]])
    assert torch.equal(domain("context", x), torch.tensor([[[0.0, 0.0], [2.0, 2.0]]]))


def test_inputs_far_outside_are_refused():
    domain, x = Domain(2, (10.0, 14.0)), torch.full((2, 3, 2), 12.0)
    x[1, 2, 1] = 15.0
    with pytest.raises(DataError, match=r"target x = 15 lies far outside the domain \[10, 14\]"):
        domain("target", x)
    mask = torch.ones(2, 3, dtype=torch.bool)
    mask[1, 2] = False
    assert domain("target", x, mask).shape == x.shape  # padding may lie anywhere


@pytest.mark.parametrize(("dtype", "end"), [(torch.float32, 5e3), (torch.float64, 2e12)])
def test_where_differences_matter_inputs_lie_anywhere_that_their_dtype_can_tell_apart(dtype, end):
    domain = Domain(1, (-2.0, 2.0), bounded=False)
    x = torch.tensor([[[0.8 * end]]], dtype=dtype)
    assert torch.equal(domain("target", x), x)
    with pytest.raises(DataError, match=f"that {dtype} rounds it too much: subtract an origin"):
        domain("target", 1.5 * x)


@pytest.mark.parametrize(
    "bad",
    [
        (1.0, 1.0),
        (2.0, -2.0),
        (0.0,),
        (0.0, 1.0, 2.0),
        (0.0, float("inf")),
        (float("nan"), 1.0),
        3,
        "ab",
        [[0, 1], [2, 3]],
    ],
)
def test_impossible_domains(bad, untyped):
    with pytest.raises(ConfigError, match="low < high"):
        Domain(1, bad)
