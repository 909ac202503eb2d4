"""Reformer against a twin that spells out who sees whom."""

import math

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
    return linear(h).unflatten(-1, (2, 8)).transpose(-3, -2)


def seen(mixer, ctx, q, task):
    """Which context points each row may read, before the exception for those that see themselves only: `[h, m, nc]`."""
    n, c = int(ctx.n[task]), mixer.chunk
    count = min(max(math.ceil(n / c), 1), mixer.num_buckets)
    first = math.ceil(math.sqrt(count))
    mask = torch.zeros(2, q.h.shape[1], ctx.h.shape[1], dtype=torch.bool)
    for head in range(2):
        for r in range(mixer.rounds):
            both = [
                torch.stack([s * d for d in mixer.directions[t, r, head].mT for s in (1, -1)][:size])
                for t, size in enumerate((first, math.ceil(count / first)))
            ]

            def buckets(h, both=both, head=head):
                return list(zip(*((heads(mixer.to_q, h)[head] @ t.mT).argmax(-1).tolist() for t in both), strict=True))

            where = buckets(ctx.h[task, :n])
            for i, wanted in enumerate(buckets(q.h[task])):
                members = [j for j, other in enumerate(where) if other == wanted]
                own = max(sum(j <= float(q.pos[task, i]) for j in members) - 1, 0) // c
                mask[head, i, members[max(own - 1, 0) * c : (own + 1) * c]] = True
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


@pytest.mark.parametrize("settings", [{"chunk": 3, "rounds": 3, "num_buckets": 3}, {"chunk": 7}, {"num_buckets": 1}])
@pytest.mark.parametrize("who", ["context", "targets"])
def test_reads_what_the_twin_reads(settings, who):
    """Values and gradients; buckets outgrow their two chunks where there are few of them."""
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
    """The settings above leave out points of the row's own bucket, and yet each point is seen by some row."""
    mixer, (ctx, _) = reformer(chunk=4, rounds=1, num_buckets=2), tokens("reformer", SIZES)
    found = seen(mixer, ctx, ctx, 0)
    assert found.sum(-1).max() <= 8 < 41 // 2 and found.any(1).all()


@pytest.mark.parametrize("num_buckets", [2**16, 3])
def test_nothing_vanishes_in_long_contexts(num_buckets):
    """Each of 4096 points, or what is next to it, sees what depends on it, though buckets overflow a tiny chunk."""
    mixer, (ctx, _) = reformer(chunk=4, rounds=1, num_buckets=num_buckets), tokens("reformer", (4096,))
    ctx = ctx._replace(h=ctx.h.detach().requires_grad_())
    state, _ = mixer.summarise(ctx)
    v = state.v.detach().requires_grad_()
    targets = ctx._replace(slot=None)  # where the points are
    read = mixer.read(targets, state._replace(v=v))
    assert torch.autograd.grad(read.sum(), v)[0].abs().amax(-1).min() > 0
    v = state.v.detach().requires_grad_()
    read = mixer.read(ctx, state._replace(v=v))
    assert (torch.autograd.grad(read.sum(), v)[0].abs().amax(-1) > 0).double().mean() > 0.9  # all but lone ones


def test_buckets_grow_with_the_context():
    """About as many as there are chunks, of which random points use a good part, in each task as if it were alone."""
    mixer, (ctx, _) = reformer(chunk=4, rounds=1), tokens("reformer", (4096, 640, 1))
    q = heads(mixer.to_q, ctx.h)
    bucket = mixer._bucket(q, ctx.n, 4096)
    for task, n, low, high in ((0, 4096, 256, 1024), (1, 640, 80, 160), (2, 1, 1, 1)):
        assert low <= len(bucket[task, 0, 0, :n].unique()) <= high
        alone = mixer._bucket(q[task : task + 1, :, :n], ctx.n[task : task + 1], n)
        assert torch.equal(alone[0], bucket[task, :, :, :n])


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
