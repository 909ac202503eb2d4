import pytest
import torch

from npexp.ops.attention import attend_naive, attend_part
from npexp.ops.blocks import GATHERED, _chunks, attend_blocks, cover


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_cover_lists_every_block_that_an_interval_touches_once():
    g = torch.Generator().manual_seed(0)
    low = torch.randint(-5, 30, (3, 4, 3), generator=g)
    high = low + torch.randint(-2, 12, low.shape, generator=g)
    table = cover(low, high, 4, 30)
    for b in range(3):
        for i in range(4):
            slots = {s for lo, hi in zip(low[b, i], high[b, i], strict=True) for s in range(lo, hi + 1) if 0 <= s < 30}
            listed = [v for v in table[b, i].tolist() if v >= 0]
            assert len(listed) == len(set(listed)) and set(listed) == {s // 4 for s in slots}


def test_no_interval_gives_an_empty_table():
    low = torch.zeros(2, 3, 1, dtype=torch.int64)
    assert cover(low, low - 1, 8, 20).shape == (2, 3, 0)
    assert cover(low[:, :0], low[:, :0], 8, 20).shape == (2, 0, 0)


@pytest.mark.parametrize("gathered", [1, 2**23])
def test_equals_attention_under_a_mask_with_gradients(gathered, monkeypatch):
    """Groups of rows, blocks in any order, a last block cut short, and a group that reads nothing."""
    monkeypatch.setattr("npexp.ops.blocks.GATHERED", gathered)  # one group at a time, or all at once
    q, k, v = randn(2, 3, 4, 2, 5), randn(2, 3, 11, 5, seed=1), randn(2, 3, 11, 5, seed=2)
    table = torch.tensor([[[0, 2], [1, -1], [-1, -1], [2, 1]], [[2, 0], [0, 1], [1, 2], [-1, 0]]])
    rule = torch.rand(2, 4, 2, 11, generator=torch.Generator().manual_seed(3)) < 0.7

    def allowed(slots, some):
        return rule.flatten(0, 1)[some].gather(2, slots[:, None].expand(-1, 2, -1))

    mask = torch.zeros(2, 4, 11, dtype=torch.bool)
    for b in range(2):
        for i in range(4):
            for block in table[b, i][table[b, i] >= 0]:
                mask[b, i, 4 * block : 4 * block + 4] = True
    mask = (mask[:, :, None] & rule).flatten(1, 2)
    leaves = [t.requires_grad_() for t in (q, k, v)]
    out = attend_blocks(q, k, v, table, allowed, 4)
    wide = torch.cat([torch.zeros_like(v), v], -1)
    wider = attend_blocks(q, k, wide, table, allowed, 4, lambda q, k, v, mask: attend_naive(q, k, v[..., 5:], mask))
    part = attend_blocks(q, k, v, table, allowed, 4, attend_part)
    expected = attend_naive(q.flatten(2, 3), k, v, mask).unflatten(2, (4, 2))
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(part.out, expected)
    torch.testing.assert_close(wider, expected)
    logits = torch.einsum("bhqd,bhkd->bhqk", q.flatten(2, 3), k) / 5**0.5
    lse = logits.masked_fill(~mask[:, None], -torch.inf).logsumexp(-1).unflatten(2, (4, 2))
    torch.testing.assert_close(part.lse, lse)
    weight = randn(*out.shape, seed=4)
    ours, theirs = (torch.autograd.grad((o * weight).sum(), leaves, retain_graph=True) for o in (out, expected))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_nothing_to_read_is_zero_with_a_graph():
    q, k = randn(1, 2, 3, 1, 4).requires_grad_(), randn(1, 2, 0, 4)
    table = torch.full((1, 3, 0), -1)
    out = attend_blocks(q, k, k, table, lambda slots, some: torch.ones(3, 1, 0, dtype=torch.bool), 4)
    assert out.shape == (1, 2, 3, 1, 4) and not out.any()
    out.sum().backward()


def test_a_long_list_is_no_burden_to_short_ones():
    """What is gathered for each group is less than twice what it reads, and every group is read once."""
    g = torch.Generator().manual_seed(0)
    lengths = torch.cat([torch.tensor([700]), torch.randint(0, 9, (200,), generator=g)])[
        torch.randperm(201, generator=g)
    ]
    table = torch.where(torch.arange(700) < lengths[:, None], torch.arange(700), -1)
    chunks = _chunks(table, weight=64)
    assert torch.cat([some for some, _ in chunks]).sort()[0].tolist() == list(range(201))
    assert len(chunks) < 8
    for some, longest in chunks:
        assert longest == lengths[some].max() and (2 * lengths[some] >= longest).all()
    assert max(len(some) for some, _ in _chunks(table, weight=GATHERED)) == (lengths == 0).sum()
