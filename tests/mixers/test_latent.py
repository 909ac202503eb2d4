"""Induced sets: the mixer, the block, and the two models around them."""

import pytest
import torch

from npexp.batch import count
from npexp.errors import ConfigError
from npexp.layers.induced import InducedBlock
from npexp.mixers.base import Site, Tokens, make_mixer
from tests.contracts.checks import CLOSE, differ, tasks, tiny

SITE = Site(dx=2, dz=16, num_heads=2, layer=0)


def tokens(n: int = 7, seed: int = 0) -> Tokens:
    g = torch.Generator().manual_seed(seed)
    h, x = (torch.randn(3, n, d, generator=g, dtype=torch.float64) for d in (16, 2))
    return Tokens(h, x, None, count(None, h))


def mab(block, x, y):
    """MAB(X, Y) through PyTorch's attention: H = X + A(LN X; LN Y), H + FF(LN H)."""
    a = block.attention
    reference = torch.nn.MultiheadAttention(16, 2, bias=True, batch_first=True).double()
    with torch.no_grad():
        reference.in_proj_weight.copy_(torch.cat([a.to_q.weight, a.to_kv.weight]))
        reference.in_proj_bias.zero_()
        reference.out_proj.load_state_dict(a.to_out.state_dict())
    keys = block.norm_keys(y)
    h = x + reference(block.norm(x), keys, keys)[0]
    return h + block.ff(block.norm_ff(h))


def test_isab_is_two_attention_blocks():
    torch.manual_seed(0)
    block, c = InducedBlock(16, 2, 16, num_latents=4).double(), tokens().h
    refined, z = block(c)
    expected = mab(block.pool, block.latents.expand(3, -1, -1), c)
    torch.testing.assert_close(z, expected, **CLOSE)
    torch.testing.assert_close(refined, mab(block.spread, c, expected), **CLOSE)


def test_isab_through_its_own_points_is_self_attention_twice():
    torch.manual_seed(0)
    block, c = InducedBlock(16, 2, 16, num_latents=7).double(), tokens().h[:1]
    block.latents.data.copy_(c[0])
    torch.testing.assert_close(block(c)[0], mab(block.spread, c, mab(block.pool, c, c)), **CLOSE)


@pytest.mark.parametrize(("name", "tower"), [("ist", 0), ("lbanp", 1), ("perceiver", 2)])
def test_latents_read_the_context_then_each_other(name, tower):
    """One cross-attention and a tower of self-attentions, all through PyTorch's; later layers carry on."""
    torch.manual_seed(0)
    unit, ctx = make_mixer(name, SITE, {"num_latents": 4}).double(), tokens()

    def latents(z, unit):
        z = mab(unit.pool, z, ctx.h)
        assert len(unit.self_blocks) == tower
        for block in unit.self_blocks:
            block.norm_keys = block.norm
            z = mab(block, z, z)
        return z

    z = latents(unit.latents.expand(3, -1, -1), unit)
    state, carry = unit.summarise(ctx)
    torch.testing.assert_close(state.z, z, **CLOSE)
    later = make_mixer(name, SITE._replace(layer=1)).double()
    torch.testing.assert_close(later.summarise(ctx, carry)[0].z, latents(z, later), **CLOSE)


@pytest.mark.parametrize("layer", [0, 1])
def test_isab_carries_nothing(layer):
    """Every layer starts from latents of its own, where "ist" goes on with those of the layer before."""
    torch.manual_seed(0)
    unit, ctx = make_mixer("isab", SITE._replace(layer=layer), {"num_latents": 4}).double(), tokens()
    torch.testing.assert_close(unit.summarise(ctx, torch.ones(3, 4, 16).double())[0].z, unit.summarise(ctx)[0].z)
    assert unit.latents is not None
    assert make_mixer("ist", SITE._replace(layer=1)).latents is None


