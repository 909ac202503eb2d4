"""Pooled keys and shortened contexts against masks and loops."""

import pytest
import torch

from npexp.errors import ConfigError
from npexp.mixers.base import Tokens, make_mixer
from npexp.mixers.dense import Dense
from npexp.mixers.shortened import pool_tokens
from npexp.mixers.stack import Stack
from npexp.ops.attention import attend_naive
from npexp.ops.rank_pool import convolve_ranks_naive, mean_ranks_naive
from tests.contracts.units import SITE, close, tokens, units

SIZES = (13, 8, 1, 0)


def compare(mixer, naive, name):
    """Values and gradients of reads by targets and by the context, with an independent way to the same."""
    ctx, targets = tokens(name, SIZES)
    ctx = ctx._replace(h=ctx.h.clone().requires_grad_())
    for q in (targets, ctx):
        found, expected = mixer.read(q, mixer.summarise(ctx)[0]), naive(ctx, q)
        some = slice(None) if q.mask is None else q.mask
        close(found[some], expected[some])
        g = torch.randn(found.shape, dtype=found.dtype)
        of = [ctx.h, *mixer.parameters()]
        grads = [torch.autograd.grad((out * g)[some].sum(), of) for out in (found, expected)]
        for a, b in zip(*grads, strict=True):
            close(a, b)


def ranks(ctx: Tokens, q: Tokens):
    """Ranks of rows, `[b, m, 1]`, and of all slots; real keys `[b, 1, n]`."""
    return q.pos[..., None], torch.arange(ctx.h.shape[1]), ctx.mask[:, None]


def dense(attention, q, kv, mask):
    """Attention with one mask for all rows and keys."""
    return attention.merge(attend_naive(attention.query(q), kv.k, kv.v, mask))


