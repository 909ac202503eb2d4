"""Adaptively sparse attention and adaptive spans against spelled-out twins, and their limits."""

import pytest
import torch

from npexp.batch import count
from npexp.errors import ConfigError
from npexp.layers.penalty import collect_penalties
from npexp.mixers.base import Site, Tokens, make_mixer
from npexp.ops.entmax import entmax_naive
from tests.contracts import checks
from tests.contracts.checks import CLOSE, tasks, tiny_mixer

SITE = Site(dx=2, dz=16, num_heads=2, layer=0)


def tokens(n: int = 7, seed: int = 0) -> Tokens:
    g = torch.Generator().manual_seed(seed)
    h, x = (torch.randn(3, n, d, generator=g, dtype=torch.float64) for d in (16, 2))
    mask = torch.rand(3, n, generator=g) < 0.7
    mask[2] = False
    return Tokens(h, x, mask, count(mask, h))


def unit(name, **settings):
    torch.manual_seed(0)
    mixer = make_mixer(name, SITE, settings).double()
    with torch.no_grad():
        for p in mixer.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return mixer


def dense_twin(mixer):
    """Dense attention with the same weights."""
    dense = make_mixer("dense", SITE).double()
    weights = {k: v for k, v in mixer.attention.state_dict().items() if not k.startswith("bias.")}
    dense.attention.load_state_dict(weights)
    return dense


def projected(mixer, ctx, q):
    """Logits `[b, h, nq, n]` without a bias and values `[b, h, n, dh]`, head by head."""
    a = mixer.attention
    logits, values = [], []
    k, v = (ctx.h @ a.to_kv.weight.mT).split(16, -1)
    for head in (slice(0, 8), slice(8, 16)):
        logits.append((q.h @ a.to_q.weight.mT)[..., head] @ k[..., head].mT / 8**0.5)
        values.append(v[..., head])
    return torch.stack(logits, 1), torch.stack(values, 1)


def output(mixer, weights, values):
    heads = torch.cat((weights @ values).unbind(1), -1)
    return heads @ mixer.attention.to_out.weight.mT + mixer.attention.to_out.bias


def read(mixer, ctx, q):
    return mixer.read(q, mixer.summarise(ctx)[0])


@pytest.mark.parametrize("tile", [2, 64])
def test_entmax_is_spelled_out(tile):
    mixer, ctx, q = unit("entmax", tile=tile), tokens(), tokens(5, seed=1)
    logits, values = projected(mixer, ctx, q)
    weights = entmax_naive(logits, mixer.alpha.detach()[:, None, None], ctx.mask[:, None, None])
    assert (weights[:2] == 0).sum() > (~ctx.mask[:2]).sum() * 10, "nothing sparse about it"
    assert mixer.alpha[0] != mixer.alpha[1]
    torch.testing.assert_close(read(mixer, ctx, q), output(mixer, weights, values), **CLOSE)


def test_entmax_starts_halfway_and_stays_between_softmax_and_sparsemax():
    mixer = make_mixer("entmax", SITE)
    torch.testing.assert_close(mixer.alpha, torch.full((2,), 1.5))
    for a, low, high in ((-200.0, 1.0, 1.01), (200.0, 1.99, 2.0)):
        torch.nn.init.constant_(mixer.a, a)
        assert ((mixer.alpha > low) & (mixer.alpha <= high)).all()
        ctx = tokens()
        ctx = ctx._replace(h=ctx.h.float(), x=ctx.x.float())
        assert read(mixer, ctx, ctx).isfinite().all()


def test_no_head_is_stuck_at_softmax():
    """Where weights are all but dense, alpha can still move."""
    mixer = make_mixer("entmax", SITE)
    torch.nn.init.constant_(mixer.a, -8.0)
    mixer.alpha.sum().backward()
    assert (mixer.a.grad > 1e-4).all() and (mixer.alpha > 1.001).all()


def test_entmax_tends_to_dense():
    mixer, ctx, q = unit("entmax"), tokens(), tokens(5, seed=1)
    gaps = []
    for a in (-2.0, -4.5, -6.9):
        torch.nn.init.constant_(mixer.a, a)
        gaps.append((read(mixer, ctx, q) - read(dense_twin(mixer), ctx, q)).abs().max())
    assert gaps[2] < 1e-2 and gaps[0] > 4 * gaps[1] > 16 * gaps[2]


def test_entmax_heeds_what_was_seen():
    mixer, ctx, q = unit("entmax"), tokens(), tokens(5, seed=1)
    seen = torch.arange(5).expand(3, 5)
    together = read(mixer, ctx, q._replace(seen=seen))
    for i in range(5):
        first = Tokens(ctx.h[:, :i], ctx.x[:, :i], ctx.mask[:, :i], ctx.mask[:, :i].sum(1))
        row = Tokens(q.h[:, i : i + 1], q.x[:, i : i + 1], None, first.n)
        torch.testing.assert_close(read(mixer, first, row), together[:, i : i + 1], **CLOSE)


