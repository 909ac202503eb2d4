"""Translation equivariance, exactly; TE attention against a spelled-out twin; places of pseudo-tokens."""

import pytest
import torch

import npexp
from npexp.batch import count
from npexp.errors import ConfigError
from npexp.mixers.base import Site, Tokens, make_mixer
from tests.contracts import checks
from tests.contracts.checks import CLOSE, MIXERS, tasks, tiny

SITE = Site(dx=2, dz=16, num_heads=2, layer=0)
EQUIVARIANT = [(m, w) for m, w in MIXERS if npexp.available_mixers()[m]["translation_equivariant"]]
PSEUDO = ["te_ist", "te_perceiver"]


def model_of(mixer: str, wiring: str | None = None, **settings):
    return tiny("tetnp", mixer=mixer, context=wiring, mixer_args=settings)


def tokens(n: int = 7, seed: int = 0) -> Tokens:
    g = torch.Generator().manual_seed(seed)
    h, x = (torch.randn(3, n, d, generator=g, dtype=torch.float64) for d in (16, 2))
    mask = torch.arange(n) < torch.tensor([n, 3, 0])[:, None]
    return Tokens(torch.where(mask[..., None], h, torch.zeros_like(h)), x, mask, count(mask, h))


@pytest.mark.parametrize(("mixer", "wiring"), EQUIVARIANT)
@pytest.mark.parametrize("check", [checks.translation_equivariant, checks.padding_is_inert, checks.small_contexts_work])
def test_every_mixer_that_claims_it(mixer, wiring, check):
    check(model_of(mixer, wiring))


@pytest.mark.parametrize("mixer", ["kernel", "te", *PSEUDO])
@pytest.mark.parametrize("nc", [0, 1, 7])
def test_far_translations_change_nothing(mixer, nc):
    model, t = model_of(mixer), tasks(nc=nc)
    step = torch.tensor([1000.0, -250.0], dtype=torch.float64)
    checks.same(model(t.xc + step, t.yc, t.xt + step), model(t.xc, t.yc, t.xt), rtol=0, atol=1e-9)


@pytest.mark.parametrize("mixer", ["te", *PSEUDO])
def test_directions_matter(mixer):
    """Unlike "kernel", which sees distances."""
    model, t = model_of(mixer), tasks()
    assert checks.differ(model(-t.xc, t.yc, -t.xt), model(t.xc, t.yc, t.xt))


@pytest.mark.parametrize("joint", [False, True])
def test_read_is_the_formula(joint):
    torch.manual_seed(0)
    mixer = make_mixer("te", SITE, {"joint": joint}).double()
    ctx, q = tokens(), tokens(5, seed=1)
    a = mixer.attention
    qs = (q.h @ a.to_q.weight.mT).unflatten(-1, (2, 8))
    k, v = (part.unflatten(-1, (2, 8)) for part in (ctx.h @ a.to_kv.weight.mT).split(16, -1))
    out = mixer.read(q, mixer.summarise(ctx)[0])
    for task, n in enumerate([7, 3]):
        for i in range(5):
            products = torch.stack([(qs[task, i] * k[task, j]).sum(-1) / 8**0.5 for j in range(n)])
            difference = q.x[task, i] - ctx.x[task, :n]
            network = a.bias.network
            logits = network(torch.cat([products, difference], -1)) if joint else products + network(difference)
            heads = (logits.softmax(0)[..., None] * v[task, :n]).sum(0).flatten()
            torch.testing.assert_close(out[task, i], a.to_out(heads), **CLOSE)
    torch.testing.assert_close(out[2], a.to_out.bias.expand(5, -1))  # nothing to read


@pytest.mark.parametrize("mixer", ["kernel", "te", *PSEUDO])
def test_tiles_do_not_matter(mixer):
    whole, tiled, t = model_of(mixer), model_of(mixer, tile=2), tasks()
    tiled.load_state_dict(whole.state_dict())
    checks.same(tiled(t.xc, t.yc, t.xt), whole(t.xc, t.yc, t.xt))