def test_memory_compressed_alternates_blocks_and_a_convolved_memory():
    even, odd = units("memory_compressed", settings={"block": 3, "stride": 3})

    def block(ctx, q):
        r, keys, there = ranks(ctx, q)
        own = torch.minimum(r.floor().clamp_min(0), (ctx.n - 1).clamp_min(0)[:, None, None]) // 3
        return dense(even.attention, q.h, even.attention.project(ctx.h), (keys // 3 == own) & there)

    def compressed(ctx, q):
        kv = odd.attention.project(ctx.h)
        k, v = (convolve_ranks_naive(t, w, ctx.mask) for t, w in zip(kv[:2], odd.compress.weight, strict=True))
        return dense(odd.attention, q.h, kv._replace(k=k, v=v), ctx.mask[:, None, ::3].expand(-1, q.h.shape[1], -1))

    compare(even, block, "memory_compressed")
    compare(odd, compressed, "memory_compressed")


@pytest.mark.parametrize(("layer", "settings"), [(0, {"block": 13}), (1, {"stride": 1})])
def test_memory_compressed_is_dense_in_the_limit(layer, settings):
    """A convolution starts as the mean of its ranks, of one rank as nothing."""
    mixer = make_mixer("memory_compressed", SITE._replace(layer=layer), settings).double()
    other = Dense(SITE).double()
    other.attention.load_state_dict(mixer.attention.state_dict())
    ctx, q = tokens("memory_compressed", SIZES)
    close(mixer.read(q, mixer.summarise(ctx)[0]), other.read(q, other.summarise(ctx)[0]))


def test_a_compression_starts_as_a_mean():
    mixer = make_mixer("memory_compressed", SITE._replace(layer=1), {"stride": 4}).double()
    ctx, _ = tokens("memory_compressed", SIZES)
    kv = mixer.attention.project(ctx.h)
    close(mixer.summarise(ctx)[0].k, mean_ranks_naive(kv.k, 4, ctx.mask))


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_poolingformer_reads_pooled_reads(stride):
    (mixer,) = units("poolingformer", layers=1, settings={"window": 1, "far": 3, "stride": stride})

    def near(ctx, q):
        r, keys, there = ranks(ctx, q)
        return dense(mixer.attention, q.h, mixer.attention.project(ctx.h), ((keys - r).abs() <= 1) & there)

    def naive(ctx, q):
        y, (r, keys, there) = near(ctx, q), ranks(ctx, q)
        kv = mixer.second.project(near(ctx, ctx))
        k, v = (mean_ranks_naive(t, stride, ctx.mask) for t in kv[:2])
        groups = (torch.arange(i, i + stride) for i in range(0, len(keys), stride))  # of pads, too
        seen = torch.stack([(group - r).abs().amin(-1) <= 3 for group in groups], -1)
        return y + dense(mixer.second, y, kv._replace(k=k, v=v), seen & there[..., ::stride])

    compare(mixer, naive, "poolingformer")


def test_poolingformer_with_wide_windows_is_two_nested_dense_reads():
    settings = {"window": 13, "far": 13, "stride": 1}
    (mixer,) = units("poolingformer", layers=1, settings=settings)

    def naive(ctx, q):
        def read(attention, rows, keys):
            return attention(rows, attention.project(keys, ctx.mask))

        y = read(mixer.attention, q.h, ctx.h)
        return y + read(mixer.second, y, read(mixer.attention, ctx.h, ctx.h))

    compare(mixer, naive, "poolingformer")


def test_funnel_pools_queries_and_keeps_keys():
    (mixer,) = units("funnel", layers=1)
    ctx, _ = tokens("funnel", SIZES)
    state, _ = mixer.summarise(ctx)
    short = mixer.shorten(ctx, state)
    assert state.k.shape[2] == 13 and short.n.tolist() == [7, 4, 1, 0]
    assert short.mask.sum(1).tolist() == [7, 4, 1, 0] and short.slot[0].tolist() == list(range(7))
    for i, n in enumerate(SIZES):
        for p in range((n + 1) // 2):
            pair = slice(2 * p, min(2 * p + 2, n))
            close(short.h[i, p], ctx.h[i, pair].mean(0))
            close(short.x[i, p], ctx.x[i, pair].mean(0))
    mask = ctx.mask[:, None].expand(-1, 7, -1)
    expected = dense(mixer.attention, short.h, mixer.attention.project(ctx.h), mask)
    close(mixer.read(short, state), expected)


def stack(name, layers, settings=None, **options):
    """A stack with weights that depend on nothing but its depth."""
    torch.manual_seed(0)
    return Stack(SITE.dx, name, layers, SITE.dz, SITE.num_heads, 16, settings, **options).double()


@pytest.mark.parametrize(
    ("name", "lengths"), [("funnel", [13, 7, 7, 7, 4, 4]), ("charformer", [7] * 6)], ids=["funnel", "charformer"]
)
@pytest.mark.parametrize("tie_read", [True, False])
def test_how_short_contexts_get(name, lengths, tie_read):
    """Six layers of "funnel" end at a quarter; targets read every stage."""
    ctx, q = tokens(name, SIZES)
    net = stack(name, 6, tie_read=tie_read)
    states = net.summarise(ctx)
    assert [s.k.shape[2] for s in states] == lengths
    assert states[-1].mask.sum(1).tolist() == [lengths[-1], 2 if name == "funnel" else 4, 1, 0]
    assert net.read(q, states).isfinite().all()


@pytest.mark.parametrize(
    ("name", "settings"), [("funnel", {"stride": 1}), ("charformer", {"block": 1, "stride": 1})], ids=lambda v: v
)
@pytest.mark.parametrize("norm_first", [True, False])
def test_without_pooling_stacks_are_dense(name, settings, norm_first):
    ctx, q = tokens(name, SIZES)
    net, other = stack(name, 3, settings, norm_first=norm_first), stack("dense", 3, norm_first=norm_first)
    other.load_state_dict({k: v for k, v in net.state_dict().items() if "score" not in k})
    close(net.read(q, net.summarise(ctx)), other.read(q, other.summarise(ctx)))


def merged(mixer, ctx, i, n):
    """Task i's tokens after the tokeniser, rank by rank and block by block."""
    rows = []
    for j in range(n):
        blocks = [ctx.h[i, j // b * b : min(j // b * b + b, n)].mean(0) for b in range(1, mixer.block + 1)]
        weight = torch.stack([mixer.score(t)[0] for t in blocks]).softmax(0)
        rows.append(sum(w * t for w, t in zip(weight, blocks, strict=True)))
    return [torch.stack(rows[p : p + mixer.stride]).mean(0) for p in range(0, n, mixer.stride)]


@pytest.mark.parametrize(("block", "stride"), [(4, 2), (3, 3), (20, 1)])
def test_charformer_mixes_blocks_by_score(block, stride):
    first, second = units("charformer", settings={"block": block, "stride": stride})
    ctx, _ = tokens("charformer", SIZES)
    ctx = ctx._replace(h=ctx.h.clone().requires_grad_())
    short = first.shorten(ctx, first.summarise(ctx)[0])
    found, expected = [], []
    for i, n in enumerate(SIZES):
        naive = merged(first, ctx, i, n)
        assert short.n[i] == short.mask[i].sum() == len(naive)
        found += [*short.h[i, : len(naive)]]
        expected += naive
    found, expected = torch.stack(found), torch.stack(expected)
    close(found, expected)
    g = torch.randn_like(found)
    of = (ctx.h, first.score.weight)
    grads = [torch.autograd.grad((out * g).sum(), of, retain_graph=True) for out in (found, expected)]
    for a, b in zip(*grads, strict=True):
        close(a, b)
    close(short.x, pool_tokens(ctx, stride).x)
    state, _ = first.summarise(ctx)
    close(state.k, first.attention.project(short.h).k)
    assert second.shorten(ctx, second.summarise(ctx)[0]) is ctx and second.score is None  # once is enough


def test_charformer_moves_on_what_it_has_read():
    """Layer norms in front of the keys leave the weights of the blocks alone; they are computed once."""
    first, _ = stack("charformer", 2).blocks
    ctx, _ = tokens("charformer", SIZES)
    ctx = ctx._replace(h=ctx.h * torch.tensor([0.1, 5.0]).double().repeat(8))
    scores = []
    first.mixer.score.register_forward_hook(lambda *call: scores.append(call[-1][..., 0].softmax(-1)))
    state, _ = first.summarise(ctx, None)
    short = first.mixer.shorten(ctx, state)
    (weight,) = scores
    for i, n in enumerate(SIZES):
        for j in range(0, n, 2):
            rows = []
            for r in range(j, min(j + 2, n)):
                means = [ctx.h[i, r // b * b : min(r // b * b + b, n)].mean(0) for b in range(1, 5)]
                rows.append(weight[i, r] @ torch.stack(means))
            close(short.h[i, j // 2], torch.stack(rows).mean(0))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("memory_compressed", ("block", "stride")),
        ("poolingformer", ("window", "stride")),
        ("funnel", ("stride", "every")),
        ("charformer", ("block", "stride")),
    ],
)
def test_impossible_settings_are_refused(name, settings):
    for setting in settings:
        with pytest.raises(ConfigError, match="at least 1, got 0"):
            make_mixer(name, SITE, {setting: 0})


def test_the_far_window_is_the_wider_one():
    with pytest.raises(ConfigError, match="far to be an integer, at least 9, got 8"):
        make_mixer("poolingformer", SITE, {"window": 9, "far": 8})
