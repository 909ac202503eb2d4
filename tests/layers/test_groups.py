"""Rows grouped by label, and what they read."""

import torch

from npexp.layers.groups import Lists, group_rows, read_lists, sum_members
from tests.contracts.checks import CLOSE

LABEL = torch.tensor([[2, 0, 2, 2, 0, 2, 4], [4, 4, 4, 4, 4, 4, 4]])


def test_groups_hold_rows_of_one_label_each():
    groups = group_rows(LABEL, 5, size=3)
    assert groups.label.tolist() == [[0, 2, 2, 4], [4, 4, 4, 4]]
    rows = torch.arange(14).view(2, 7) + 1
    placed = groups.fill(rows)
    assert placed[0].tolist() == [[2, 5, 0], [1, 3, 4], [6, 0, 0], [7, 0, 0]]
    assert placed[1].tolist() == [[8, 9, 10], [11, 12, 13], [14, 0, 0], [0, 0, 0]]
    assert torch.equal(groups.take(placed), rows)
    wide = torch.randn(2, 7, 3, 2)
    assert torch.equal(groups.take(groups.fill(wide)), wide)


def test_no_rows_make_one_empty_group():
    groups = group_rows(LABEL[:, :0], 5, size=3)
    assert groups.fill(torch.ones(2, 0, 4)).shape == (2, 1, 3, 4)
    assert groups.take(torch.zeros(2, 1, 3, 4)).shape == (2, 0, 4)


def test_rows_read_their_list():
    g = torch.Generator().manual_seed(0)
    shapes = (2, 3, 70, 4), (2, 3, 5, 6, 4), (2, 3, 5, 6, 4)
    q, k, v = (torch.randn(s, generator=g, dtype=torch.float64, requires_grad=True) for s in shapes)
    label, real = torch.randint(5, (2, 3, 70), generator=g), torch.rand(2, 3, 5, 6, generator=g) < 0.6
    real[0, 1, 2] = False
    found = read_lists(q, label, Lists(k, v, real))
    expected = torch.zeros_like(found)
    for b in range(2):
        for h in range(3):
            for i in range(70):
                c = label[b, h, i]
                own = real[b, h, c]
                if own.any():
                    expected[b, h, i] = (k[b, h, c][own] @ q[b, h, i] / 2).softmax(0) @ v[b, h, c][own]
    torch.testing.assert_close(found, expected, **CLOSE)
    w = torch.randn(found.shape, generator=g, dtype=torch.float64)
    grads = (torch.autograd.grad((out * w).sum(), (q, k, v)) for out in (found, expected))
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, **CLOSE)


def test_members_are_summed_without_pads():
    h, mask = torch.randn(2, 1, 7, 3), torch.arange(7) < torch.tensor([[7], [3]])
    total, count = sum_members(h, LABEL[:, None], 5, mask)
    assert count[..., 0].tolist() == [[[2, 0, 4, 0, 1]], [[0, 0, 0, 0, 3]]]
    torch.testing.assert_close(total[0, 0, 2], h[0, 0, [0, 2, 3, 5]].sum(0))
    torch.testing.assert_close(total[1, 0, 4], h[1, 0, :3].sum(0))
