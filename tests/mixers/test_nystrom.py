"""Nystrom attention: dense where every point is a landmark, its own formula elsewhere."""

import pytest
import torch

from npexp.batch import count
from npexp.errors import ConfigError
from npexp.mixers.base import Site, Tokens, make_mixer
from npexp.ops.tree import nbytes
from tests.contracts.checks import CLOSE

SITE = Site(dx=2, dz=16, num_heads=2, layer=0)


def tokens(sizes=(23, 11, 2, 0), n: int = 23, seed: int = 0) -> Tokens:
    g = torch.Generator().manual_seed(seed)
    h, x = (torch.randn(len(sizes), n, d, generator=g, dtype=torch.float64) for d in (16, 2))
    mask = torch.arange(n) < torch.tensor(sizes)[:, None]
    return Tokens(torch.where(mask[..., None], h, 1e3), x, mask, count(mask, h))


def mixer(scale: float = 3.0, **settings):
    """Weights large enough for attention to be sharp, and A to be far from singular."""
    torch.manual_seed(0)
    unit = make_mixer("nystromformer", SITE, settings).double()
    with torch.no_grad():
        unit.attention.to_q.weight.mul_(scale)
        unit.attention.to_kv.weight.mul_(scale)
    return unit


def newton_schulz(a, steps):
    z = a.mT / (a.abs().sum(-2).max() * a.abs().sum(-1).max())
    one = torch.eye(len(a), dtype=a.dtype)
    for _ in range(steps):
        z = z @ (13 * one - a @ z @ (15 * one - a @ z @ (7 * one - a @ z))) / 4
    return z


def naive(unit, q, ctx):
    """Task by task, head by head, landmark by landmark."""
    a, rows = unit.attention, []
    for i, n in enumerate(ctx.n.tolist()):
        m, h, heads = min(unit.num_landmarks, n), ctx.h[i, :n], []
        marks = [h[[j for j in range(n) if s * n <= j * m < (s + 1) * n]].mean(0) for s in range(m)]
        marks = torch.stack(marks) if marks else h
        for part in torch.arange(16).split(8):
            wq, wk, wv = a.to_q.weight[part], a.to_kv.weight[part], a.to_kv.weight[16 + part]
            soft = lambda x, y, wq=wq, wk=wk: ((x @ wq.mT) @ (y @ wk.mT).mT / 8**0.5).softmax(-1)  # noqa: E731
            core = soft(marks, marks)
            if n == 0:
                heads.append(torch.zeros(len(q.h[i]), 8, dtype=torch.float64))
                continue
            steps = unit.num_iterations
            inverse = torch.linalg.inv(core) if steps is None else newton_schulz(core, steps)
            heads.append(soft(q.h[i], marks) @ inverse @ soft(marks, h) @ (h @ wv.mT))
        rows.append(torch.cat(heads, -1) @ a.to_out.weight.mT + a.to_out.bias)
    return torch.stack(rows)


@pytest.mark.parametrize("num_iterations", [None, 6])
def test_values_and_gradients_of_the_formula(num_iterations):
    """More points than landmarks, a number they do not divide, fewer, and none."""
    unit, ctx, q = mixer(num_landmarks=5, num_iterations=num_iterations), tokens(), tokens((9,) * 4, 9, seed=1)
    ctx.h.requires_grad_(), q.h.requires_grad_()
    found, expected = unit.read(q, unit.summarise(ctx)[0]), naive(unit, q, ctx)
    torch.testing.assert_close(found, expected, **CLOSE)
    leaves = [ctx.h, q.h, *unit.parameters()]
    for a, b in zip(*(torch.autograd.grad(o.square().sum(), leaves) for o in (found, expected)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


def test_with_every_point_a_landmark_it_is_dense():
    ctx, q = tokens(), tokens((9,) * 4, 9, seed=1)
    gap = {}
    for steps in (None, 6, 20):
        unit, dense = mixer(num_landmarks=30, num_iterations=steps), make_mixer("dense", SITE).double()
        dense.attention.load_state_dict(unit.attention.state_dict())
        exact = dense.read(q, dense.summarise(ctx)[0])
        gap[steps] = float(((unit.read(q, unit.summarise(ctx)[0]) - exact).norm() / exact.norm()).detach())
    assert gap[None] < 1e-10 and gap[20] < 1e-4 and gap[6] > 1e-3, gap


def test_tasks_do_not_share_the_start_of_the_iteration():
    unit, ctx = mixer(num_landmarks=5), tokens((23, 23))
    other = ctx._replace(h=ctx.h * torch.tensor([1.0, 10.0])[:, None, None])
    torch.testing.assert_close(unit.summarise(ctx)[0].v[0], unit.summarise(other)[0].v[0], rtol=0, atol=0)


def test_landmarks_are_runs_of_the_order_given():
    """With fewer landmarks than points the order matters: within a run it does not, across runs it does."""
    unit, ctx = mixer(num_landmarks=3), tokens((9,), 9)
    before = unit.read(ctx, unit.summarise(ctx)[0])
    for order, equal in [([1, 2, 0, 5, 4, 3, 8, 6, 7], True), ([3, 1, 2, 0, 4, 5, 6, 7, 8], False)]:
        after = unit.read(ctx, unit.summarise(ctx._replace(h=ctx.h[:, order]))[0])
        assert torch.allclose(after, before, rtol=1e-9, atol=1e-10) is equal


@pytest.mark.parametrize("num_iterations", [None, 6])
def test_points_in_one_place_and_gradients(num_iterations):
    """A is singular then, and its pseudo-inverse is what counts."""
    unit, ctx = mixer(num_landmarks=5, num_iterations=num_iterations), tokens()
    h = ctx.h[:, :1].expand_as(ctx.h).clone().requires_grad_()
    read = unit.read(ctx, unit.summarise(ctx._replace(h=h))[0])
    read.sum().backward()
    assert read.isfinite().all() and h.grad.isfinite().all()
    if num_iterations is None:  # every point holds the same, and so does any average
        a = unit.attention
        torch.testing.assert_close(read[0, 0], a.to_out(h[0, 0] @ a.to_kv.weight[16:].mT), rtol=1e-6, atol=1e-8)


def test_state_does_not_grow():
    unit = mixer()
    sizes = {nbytes(unit.summarise(tokens((n,), n))[0]._replace(mask=None)) for n in (3, 40, 200)}
    assert len(sizes) == 1


@pytest.mark.parametrize("settings", [{"num_landmarks": 0}, {"num_iterations": 0}])
def test_impossible_settings_are_refused(settings, untyped):
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        mixer(**settings)
