"""The Compressive Transformer against one softmax over all that a row may see."""

import pytest
import torch

from npexp.errors import ConfigError
from npexp.layers.penalty import collect_penalties
from npexp.mixers.base import make_mixer
from npexp.objectives import loglik
from npexp.ops.attention import attend_naive
from npexp.ops.rank_pool import convolve_ranks_naive
from tests.contracts.checks import tasks, tiny
from tests.contracts.units import SITE, close, rows, tokens, units

SIZES = (29, 11, 1, 0)
SMALL = {"segment": 4, "rate": 2, "memory": 3}


def segments(mixer, ctx, q):
    """First ranks of the rows' segments, `[b, m, 1]`, and how far the keys, raw and compressed, are ahead of them."""
    rank = torch.minimum(q.pos.floor().clamp_min(0), (ctx.n - 1).clamp_min(0)[:, None])[..., None]
    ahead = torch.arange(ctx.h.shape[1]) - rank // mixer.segment * mixer.segment
    return ahead, ahead[..., :: mixer.rate]


def compressed(mixer, kv, mask):
    return (convolve_ranks_naive(t.detach(), w, mask) for t, w in zip(kv[:2], mixer.compress.weight, strict=True))


def naive(mixer, ctx, q, forward):
    """Own segment, neighbour without gradients, and what was compressed, side by side."""
    s, kv = mixer.segment, mixer.attention.project(ctx.h)
    ahead, few = segments(mixer, ctx, q)
    length = mixer.rate * mixer.memory
    own = (ahead >= 0) & (ahead < s)
    if forward:
        past, memory = (ahead < 0) & (ahead >= -s), (few < -s) & (few >= -s - length)
    else:
        past, memory = (ahead >= s) & (ahead < 2 * s), (few >= 2 * s) & (few < 2 * s + length)
    there, few_there = ctx.mask[:, None], ctx.mask[:, None, :: mixer.rate]
    mask = torch.cat([own & there, past & there, memory & few_there], -1)
    k, v = (torch.cat([t, t.detach(), c], 2) for t, c in zip(kv[:2], compressed(mixer, kv, ctx.mask), strict=True))
    return mixer.attention.merge(attend_naive(mixer.attention.query(q.h), k, v, mask))


@pytest.mark.parametrize(("layer", "always"), [(0, False), (1, False), (1, True)])
def test_three_parts_and_one_softmax(layer, always):
    mixer = units("compressive", settings={**SMALL, "forward": always})[layer]
    ctx, targets = tokens("compressive", SIZES)
    ctx = ctx._replace(h=ctx.h.clone().requires_grad_())
    for q in (targets, ctx):
        found = mixer.read(q, mixer.summarise(ctx)[0])
        expected = naive(mixer, ctx, q, layer == 0 or always)
        some = slice(None) if q.mask is None else q.mask
        close(found[some], expected[some])
        g = torch.randn(found.shape, dtype=found.dtype)
        of = [ctx.h, *mixer.parameters()]
        grads = [torch.autograd.grad((out * g)[some].sum(), of) for out in (found, expected)]
        for a, b in zip(*grads, strict=True):
            close(a, b)


def test_at_rate_one_it_is_transformer_xl_with_a_longer_memory():
    """Compressions start as means, here of one rank."""
    torch.manual_seed(0)
    mixer = make_mixer("compressive", SITE, {"segment": 4, "rate": 1, "memory": 8}).double()
    ctx, q = tokens("compressive", SIZES)
    ahead, _ = segments(mixer, ctx, q)
    mask = (ahead < 4) & (ahead >= -12) & ctx.mask[:, None]
    kv = mixer.attention.project(ctx.h)
    expected = mixer.attention.merge(attend_naive(mixer.attention.query(q.h), kv.k, kv.v, mask))
    close(mixer.read(q, mixer.summarise(ctx)[0]), expected)


