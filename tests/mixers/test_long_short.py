"""Long-Short attention against one softmax over windows and projected keys, side by side."""

import pytest
import torch

from npexp.errors import ConfigError
from npexp.mixers import long_short
from npexp.mixers.base import make_mixer
from npexp.ops.attention import attend_naive, attend_part
from tests.contracts.units import SITE, close, tokens, units

SIZES = (13, 8, 1, 0)


def naive(mixer, ctx, q):
    kv = mixer.attention.project(ctx.h)
    weight = []  # of tokens in averages, one task at a time
    for k, n in zip(kv.k, ctx.n.tolist(), strict=True):
        logits = mixer.projection @ k[:, :n].mT / k.shape[-1] ** 0.5
        weight.append(torch.nn.functional.pad(logits.softmax(-1), (0, k.shape[1] - n)))
    pairs = [(mixer.norm_short(t), mixer.norm_long(torch.stack(weight) @ t)) for t in kv[:2]]
    near = ((torch.arange(ctx.h.shape[1]) - q.pos[..., None]).abs() <= mixer.window) & ctx.mask[:, None]
    far = (ctx.n > 0)[:, None, None].expand(-1, q.h.shape[1], mixer.projection.shape[1])
    read = attend_naive(mixer.attention.query(q.h), *(torch.cat(p, 2) for p in pairs), torch.cat([near, far], -1))
    return mixer.attention.merge(read)


def test_windows_and_averages_share_a_softmax():
    (mixer,) = units("long_short", layers=1, settings={"window": 2, "num_projected": 3})
    ctx, targets = tokens("long_short", SIZES)
    ctx = ctx._replace(h=ctx.h.clone().requires_grad_())
    for q in (targets, ctx):
        found, expected = mixer.read(q, mixer.summarise(ctx)[0]), naive(mixer, ctx, q)
        some = slice(None) if q.mask is None else q.mask
        close(found[some], expected[some])
        g = torch.randn(found.shape, dtype=found.dtype)
        of = [ctx.h, *mixer.parameters()]
        grads = [torch.autograd.grad((out * g)[some].sum(), of) for out in (found, expected)]
        for a, b in zip(*grads, strict=True):
            close(a, b)
        if q is ctx:
            assert grads[0][0][ctx.mask].any(-1).all()


def test_every_point_is_seen_from_afar():
    (mixer,) = units("long_short", layers=1, settings={"window": 1, "num_projected": 1})
    ctx, _ = tokens("long_short", (40,))
    h = ctx.h.clone().requires_grad_()
    out = mixer.read(ctx, mixer.summarise(ctx._replace(h=h))[0])
    assert torch.autograd.grad(out[0, 0].square().sum(), h)[0].any(-1).all()


def test_averages_know_no_order():
    (mixer,) = units("long_short", layers=1)
    ctx, _ = tokens("long_short", (13,))
    a, b = (mixer.summarise(t)[0].long for t in (ctx, ctx._replace(h=ctx.h.flip(1))))
    close(a.k, b.k), close(a.v, b.v)


def test_averages_of_keys_and_values_have_one_softmax(monkeypatch):
    (mixer,) = units("long_short", layers=1)
    ctx, _ = tokens("long_short", SIZES)
    calls = []
    monkeypatch.setattr(long_short, "attend_part", lambda *args: calls.append(args) or attend_part(*args))
    mixer.summarise(ctx)
    assert len(calls) == 1


def test_an_empty_context_says_nothing():
    (mixer,) = units("long_short", layers=1)
    ctx, q = tokens("long_short", (0, 0))
    close(mixer.read(q, mixer.summarise(ctx)[0]), mixer.attention.to_out.bias.expand_as(q.h))


@pytest.mark.parametrize("setting", ["window", "num_projected"])
def test_impossible_sizes_are_refused(setting):
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        make_mixer("long_short", SITE, {setting: 0})
