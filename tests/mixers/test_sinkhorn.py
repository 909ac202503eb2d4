"""Sinkhorn attention against a spelled-out twin, and its balancing."""

import math

import pytest
import torch

from npexp.errors import ConfigError
from npexp.mixers.base import Site, Tokens, make_mixer
from npexp.mixers.sinkhorn import balance
from tests.contracts.checks import CLOSE
from tests.contracts.units import tokens

SITE = Site(dx=1, dz=16, num_heads=2, layer=0)
SIZES = (23, 10, 1, 0)


def sinkhorn(**settings):
    torch.manual_seed(0)
    return make_mixer("sinkhorn", SITE, settings).double()


def heads(h):
    return h.unflatten(-1, (2, 8)).transpose(-3, -2)


def balanced(logits, iterations):
    """Columns and rows of exp(logits) divided by their sums in turn."""
    p = logits.exp()
    for _ in range(iterations):
        p = p / p.sum(-2, keepdim=True)
        p = p / p.sum(-1, keepdim=True)
    return p


def naive(mixer, ctx, q):
    out, a = torch.zeros_like(q.h), mixer.attention
    for task, n in enumerate(ctx.n.tolist()):
        if not n:
            continue
        size = mixer.block or math.ceil(math.sqrt(n))
        h = ctx.h[task, :n]
        blocks = list(h.split(size))
        mean = torch.stack([b.mean(0) for b in blocks])
        logits = heads(mixer.to_rows(mean)) @ heads(mixer.to_columns(mean)).mT / 8**0.5 / mixer.temperature
        r = balanced(logits, mixer.iterations)
        k, v = (heads(h @ w.mT) for w in a.to_kv.weight.chunk(2))
        for i, row in enumerate(q.h[task]):
            rank = min(max(math.floor(float(q.pos[task, i])), 0), n - 1)
            own, read = rank // size, []
            for head in range(2):
                keys, values = list(k[head].split(size)[own]), list(v[head].split(size)[own])
                share = [torch.ones(()).double()] * len(keys)
                for s in range(min(size, n)):  # the average of what lies at place s of each block that has one
                    some = [j for j, b in enumerate(blocks) if s < len(b)]
                    share.append(r[head, own, some].sum())
                    keys.append(sum(r[head, own, j] * k[head, j * size + s] for j in some) / share[-1])
                    values.append(sum(r[head, own, j] * v[head, j * size + s] for j in some) / share[-1])
                query = heads(a.to_q(row)[None])[head, 0]
                mass = torch.stack(share) * (torch.stack(keys) @ query / 8**0.5).exp()
                read.append(mass / mass.sum() @ torch.stack(values))
            out[task, i] = torch.cat(read)
    return a.to_out(out)


@pytest.mark.parametrize("settings", [{}, {"block": 5, "iterations": 2, "temperature": 0.3}, {"block": 100}])
@pytest.mark.parametrize("who", ["context", "targets"])
def test_reads_what_the_twin_reads(settings, who):
    """Values and gradients, of as many blocks as each task has."""
    mixer, (ctx, q) = sinkhorn(**settings), tokens("sinkhorn", SIZES)
    h = ctx.h.clone().requires_grad_()
    ctx = ctx._replace(h=h)
    q, real = (ctx, ctx.mask) if who == "context" else (q, torch.ones(q.h.shape[:2], dtype=torch.bool))
    found, expected = mixer.read(q, mixer.summarise(ctx)[0])[real], naive(mixer, ctx, q)[real]
    torch.testing.assert_close(found, expected, **CLOSE)
    w = torch.randn(found.shape, generator=torch.Generator().manual_seed(1)).double()
    grads = (torch.autograd.grad((out * w).sum(), (h, *mixer.parameters())) for out in (found, expected))
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, **CLOSE)


def test_balanced_rows_and_columns_sum_to_one_where_there_are_blocks():
    logits = torch.randn(3, 9, 9, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
    there = torch.arange(9) < torch.tensor([[9], [4], [0]])
    r = balance(logits, there[:, :, None] & there[:, None], 30)
    for dim in (-2, -1):
        torch.testing.assert_close(r.sum(dim), there.double(), rtol=0, atol=1e-6)
    for task, n in enumerate((9, 4, 0)):
        torch.testing.assert_close(r[task, :n, :n], balanced(logits[task, :n, :n], 30), **CLOSE)
    r.square().sum().backward()
    assert logits.grad.isfinite().all() and not logits.grad[2].any() and not logits.grad[1, 4:].any()
    valid = torch.ones(3, 9, 9, dtype=torch.bool)
    assert balance(1e4 * logits.detach().float(), valid, 8).isfinite().all()


def test_blocks_sent_to_themselves_are_local(monkeypatch):
    mixer, local, (ctx, q) = (
        sinkhorn(block=6),
        make_mixer("local_block", SITE, {"block": 6}).double(),
        tokens("local", SIZES),
    )
    local.attention.load_state_dict(mixer.attention.state_dict())
    eye = lambda mean, there: torch.eye(mean.shape[1]).double().expand(len(mean), 2, -1, -1)  # noqa: E731
    monkeypatch.setattr(mixer, "_sort", eye)
    for rows, real in ((ctx, ctx.mask), (q, slice(None))):
        found, expected = (m.read(rows, m.summarise(ctx)[0])[real] for m in (mixer, local))
        torch.testing.assert_close(found, expected, **CLOSE)


@pytest.mark.parametrize("leak", [0.0, 1e-9, 1e-7, 1e-5])
def test_places_that_hardly_exist_take_no_mass(leak, monkeypatch):
    """The first block is sent the last, which is short; a trace of the others must not fill up its places."""
    mixer, (ctx, _) = sinkhorn(block=6), tokens("sinkhorn", (20,))
    mixer, ctx = mixer.float(), ctx._replace(h=ctx.h.float())
    r = torch.full((4, 4), leak)
    r[0, 3] = 1 - 3 * leak
    monkeypatch.setattr(mixer, "_sort", lambda mean, there: r.expand(1, 2, 4, 4))
    row = Tokens(*(None if t is None else t[:, :1] if t.ndim > 1 else t for t in ctx))
    kv, q = mixer.attention.project(ctx.h), mixer.attention.query(row.h)
    k, v = (torch.cat([t[:, :, :6], t[:, :, 18:]], 2) for t in kv[:2])
    expected = mixer.attention.merge((q @ k.mT / 8**0.5).softmax(-1) @ v)
    torch.testing.assert_close(mixer.read(row, mixer.summarise(ctx)[0]), expected, rtol=0, atol=1e-6 + 50 * leak)


def test_columns_need_more_rounds_the_sharper_the_logits():
    logits, every = torch.randn(9, 9, generator=torch.Generator().manual_seed(0)).double(), torch.ones(9, 9).bool()
    off = [[(balance(sharp * logits, every, i).sum(0) - 1).abs().max() for i in (2, 8, 32)] for sharp in (1, 10)]
    assert off[0][0] > off[0][1] > off[0][2] and off[0][1] < 1e-3 < 1e-2 < off[1][1]
    rows = balance(10 * logits, every, 1).sum(1)
    torch.testing.assert_close(rows, torch.ones(9).double(), **CLOSE)


def test_impossible_settings_are_refused(untyped):
    for setting in ("block", "iterations"):
        for size in (0, -1):
            with pytest.raises(ConfigError, match=f"expected {setting} to be an integer, at least 1, got {size}"):
                sinkhorn(**{setting: size})
    with pytest.raises(ConfigError, match="temperature to be positive"):
        sinkhorn(temperature=0.0)