@pytest.mark.parametrize("name", ["ist", "isab", "lbanp", "perceiver", "luna"])
def test_order_of_latents_does_not_matter(name):
    torch.manual_seed(0)
    unit, ctx = make_mixer(name, SITE, {"num_latents": 4}).double(), tokens()
    before = unit.read(ctx, unit.summarise(ctx)[0])
    unit.latents.data.copy_(unit.latents.data.flip(0))
    torch.testing.assert_close(unit.read(ctx, unit.summarise(ctx)[0]), before, **CLOSE)


def test_luna_packs_and_unpacks():
    torch.manual_seed(0)
    unit, ctx = make_mixer("luna", SITE, {"num_latents": 4}).double(), tokens()

    def read(attention, x, y):
        reference = torch.nn.MultiheadAttention(16, 2, bias=True, batch_first=True).double()
        with torch.no_grad():
            reference.in_proj_weight.copy_(torch.cat([attention.to_q.weight, attention.to_kv.weight]))
            reference.in_proj_bias.zero_()
            reference.out_proj.load_state_dict(attention.to_out.state_dict())
        return reference(x, y, y)[0]

    p = unit.norm(unit.latents).expand(3, -1, -1)
    packed = read(unit.pack, p, ctx.h)
    state, carry = unit.summarise(ctx)
    torch.testing.assert_close(state.z, packed, **CLOSE)
    torch.testing.assert_close(carry, p + packed, **CLOSE)
    torch.testing.assert_close(unit.read(ctx, state), read(unit.attention, ctx.h, packed), **CLOSE)
    later = make_mixer("luna", SITE._replace(layer=1), {"num_latents": 4}).double()
    assert later.latents is None
    expected = read(later.pack, later.norm(carry), ctx.h)
    torch.testing.assert_close(later.summarise(ctx, carry)[0].z, expected, **CLOSE)


@pytest.mark.parametrize("name", ["ist", "isab", "lbanp", "perceiver", "luna"])
def test_through_one_latent_the_context_is_one_vector(name):
    torch.manual_seed(0)
    unit, ctx = make_mixer(name, SITE, {"num_latents": 1}).double(), tokens()
    read = unit.read(ctx, unit.summarise(ctx)[0])
    torch.testing.assert_close(read, read[:, :1].expand_as(read), **CLOSE)


def test_isanp_reads_the_encoders_latents_of_every_layer():
    """The context moves on between layers, unlike in LBANP, and targets see one set of latents per layer."""
    model, t = tiny("isanp", num_layers=3, num_latents=3), tasks()
    state = model.encode(t.xc, t.yc)
    c = model.embedding.context(t.xc, t.yc)
    for block, z in zip(model.induce, state.summary, strict=True):
        expected = mab(block.pool, block.latents.expand(3, -1, -1), c)
        torch.testing.assert_close(z, expected, **CLOSE)
        if block.spread is not None:
            c = mab(block.spread, c, expected)
    for i in range(3):  # each layer's latents are read
        summary = tuple(z.roll(int(j == i), -1) for j, z in enumerate(state.summary))
        assert differ(model.predict(state, t.xt), model.predict(state._replace(summary=summary), t.xt))


def test_set_transformer_shows_targets_its_seeds_only():
    model, t = tiny("set_transformer", num_seeds=5), tasks()
    state = model.encode(t.xc, t.yc)
    assert state.summary.shape == (3, 5, 16)
    flipped = state._replace(summary=state.summary.flip(1))  # a set, not a sequence
    torch.testing.assert_close(model.predict(flipped, t.xt).mean, model.predict(state, t.xt).mean, **CLOSE)
    c = model.embedding.context(t.xc, t.yc)
    for block in model.induce:
        c = mab(block.spread, c, mab(block.pool, block.latents.expand(3, -1, -1), c))
    pooled = mab(model.pool, model.seeds.expand(3, -1, -1), c)
    torch.testing.assert_close(state.summary, model.self_block(pooled), **CLOSE)


@pytest.mark.parametrize(
    ("name", "size"), [("isanp", "num_latents"), ("isanp", "num_layers"), ("set_transformer", "num_seeds")]
)
def test_impossible_sizes_are_refused(name, size, untyped):
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        tiny(name, **{size: 0})
