"""Reformer against a twin that spells out who sees whom."""

import pytest
import torch

from npexp.errors import ConfigError
from npexp.mixers.base import Site, make_mixer
from tests.contracts.checks import CLOSE
from tests.contracts.units import tokens

SITE = Site(dx=1, dz=16, num_heads=2, layer=0)
SIZES = (41, 17, 1, 0)


def reformer(**settings):
    torch.manual_seed(0)
    return make_mixer("reformer", SITE, settings).double()


def heads(linear, h):
    return linear(h).unflatten(-1, (2, 8)).transpose(1, 2)


def seen(mixer, ctx, q, task):
    """Which context points each row may read, before the exception for those that see themselves only: `[h, m, nc]`."""
    n, c = int(ctx.n[task]), mixer.chunk
    buckets = min(max(-(-n // c), 1), mixer.num_buckets)
    mask = torch.zeros(2, q.h.shape[1], ctx.h.shape[1], dtype=torch.bool)
    for head in range(2):
        for r in range(mixer.rounds):
            signed = [s * d for d in mixer.directions[r, head].mT for s in (1, -1)][:buckets]

            def bucket(h, signed=signed, head=head):
                return int(torch.stack([heads(mixer.to_q, h[None, None])[0, head, 0] @ d for d in signed]).argmax())

            where = [bucket(h) for h in ctx.h[task, :n]]
            order = sorted(range(n), key=lambda j, where=where: (where[j], j))
            chunks = [order[i : i + c] for i in range(0, n, c)]
            for i, h in enumerate(q.h[task]):
                wanted = bucket(h)
                holding = [chunk for chunk in chunks if any(where[j] == wanted for j in chunk)]
                for j in [j for chunk in holding[:2] for j in chunk if where[j] == wanted]:
                    mask[head, i, j] = True
    return mask


def naive(mixer, ctx, q):
    """One softmax over the union of what all rounds show; a context point sees itself only where it is alone."""
    out = []
    for task in range(len(ctx.n)):
        mask = seen(mixer, ctx, q, task)
        if q.slot is not None:
            mask &= ~torch.eye(mask.shape[2], dtype=torch.bool)
            mask |= torch.eye(mask.shape[2], dtype=torch.bool) & ~mask.any(-1, keepdim=True)
        k = torch.nn.functional.normalize(heads(mixer.to_q, ctx.h)[task], dim=-1)
        logits = heads(mixer.to_q, q.h)[task] @ k.mT / 8**0.5
        some = mask.any(-1, keepdim=True)
        weights = logits.masked_fill(~mask & some, -torch.inf).softmax(-1) * some
        out.append(mixer.to_out((weights @ heads(mixer.to_v, ctx.h)[task]).transpose(0, 1).flatten(1)))
    return torch.stack(out)


@pytest.mark.parametrize("settings", [{"chunk": 4, "rounds": 3, "num_buckets": 5}, {"chunk": 7}, {"num_buckets": 1}])
@pytest.mark.parametrize("who", ["context", "targets"])
def test_reads_what_the_twin_reads(settings, who):
    """Values and gradients; the first setting lets buckets outgrow their two chunks."""
    mixer, (ctx, q) = reformer(**settings), tokens("reformer", SIZES)
    h = ctx.h.clone().requires_grad_()
    ctx = ctx._replace(h=h)
    q, real = (ctx, ctx.mask) if who == "context" else (q, torch.ones(q.h.shape[:2], dtype=torch.bool))
    found, expected = mixer.read(q, mixer.summarise(ctx)[0])[real], naive(mixer, ctx, q)[real]
    torch.testing.assert_close(found, expected, **CLOSE)
    w = torch.randn(found.shape, generator=torch.Generator().manual_seed(1)).double()
    grads = (torch.autograd.grad((out * w).sum(), (h, *mixer.parameters())) for out in (found, expected))
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, **CLOSE)


def test_the_twin_overflows():
    """The settings above leave out points of the row's own bucket."""
    mixer, (ctx, _) = reformer(chunk=4, rounds=1, num_buckets=2), tokens("reformer", SIZES)
    assert seen(mixer, ctx, ctx, 0).sum(-1).max() <= 8


def test_one_bucket_is_attention_with_shared_queries_and_keys_without_oneself():
    mixer, (ctx, _) = reformer(chunk=64), tokens("reformer", (41, 41))
    q, v = heads(mixer.to_q, ctx.h), heads(mixer.to_v, ctx.h)
    k, others = torch.nn.functional.normalize(q, dim=-1), ~torch.eye(41, dtype=torch.bool)
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, others)
    found = mixer.read(ctx, mixer.summarise(ctx)[0])
    torch.testing.assert_close(found, mixer.to_out(expected.transpose(1, 2).flatten(2)), **CLOSE)


def test_a_target_like_a_point_reads_the_point_and_what_it_reads():
    mixer, (ctx, _) = reformer(chunk=16, rounds=2), tokens("reformer", (41, 41))
    state, _ = mixer.summarise(ctx)
    target = ctx._replace(slot=None)
    alike, own = seen(mixer, ctx, target, 0), torch.eye(41, dtype=torch.bool)
    torch.testing.assert_close(mixer.read(target, state), naive(mixer, ctx, target), **CLOSE)
    assert torch.equal(seen(mixer, ctx, ctx, 0), alike)
    assert (alike & own).any(-1).all()  # no bucket overflows here
    assert (mixer.read(target, state) - mixer.read(ctx, state)).abs().amax(-1).min() > 1e-6


def test_a_lone_point_reads_itself():
    mixer, (ctx, _) = reformer(), tokens("reformer", (1,))
    expected = mixer.to_out(mixer.to_v(ctx.h))
    torch.testing.assert_close(mixer.read(ctx, mixer.summarise(ctx)[0]), expected, **CLOSE)


@pytest.mark.parametrize("setting", ["chunk", "rounds", "num_buckets"])
def test_impossible_sizes_are_refused(setting, untyped):
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        reformer(**{setting: 0})
