"""Kernel attention of any feature map against all pairs spelled out."""

import pytest
import torch
from torch.nn.functional import elu, normalize

from npexp.batch import count
from npexp.mixers.base import Site, Tokens, make_mixer
from npexp.ops.tree import nbytes
from tests.contracts.checks import CLOSE

SITE = Site(dx=2, dz=10, num_heads=2, layer=0)
UNITS = [("linear", {}), ("performer", {}), ("performer", {"temperature": 2.0}), ("rfa", {"width": 1.5})]


def tokens(n: int = 13, seed: int = 0, pad: float = 1e3) -> Tokens:
    g = torch.Generator().manual_seed(seed)
    h, x = (torch.randn(3, n, d, generator=g, dtype=torch.float64) for d in (10, 2))
    mask = torch.arange(n) < torch.tensor([[n], [n // 2], [1]])
    return Tokens(torch.where(mask[..., None], h, pad), x, mask, count(mask, h))


def mixer(name, settings):
    torch.manual_seed(0)
    unit = make_mixer(name, SITE, settings).double()
    with torch.no_grad():
        for p in unit.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return unit


def similarity(unit, name, head, q, k):
    """phi(q)'phi(k) for all pairs, `[nq, nk]`, by formulas that hold for pairs."""
    if name == "linear":
        return (elu(q) + 1) @ (elu(k) + 1).mT
    w = unit.w[head]
    if name == "rfa":  # sin a sin b + cos a cos b = cos(a - b)
        gap = normalize(q, dim=-1)[:, None] - normalize(k, dim=-1)
        return ((gap / unit.log_width[head].exp()) @ w.mT).cos().mean(-1)
    if unit.log_temperature is None:
        q, k = q / 5**0.25, k / 5**0.25
    else:
        q, k = (normalize(y, dim=-1) * unit.log_temperature[head].exp() ** 0.5 for y in (q, k))
    longest = unit.w.square().sum(-1).max() ** 0.5
    bound = (longest**2 + 120) ** 0.5 - longest
    q, k = (y / (1 + (y.norm(dim=-1, keepdim=True) / bound) ** 4) ** 0.25 for y in (q, k))
    half = (q.square().sum(-1)[:, None] + k.square().sum(-1)) / 2
    return ((q[:, None] + k) @ w.mT - half[..., None]).exp().mean(-1)


def naive(unit, name, q, ctx):
    """Weighted averages over all pairs of one task at a time."""
    rows = []
    for i, n in enumerate(ctx.n):
        h, heads = ctx.h[i, :n], []
        for head, part in enumerate(torch.arange(10).split(5)):
            k, v = h @ unit.to_kv.weight[part].mT, h @ unit.to_kv.weight[10 + part].mT
            weights = similarity(unit, name, head, q.h[i] @ unit.to_q.weight[part].mT, k)
            heads.append(weights @ v / weights.sum(-1, keepdim=True))
        rows.append(torch.cat(heads, -1) @ unit.to_out.weight.mT + unit.to_out.bias)
    return torch.stack(rows)


@pytest.mark.parametrize(("name", "settings"), UNITS)
def test_values_and_gradients_of_all_pairs(name, settings):
    unit, ctx, q = mixer(name, settings), tokens(), tokens(9, seed=1, pad=0.5)
    ctx.h.requires_grad_(), q.h.requires_grad_()
    found, expected = unit.read(q, unit.summarise(ctx)[0]), naive(unit, name, q, ctx)
    torch.testing.assert_close(found, expected, **CLOSE)
    leaves = [ctx.h, q.h, *unit.parameters()]
    weight = torch.randn(found.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for a, b in zip(*(torch.autograd.grad((o * weight).sum(), leaves) for o in (found, expected)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize(("name", "settings"), UNITS)
def test_points_seen_twice_change_nothing(name, settings):
    unit, ctx = mixer(name, settings), tokens()
    state = unit.summarise(ctx)[0]
    twice, _ = unit.extend(state, ctx)
    torch.testing.assert_close(unit.read(ctx, twice), unit.read(ctx, state), **CLOSE)


@pytest.mark.parametrize(("name", "settings"), UNITS)
def test_state_does_not_grow_and_an_empty_one_reads_zero(name, settings):
    unit, ctx = mixer(name, settings), tokens()
    empty = Tokens(ctx.h[:, :0], ctx.x[:, :0], None, torch.zeros_like(ctx.n))
    none = unit.summarise(empty)[0]
    assert nbytes(none) == nbytes(unit.summarise(ctx)[0])
    torch.testing.assert_close(unit.read(ctx, none), unit.to_out.bias.expand(3, 13, 10))


@pytest.mark.parametrize(("name", "settings"), UNITS)
def test_points_leave_a_float32_state_with_rounding_only(name, settings):
    unit, (ctx, gone) = mixer(name, settings).float(), (tokens(s, seed=3, pad=0.0) for s in (40, 13))
    ctx, gone = (t._replace(h=t.h.float()) for t in (ctx, gone))
    state = unit.summarise(ctx)[0]
    back, _ = unit.retract(unit.extend(state, gone)[0], gone)
    torch.testing.assert_close(unit.read(ctx, back), unit.read(ctx, state), rtol=1e-3, atol=1e-4)
