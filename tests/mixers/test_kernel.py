"""Kernel-biased attention against a spelled-out twin, and what its wirings promise."""

import pytest
import torch

import npexp
from npexp.batch import count
from npexp.errors import ConfigError
from npexp.layers.relative import RadialBias
from npexp.mixers.base import Site, Tokens, make_mixer
from tests.contracts import checks
from tests.contracts.checks import CLOSE, tasks, tiny

SITE = Site(dx=2, dz=16, num_heads=2, layer=0)


def tokens(n: int = 7, seed: int = 0) -> Tokens:
    g = torch.Generator().manual_seed(seed)
    h, x = (torch.randn(3, n, d, generator=g, dtype=torch.float64) for d in (16, 2))
    mask = torch.rand(3, n, generator=g) < 0.7
    mask[:, 0] = True
    return Tokens(h, x, mask, count(mask, h))


def kernel(**settings):
    torch.manual_seed(0)
    mixer = make_mixer("kernel", SITE, settings).double()
    with torch.no_grad():
        for p in mixer.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return mixer


def test_bias_is_the_radial_basis_network():
    torch.manual_seed(0)
    bias, x = RadialBias(num_heads=2, num_basis=5, reach=1.0).double(), tokens().x
    found = bias(x, x, x[:, :4], x)
    for task in range(3):
        for head in range(2):
            for i in range(4):
                for j in range(7):
                    r = ((x[task, i] - x[task, j]) ** 2).sum() ** 0.5
                    terms = zip(bias.a[head], bias.b[head], bias.c[head], strict=True)
                    expected = sum(a * torch.exp(-abs(b) * (r - c) ** 2) for a, b, c in terms)
                    torch.testing.assert_close(found[task, head, i, j], expected)


def test_read_is_softmax_with_a_materialised_bias():
    mixer, ctx, q = kernel(), tokens(), tokens(5, seed=1)
    a = mixer.attention
    qs = (q.h @ a.to_q.weight.mT).unflatten(-1, (2, 8))
    k, v = (part.unflatten(-1, (2, 8)) for part in (ctx.h @ a.to_kv.weight.mT).split(16, -1))
    r = (q.x[:, :, None] - ctx.x[:, None]).norm(dim=-1)
    heads = []
    for head in range(2):
        b = a.bias
        bias = sum(b.a[head, i] * (-b.b[head, i].abs() * (r - b.c[head, i]) ** 2).exp() for i in range(5))
        logits = qs[:, :, head] @ k[:, :, head].mT / 8**0.5 + bias
        weights = logits.masked_fill(~ctx.mask[:, None], -torch.inf).softmax(-1)
        heads.append(weights @ v[:, :, head])
    expected = torch.cat(heads, -1) @ a.to_out.weight.mT + a.to_out.bias
    torch.testing.assert_close(mixer.read(q, mixer.summarise(ctx)[0]), expected, **CLOSE)


def test_without_amplitudes_it_is_dense():
    mixer, dense, ctx = kernel(), make_mixer("dense", SITE).double(), tokens()
    weights = {k.removeprefix("attention."): v for k, v in mixer.state_dict().items() if ".bias." not in k}
    dense.attention.load_state_dict(weights)
    assert (mixer.read(ctx, mixer.summarise(ctx)[0]) - dense.read(ctx, dense.summarise(ctx)[0])).abs().max() > 1e-3
    torch.nn.init.zeros_(mixer.attention.bias.a)
    torch.testing.assert_close(
        mixer.read(ctx, mixer.summarise(ctx)[0]), dense.read(ctx, dense.summarise(ctx)[0]), **CLOSE
    )


def test_tiles_do_not_matter():
    whole, tiled, t = tiny("tnpkr"), tiny("tnpkr", tile=3), tasks()
    tiled.load_state_dict(whole.state_dict())
    checks.same(tiled(t.xc, t.yc, t.xt), whole(t.xc, t.yc, t.xt))
    for model in (whole, tiled):
        model(t.xc, t.yc, t.xt).joint_log_prob(t.yt).sum().backward()
    for a, b in zip(whole.parameters(), tiled.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, **CLOSE)


@pytest.mark.parametrize("absolute", [False, True])
def test_contract_with_and_without_positions_in_tokens(absolute):
    """Without x in its tokens the model is translation-equivariant, with it it is not."""
    model = tiny("tnpkr", absolute=absolute)
    assert model.traits["translation_equivariant"] is not absolute
    for check in (checks.translation_equivariant, checks.padding_is_inert, checks.small_contexts_work):
        check(model)


def test_only_distances_matter_without_positions_in_tokens():
    model, t = tiny("tnpkr", absolute=False), tasks()
    turn = torch.tensor([[0.6, -0.8], [-0.8, -0.6]], dtype=torch.float64)  # a reflection
    checks.same(model(t.xc @ turn, t.yc, t.xt @ turn), model(t.xc, t.yc, t.xt))


def test_distances_survive_far_from_the_origin():
    x = torch.randn(1, 50, 2, generator=torch.Generator().manual_seed(0))
    bias = RadialBias(num_heads=2, num_basis=5, reach=1.0)
    far = (x + 1000).double()  # rounded to float32, as the bias sees it
    torch.testing.assert_close(bias(x, x, x + 1000, x + 1000), bias.double()(x, x, far, far).float())


def test_predictions_are_differentiable_in_the_targets_at_context_points():
    model, t = tiny("tnpkr"), tasks()
    xt = t.xc.clone().requires_grad_()
    model(t.xc, t.yc, xt).mean.sum().backward()
    assert xt.grad.isfinite().all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"reach": 0.0}, "reach > 0"), ({"num_basis": 0}, "num_basis"), ({"tile": 0}, "tile")],
)
def test_impossible_settings_are_refused(settings, message, untyped):
    with pytest.raises(ConfigError, match=message):
        npexp.build("tnpkr", dx=1, dy=1, **settings)
    with pytest.raises(ConfigError, match="absolute=True"):
        npexp.build("tnpkr", dx=1, dy=1, absolute=False, num_frequencies=4)
