"""Every mixer made of patterns against attention under an explicit mask of all pairs."""

import pytest
import torch

from npexp.batch import real
from npexp.errors import ConfigError
from npexp.mixers.base import Site, Tokens, make_mixer, registered
from npexp.mixers.cells import Line, Neighbours, SameCell, cells, code
from npexp.mixers.globals import hub_ranks, scramble
from npexp.mixers.pattern import PatternMixer, rows_of
from npexp.mixers.windows import Blocks, Near, Strided, Summaries, Window
from npexp.ops.attention import attend_naive

PLAIN = [name for name, cls in registered().items() if issubclass(cls, PatternMixer) and cls.read is PatternMixer.read]
SIZES = [41, 30, 1, 0]


def tokens(dx=1, seed=0):
    """Ragged contexts, sorted in one dimension, and targets among them."""
    g = torch.Generator().manual_seed(seed)

    def randn(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    n, slot = torch.tensor(SIZES), torch.arange(max(SIZES)).expand(len(SIZES), -1)
    x = randn(len(SIZES), max(SIZES), dx)
    ctx = Tokens(randn(*x.shape[:2], 8), x, slot < n[:, None], n, slot, None, slot)
    between = (torch.rand(len(SIZES), 9, generator=g) * (n[:, None] + 1)).floor() - 0.5
    return ctx, Tokens(randn(len(SIZES), 9, 8), randn(len(SIZES), 9, dx), None, n, between)


def mixer(name, dx=1, layer=0, **settings):
    torch.manual_seed(1)
    return make_mixer(name, Site(dx, 8, 2, layer), settings).double()


def allowed(pattern, q, ctx):
    q, k = pattern.place(rows_of(q)), pattern.place(rows_of(ctx))
    return pattern.allowed(q[:, :, None], k[:, None]) & ctx.mask[:, None]


def naive(unit, q, ctx):
    """The layer with an explicit mask, `[b, nq, nc]` for each group of heads."""
    kv, heads, patterns = unit.attention.project(ctx.h), unit.attention.query(q.h), unit.patterns()
    parts = zip(patterns, *(t.chunk(len(patterns), 1) for t in (heads, kv.k, kv.v)), strict=True)
    return unit.attention.merge(torch.cat([attend_naive(h, k, v, allowed(p, q, ctx)) for p, h, k, v in parts], 1))


def same_with_gradients(unit, found, expected, rows):
    """Equal where rows are real, and so are the gradients of the weights."""
    keep = real(rows.mask, rows.h)[..., None]
    found, expected = found * keep, expected * keep
    torch.testing.assert_close(found, expected)
    weight = torch.randn(found.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    weights = list(unit.attention.parameters())
    ours, theirs = (torch.autograd.grad((o * weight).sum(), weights, retain_graph=True) for o in (found, expected))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("dx", [1, 2])
@pytest.mark.parametrize("name", PLAIN)
def test_equals_a_masked_softmax(name, dx, layer):
    unit, (ctx, targets) = mixer(name, dx, layer), tokens(dx)
    state, _ = unit.summarise(ctx)
    for rows in (ctx, targets):
        same_with_gradients(unit, unit.read(rows, state), naive(unit, rows, ctx), rows)


def test_patterns_by_hand():
    """On seven context points, as sets of ranks; targets lie between ranks 2 and 3 and in front of all."""
    slot = torch.arange(7)[None]
    h, n = torch.zeros(1, 7, 8), torch.tensor([7])
    ctx = Tokens(h, torch.zeros(1, 7, 1), torch.ones(1, 7, dtype=torch.bool), n, slot, None, slot)
    targets = Tokens(h[:, :2], torch.zeros(1, 2, 1), None, n, torch.tensor([[2.5, -0.5]]))

    def seen(pattern, rows, i):
        return set(allowed(pattern, rows, ctx)[0, i].nonzero()[:, 0].tolist())

    assert seen(Window(1), ctx, 3) == {2, 3, 4} and seen(Window(1), targets, 0) == {2, 3}
    assert seen(Window(1), targets, 1) == {0}
    assert seen(Window(1, dilation=2), ctx, 3) == {1, 3, 5} and seen(Window(1, dilation=2), targets, 0) == {2, 4}
    assert seen(Blocks(3), ctx, 4) == {3, 4, 5} and seen(Blocks(3), targets, 0) == {0, 1, 2} == seen(Blocks(3), ctx, 0)
    assert seen(Blocks(3, shift=1), ctx, 1) == {0, 1} and seen(Blocks(3, shift=1), ctx, 2) == {2, 3, 4}
    assert seen(Blocks(3, around=1), ctx, 4) == {2, 3, 4, 5, 6}
    assert seen(Blocks(3, turn=1), ctx, 0) == {3, 4, 5} and seen(Blocks(3, turn=1), ctx, 6) == {0, 1, 2}
    assert seen(Blocks(3, back=1), ctx, 4) == {0, 1, 2} and seen(Blocks(3, back=1), ctx, 0) == set()
    assert seen(Near(None), ctx, 3) == {1, 2, 3, 4, 5} and seen(Strided(None), ctx, 4) == {1, 4}  # sqrt(7) -> 3
    assert seen(Summaries(None, 1), ctx, 4) == {2, 3, 4, 5} and seen(Strided(2), targets, 0) == {0, 2, 4, 6}


def test_cells_by_hand():
    x = torch.tensor([[-0.6, 0.0], [-0.4, 0.4], [0.4, -0.4], [0.6, 1.6]])[None]
    assert cells(x, 1.0)[0].tolist() == [[-1, 0], [0, 0], [0, 0], [1, 2]]
    assert cells(x, 1.0, 0.5)[0].tolist() == [[-1, 0], [-1, 0], [0, -1], [0, 1]]
    ctx = Tokens(torch.zeros(1, 4, 8), x, torch.ones(1, 4, dtype=torch.bool), torch.tensor([4]))
    rules = {SameCell(1.0, 0.0): {1, 2}, Neighbours(1.0): {0, 1, 2}, Line(1.0, 0): {0, 1, 2}}
    rules |= {Line(1.0, 1): {1, 2}, Line(1.0, 0, others=True): {0}}
    for pattern, expected in rules.items():
        assert set(allowed(pattern, ctx, ctx)[0, 1].nonzero()[:, 0].tolist()) == expected
    grid = torch.cartesian_prod(torch.arange(-3, 4), torch.arange(-3, 4))
    codes = code(grid)
    assert (codes.diff() > 0).all() and (codes.view(7, 7).diff() == 1).all()


@pytest.mark.parametrize("far", [1e30, -1e30])
def test_far_inputs_fall_into_the_outermost_cells(far):
    """No overflow: what is beyond all cells shares the last ones with whatever else is."""
    x = torch.tensor([[[far], [0.0], [2 * far]]])
    assert cells(x, 0.1)[0, 0] == cells(x, 0.1)[0, 2] != cells(x, 0.1)[0, 1]
    assert (code(cells(x, 0.1))[0, 0] > 0) == (far > 0)


@pytest.mark.parametrize("layer", [0, 1])
def test_transformer_xl_is_a_banded_softmax_with_a_segment_cut_off(layer):
    unit, (ctx, _) = mixer("transformer_xl", segment=6, layer=layer), tokens()
    state, _ = unit.summarise(ctx)
    rank = torch.arange(41)
    before = rank[:, None] // 6 - (1 if layer == 0 else -1)
    band = (rank[None] // 6 == rank[:, None] // 6) | (rank[None] // 6 == before)
    kv, q = unit.attention.project(ctx.h), unit.attention.query(ctx.h)
    expected = unit.attention.merge(attend_naive(q, kv.k, kv.v, band & ctx.mask[:, None]))
    found = unit.read(ctx, state)
    torch.testing.assert_close(found[ctx.mask], expected[ctx.mask])
    # a row of the second segment does not reach the first one's weights, although it reads it
    h = ctx.h.clone().requires_grad_()
    cut = ctx._replace(h=h)
    (grad,) = torch.autograd.grad(unit.read(cut, unit.summarise(cut)[0])[0, 8].sum(), h)
    assert grad[0, 6:12].any() and not grad[0, :6].any() and not grad[0, 12:].any()


@pytest.mark.parametrize("dx", [1, 2])
def test_criss_cross_is_two_masked_softmaxes(dx):
    unit, (ctx, targets) = mixer("ccnet", dx), tokens(dx)
    state, _ = unit.summarise(ctx)
    cell = {id(t): cells(t.x, unit.width) for t in (ctx, targets)}

    def cross(rows, h):
        """On one line: all coordinates but at most one are equal."""
        line = (cell[id(rows)][:, :, None] != cell[id(ctx)][:, None]).sum(-1) <= 1
        kv = unit.attention.project(h)
        q = unit.attention.query(rows.h if rows is not ctx else h)
        return unit.attention.merge(attend_naive(q, kv.k, kv.v, line & ctx.mask[:, None]))

    once = ctx.h + cross(ctx, ctx.h)
    same_with_gradients(unit, unit.read(ctx, state), cross(ctx, once), ctx)
    first = targets._replace(h=targets.h + cross(targets, ctx.h))
    cell[id(first)] = cell[id(targets)]
    torch.testing.assert_close(unit.read(targets, state), cross(first, once))


@pytest.mark.parametrize("name", ["etc", "star", "longformer", "bigbird_etc"])
def test_global_tokens_join_the_softmax(name):
    unit, (ctx, targets) = mixer(name, layer=0, window=3), tokens()
    state, hubs = unit.summarise(ctx)
    own = unit.attention.project(unit.norm(hubs))
    for rows in (ctx, targets):
        kv, q, patterns = unit.attention.project(ctx.h), unit.attention.query(rows.h), unit.patterns()
        masks = [allowed(p, rows, ctx) for p in patterns]
        masks = [torch.cat([m, torch.ones(*m.shape[:2], own.k.shape[2], dtype=torch.bool)], 2) for m in masks]
        k, v = (torch.cat(pair, 2).chunk(len(patterns), 1) for pair in ((kv.k, own.k), (kv.v, own.v)))
        parts = zip(q.chunk(len(patterns), 1), k, v, masks, strict=True)
        expected = unit.attention.merge(torch.cat([attend_naive(*part) for part in parts], 1))
        same_with_gradients(unit, unit.read(rows, state), expected, rows)


def test_global_tokens_read_each_other_and_the_context():
    """Far points reach a row through them; they are carried on, and later layers own none."""
    unit, (ctx, _) = mixer("etc", window=1), tokens()
    after = mixer("etc", layer=1)
    assert unit.latents is not None and after.latents is None
    moved = ctx._replace(h=torch.where((ctx.slot == 40)[..., None], ctx.h + 1, ctx.h))
    a, b = (unit.read(t, unit.summarise(t)[0]) for t in (ctx, moved))
    assert (a - b)[0, 0].abs().max() > 1e-6
    _, z = unit.summarise(ctx)
    assert z.shape == (4, 8, 8)
    torch.testing.assert_close(after.summarise(ctx, z)[1], after.summarise(ctx, z.flip(1))[1].flip(1))


def test_bigbird_is_a_masked_softmax():
    """Window, random blocks and hubs for everyone; everything for hubs."""
    unit, (ctx, targets) = mixer("bigbird", window=2, num_globals=3, block=4, num_random=2), tokens()
    state, _ = unit.summarise(ctx)
    for rows in (ctx, targets):
        mask = torch.zeros(4, rows.h.shape[1], 41, dtype=torch.bool)
        for b, n in enumerate(SIZES):
            count = max(n - 1, 0) // 4 + 1
            hubs = {(2 * i + 1) * n // (2 * min(3, n)) for i in range(min(3, n))}
            for i, r in enumerate(rows.pos[b].tolist()):
                own = min(max(int(r // 1), 0) // 4, count - 1)
                drawn = {int(scramble(torch.tensor(own), 1 + j)) % count for j in range(2)}
                for j in range(n):
                    everything = rows is ctx and i in hubs
                    mask[b, i, j] = everything or abs(j - r) <= 2 or j // 4 in drawn or j in hubs
        kv = unit.attention.project(ctx.h)
        expected = unit.attention.merge(attend_naive(unit.attention.query(rows.h), kv.k, kv.v, mask))
        same_with_gradients(unit, unit.read(rows, state), expected, rows)


def test_hubs_are_evenly_spaced_and_random_blocks_spread():
    assert hub_ranks(torch.tensor([10, 2, 0]), 3).tolist() == [[1, 5, 8], [0, 1, -1], [-1, -1, -1]]
    drawn = scramble(torch.arange(4000), 1) % 8
    counts = drawn.bincount(minlength=8)
    assert ((counts - 500).abs() < 5 * (500 * 7 / 8) ** 0.5).all()
    assert (scramble(torch.arange(100), 1) != scramble(torch.arange(100), 2)).all()


def test_heads_must_share_the_patterns():
    with pytest.raises(ConfigError, match="num_heads to be a multiple of 2"):
        make_mixer("longformer", Site(1, 9, 3, 0))
    with pytest.raises(ConfigError, match="width > 0"):
        make_mixer("swin", Site(1, 8, 2, 0), {"width": 0.0})
    with pytest.raises(ConfigError, match="at most 4 inputs, got 5"):
        make_mixer("local_radius", Site(5, 8, 2, 0))
    with pytest.raises(ConfigError, match="window"):
        make_mixer("local", Site(1, 8, 2, 0), {"window": 0})
