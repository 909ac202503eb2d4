"""Linear maps with few parameters against their spelled-out matrices."""

import pytest
import torch

from npexp.errors import ConfigError
from npexp.layers.attention import Attention
from npexp.layers.factorised import LowRankLinear, MultiplicativeLinear


def rows(d):
    return torch.randn(5, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_low_rank_map_of_full_rank_is_any_map():
    torch.manual_seed(0)
    whole, low, h = torch.nn.Linear(6, 4).double(), LowRankLinear(6, 4, rank=4).double(), rows(6)
    u, s, v = torch.linalg.svd(whole.weight.detach(), full_matrices=False)
    with torch.no_grad():
        low.inner.weight.copy_(s[:, None] * v)
        low.outer.weight.copy_(u)
        low.outer.bias.copy_(whole.bias)
    torch.testing.assert_close(low(h), whole(h))
    assert sum(p.numel() for p in LowRankLinear(6, 4, rank=2, bias=False).parameters()) == 2 * (6 + 4)


def test_multiplicative_map_module_by_module():
    torch.manual_seed(0)
    layer, h = MultiplicativeLinear(6, 8, size=4).double(), rows(6)
    expected = torch.zeros(5, 8, dtype=torch.float64)
    for s in range(2):
        for m in range(4):
            expected[:, 4 * s + m] = sum(h[:, i] * layer.d[i, s] * layer.e[i, m] for i in range(6))
    torch.testing.assert_close(layer(h), expected + layer.bias)
    assert sum(p.numel() for p in layer.parameters()) == 6 * (2 + 4) + 8


def test_multiplicative_map_can_permute():
    """Output (s, m) takes the one input i with D_is = E_im = 1."""
    layer, order = MultiplicativeLinear(6, 6, size=3, bias=False).double(), torch.tensor([4, 0, 3, 5, 1, 2])
    with torch.no_grad():
        layer.d.zero_()[order, torch.arange(6) // 3] = 1
        layer.e.zero_()[order, torch.arange(6) % 3] = 1
    torch.testing.assert_close(layer(rows(6)), rows(6)[:, order])


@pytest.mark.parametrize("make", [lambda: LowRankLinear(256, 256, 16), lambda: MultiplicativeLinear(256, 256, 16)])
def test_outputs_start_as_large_as_those_of_a_whole_map(make):
    torch.manual_seed(0)
    h = torch.randn(1000, 256)
    ratio = make()(h).std() / torch.nn.Linear(256, 256)(h).std()
    assert 0.8 < ratio < 1.2


def test_bad_sizes_are_refused(untyped):
    with pytest.raises(ConfigError, match="rank"):
        LowRankLinear(4, 4, rank=0)
    with pytest.raises(ConfigError, match="multiple of size=3"):
        MultiplicativeLinear(4, 4, size=3)


def test_attention_takes_any_kind_of_map():
    attention = Attention(8, 2, True, lambda a, b, bias=True: LowRankLinear(a, b, 2, bias))
    assert [type(m).__name__ for m in attention.children()] == ["LowRankLinear"] * 3
    assert attention.to_q.outer.bias is not None
    assert Attention(8, 2, False, lambda a, b, bias=True: LowRankLinear(a, b, 2, bias)).to_q.outer.bias is None