@pytest.mark.parametrize("mixer", PSEUDO)
def test_places_are_averages_that_move_with_the_context(mixer):
    torch.manual_seed(0)
    unit, ctx = make_mixer(mixer, SITE, {"num_latents": 4}).double(), tokens()
    weights = unit.weights(ctx)
    torch.testing.assert_close(weights.sum(-1), torch.tensor([1.0, 1.0, 0.0]).double()[:, None].expand(3, 4))
    assert (weights >= 0).all() and (weights[1, :, 3:] == 0).all()
    assert unit.weights(tokens(0)).shape == (3, 4, 0)
    state, carry = unit.summarise(ctx)
    moved, _ = unit.summarise(ctx._replace(x=ctx.x + 3))
    torch.testing.assert_close((state.origin + state.x)[:2], (weights @ ctx.x + unit.offsets)[:2])
    torch.testing.assert_close(moved.x, state.x)
    torch.testing.assert_close(moved.origin[:2], state.origin[:2] + 3)
    torch.testing.assert_close(moved.z, state.z)
    assert state.mask.tolist() == [[True] * 4, [True] * 4, [False] * 4]
    later = make_mixer(mixer, SITE._replace(layer=1), {"num_latents": 4}).double()
    torch.testing.assert_close(later.summarise(ctx, carry)[0].x, state.x, rtol=0, atol=0)


@pytest.mark.parametrize("mixer", ["te", *PSEUDO])
@pytest.mark.parametrize("step", [64.0, 1024.0, 16384.0])
def test_far_from_the_origin_in_float32(mixer, step):
    """Steps that float32 adds without rounding."""
    torch.manual_seed(0)
    unit = make_mixer(mixer, SITE)
    ctx, q = (t._replace(h=t.h.float(), x=(t.x * 512).round().float() / 512) for t in (tokens(), tokens(4, seed=1)))
    before = unit.read(q, unit.summarise(ctx)[0])
    moved = unit.read(q._replace(x=q.x + step), unit.summarise(ctx._replace(x=ctx.x + step))[0])
    assert (moved - before).norm() < 5e-7 * before.norm()


@pytest.mark.parametrize("mixer", PSEUDO)
def test_gradients_by_inputs_are_those_of_places_as_sums(mixer):
    """The origin is held fixed, which must not show."""
    torch.manual_seed(0)
    unit, ctx, q = make_mixer(mixer, SITE, {"num_latents": 4}).double(), tokens(), tokens(5, seed=1)
    x = ctx.x.clone().requires_grad_()

    def out(x):
        return unit.read(q, unit.summarise(ctx._replace(x=x))[0])[:2].square().sum()

    (found,) = torch.autograd.grad(out(x), x)
    for task, row in ((0, 0), (0, 3), (1, 0)):  # the origins, and another
        step = torch.zeros_like(ctx.x)
        step[task, row, 0] = 1e-6
        slope = (out(ctx.x + step) - out(ctx.x - step)) / 2e-6
        torch.testing.assert_close(found[task, row, 0], slope, rtol=1e-5, atol=1e-7)
    assert not found[2].any()


@pytest.mark.parametrize("mixer", PSEUDO)
def test_order_of_latents_does_not_matter(mixer):
    torch.manual_seed(0)
    unit, ctx = make_mixer(mixer, SITE, {"num_latents": 4}).double(), tokens()
    before = unit.read(ctx, unit.summarise(ctx)[0])
    with torch.no_grad():
        for p in (unit.latents, unit.offsets, unit.place.weight, unit.place.bias):
            p.copy_(p.flip(0))
    torch.testing.assert_close(unit.read(ctx, unit.summarise(ctx)[0]), before, **CLOSE)


def test_a_mixer_that_does_not_see_inputs_is_refused():
    for mixer in ("dense", "ist"):
        with pytest.raises(ConfigError, match="such as 'kernel' or 'te'"):
            npexp.build("tetnp", dx=1, dy=1, mixer=mixer)