@pytest.mark.parametrize("tile", [2, 64])
def test_span_weighs_what_softmax_would_give(tile):
    """p_ij ~ m(r) exp(s), values and gradients, with keys beyond all reach and tiles of nothing but those."""
    mixer, ctx, q = unit("adaptive_span", span=0.4, ramp=0.7, tile=tile), tokens(11), tokens(5, seed=1)
    q.x[:, 0] += 100
    x = ctx.x.clone().requires_grad_()
    bias = mixer.attention.bias
    r = (q.x[:, None, :, None] - x[:, None, None]).square().sum(-1).sqrt()
    weight = ((0.7 + bias.span[:, None, None] - r) / 0.7).clamp(0, 1) * ctx.mask[:, None, None]
    assert bias.span[0] != bias.span[1] and (weight == 1).any() and ((weight > 0) & (weight < 1)).any()
    logits, values = projected(mixer, ctx, q)
    weight = weight * logits.exp()
    total = weight.sum(-1, keepdim=True)
    expected = output(mixer, weight / torch.where(total == 0, 1.0, total), values)
    found = read(mixer, ctx._replace(x=x), q)
    torch.testing.assert_close(found, expected, **CLOSE)
    g = torch.randn(found.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    leaves = [x, *mixer.parameters()]
    grads = [torch.autograd.grad((o * g).sum(), leaves, retain_graph=True) for o in (found, expected)]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, **CLOSE)


def test_out_of_reach_is_exactly_nothing():
    mixer, ctx, q = unit("adaptive_span", span=0.5, ramp=0.5), tokens(), tokens(5, seed=1)
    torch.testing.assert_close(read(mixer, ctx, q._replace(x=q.x + 50)), mixer.attention.to_out.bias.expand(3, 5, 16))
    h = ctx.h.clone().requires_grad_()
    x = torch.where(torch.arange(7)[:, None] < 4, ctx.x, 50.0)
    read(mixer, ctx._replace(h=h, x=x), q).square().sum().backward()
    assert h.grad[:, :4].any() and not h.grad[:, 4:].any()


def test_spans_without_end_are_dense():
    mixer, ctx, q = unit("adaptive_span", span=1e6), tokens(), tokens(5, seed=1)
    torch.testing.assert_close(read(mixer, ctx, q), read(dense_twin(mixer), ctx, q), **CLOSE)


def test_spans_start_as_told_and_are_penalised():
    mixer = make_mixer("adaptive_span", SITE, {"span": 0.3, "penalty": 0.5})
    torch.testing.assert_close(mixer.attention.bias.span, torch.full((2,), 0.3))
    ctx = tokens()
    with collect_penalties() as terms:
        mixer.summarise(ctx._replace(h=ctx.h.float(), x=ctx.x.float()))
    torch.testing.assert_close(terms, [torch.tensor(0.15)])
    terms[0].backward()
    assert (mixer.attention.bias.a.grad > 0).all()


def test_spans_do_not_see_the_origin():
    mixer, ctx, q = unit("adaptive_span", span=0.5), tokens(), tokens(5, seed=1)
    moved = read(mixer, ctx._replace(x=ctx.x + 3.7), q._replace(x=q.x + 3.7))
    torch.testing.assert_close(moved, read(mixer, ctx, q), **CLOSE)
    assert (read(mixer, ctx, q._replace(x=q.x + 3.7)) - moved).abs().max() > 1e-3


@pytest.mark.parametrize("mixer", ["entmax", "adaptive_span"])
@pytest.mark.parametrize("check", [checks.padding_is_inert, checks.small_contexts_work])
def test_contract_in_tiles(mixer, check):
    check(tiny_mixer(mixer, "read", mixer_args={"tile": 3}))


def test_spans_shorter_than_gaps_between_points():
    """Rows with nothing within reach have finite values and gradients."""
    checks.padding_is_inert(tiny_mixer("adaptive_span", "read", mixer_args={"span": 0.1, "ramp": 0.1}))


def test_penalties_survive_checkpointing():
    """What is computed again in the backward pass gives the same gradients."""
    grads = []
    for switch in (False, True):
        model, t = tiny_mixer("adaptive_span", "read", checkpoint=switch).train(), tasks()
        with collect_penalties() as terms:
            loss = -model(t.xc, t.yc, t.xt).joint_log_prob(t.yt).sum()
        (loss + torch.stack(terms).sum()).backward()
        grads.append([p.grad for p in model.parameters()])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, **CLOSE)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("entmax", {"tile": 0}, "tile"),
        ("adaptive_span", {"tile": 0}, "tile"),
        ("adaptive_span", {"span": 0.0}, "span"),
        ("adaptive_span", {"ramp": 0.0}, "ramp"),
        ("adaptive_span", {"penalty": -1.0}, "penalty"),
    ],
)
def test_impossible_settings_are_refused(name, settings, message, untyped):
    with pytest.raises(ConfigError, match=message):
        make_mixer(name, SITE, settings)