def test_segment_by_segment_is_all_at_once():
    """Forward in time, a prefix of whole segments knows all that its points will ever read."""
    mixers = units("compressive", settings={**SMALL, "forward": True})
    ctx, _ = tokens("compressive", (29,))
    whole = []
    h = ctx.h
    for mixer in mixers:
        h = h + mixer.read(ctx._replace(h=h), mixer.summarise(ctx._replace(h=h))[0])
        whole.append(h)
    for n in (4, 12, 28):
        part = rows(ctx, slice(n), n=torch.tensor([n]))
        for mixer, expected in zip(mixers, whole, strict=True):
            part = part._replace(h=part.h + mixer.read(part, mixer.summarise(part)[0]))
            close(part.h, expected[:, :n])


def penalty(mixer, ctx):
    with collect_penalties() as terms:
        mixer.train().summarise(ctx)
    (term,) = terms
    return term


@pytest.mark.parametrize("layer", [0, 1])
def test_the_penalty_is_what_compression_loses(layer):
    mixer = units("compressive", settings={**SMALL, "reconstruction": 0.5})[layer]
    ctx, _ = tokens("compressive", SIZES)
    kv, q = mixer.attention.project(ctx.h), mixer.attention.query(ctx.h)
    raw, few = ((a < 0) & (a >= -4) if layer == 0 else (a >= 4) & (a < 8) for a in segments(mixer, ctx, ctx))
    full = attend_naive(q, kv.k, kv.v, raw & ctx.mask[:, None])
    lossy = attend_naive(q, *compressed(mixer, kv, ctx.mask), few & ctx.mask[:, None, ::2])
    gap = (full - lossy).square().sum((1, 3))[ctx.mask].sum()
    found, expected = penalty(mixer, ctx), 0.5 * gap / (sum(SIZES) * SITE.dz)
    close(found, expected)
    weight = mixer.compress.weight
    close(*(torch.autograd.grad(loss, weight, retain_graph=True)[0] for loss in (found, expected)))


def test_the_penalty_moves_the_compression_alone():
    (mixer,) = units("compressive", layers=1, settings=SMALL)
    ctx, _ = tokens("compressive", SIZES)
    h = ctx.h.clone().requires_grad_()
    grads = torch.autograd.grad(penalty(mixer, ctx._replace(h=h)), [h, *mixer.parameters()], allow_unused=True)
    touched = [name for (name, _), g in zip(mixer.named_parameters(), grads[1:], strict=True) if g is not None]
    assert grads[0] is None and touched == ["compress.weight"]
    with collect_penalties() as terms:
        mixer.eval().summarise(ctx)
    assert not terms


def test_the_penalty_costs_nothing_where_nobody_wants_it(monkeypatch):
    """Where there are gradients, a layer may have to be computed again, with the same graph."""
    (mixer,) = units("compressive", layers=1, settings=SMALL)
    ctx, _ = tokens("compressive", SIZES)
    calls = []
    monkeypatch.setattr(mixer, "_lost", lambda *args: calls.append(args) or torch.zeros(()))
    with torch.no_grad():
        mixer.train().summarise(ctx)
        assert not calls
        with collect_penalties() as terms:
            mixer.summarise(ctx)
    assert len(calls) == len(terms) == 1


def test_nothing_is_lost_at_rate_one_or_of_nothing():
    ctx, _ = tokens("compressive", SIZES)
    assert penalty(make_mixer("compressive", SITE, {"rate": 1}).double(), ctx) == 0
    nothing = rows(ctx, slice(0), n=0 * ctx.n)
    assert penalty(make_mixer("compressive", SITE).double(), nothing) == 0


def test_the_penalty_survives_checkpointing():
    grads = []
    for checkpoint in (False, True):
        model = tiny("tnp", mixer="compressive", mixer_args=SMALL, checkpoint=checkpoint).train()
        loss = loglik(model, tasks(nc=20), 1)
        assert loss.parts["penalty"] > 0
        loss.total.backward()
        grads.append([p.grad for p in model.parameters()])
    for a, b in zip(*grads, strict=True):
        close(a, b)


def test_impossible_settings_are_refused():
    for setting in ("segment", "rate", "memory"):
        with pytest.raises(ConfigError, match="at least 1, got 0"):
            make_mixer("compressive", SITE, {setting: 0})
    with pytest.raises(ConfigError, match="segment to be a multiple of rate=3, got 32"):
        make_mixer("compressive", SITE, {"rate": 3})
