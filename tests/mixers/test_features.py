"""Random features: their mean is the softmax kernel, and their error falls as it must."""

import pytest
import torch
from torch.nn.functional import normalize

from npexp.batch import count
from npexp.errors import ConfigError
from npexp.mixers.base import Site, Tokens, make_mixer
from npexp.mixers.features import orthogonal
from npexp.ops.attention import attend_naive

SITE = Site(dx=1, dz=16, num_heads=1, layer=0)


def unit(name, seed=0, **settings):
    torch.manual_seed(seed)
    return make_mixer(name, SITE, settings).double()


def points(norm: float = 1.0, n: int = 128):
    """Queries, keys and values, `[1, 1, n, 16]`; queries and keys of one norm."""
    g = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 1, 1, n, 16, generator=g, dtype=torch.float64)
    return norm * normalize(q, dim=-1), norm * normalize(k, dim=-1), v


def error(name: str, num_features: int, norm: float = 1.0, scale: float = 0.25, **settings) -> float:
    """Relative error of the attention against softmax, over a few draws."""
    q, k, v = points(norm)
    exact, errors = attend_naive(q, k, v, scale=scale), []
    for seed in range(6):
        mixer = unit(name, seed, num_features=num_features, **settings)
        phi_q, phi_k = mixer.features(q).detach(), mixer.features(k).detach()
        read = phi_q @ (phi_k.mT @ v) / (phi_q @ phi_k.sum(2)[..., None])
        errors.append((read - exact).norm() / exact.norm())
    return float(torch.stack(errors).square().mean().sqrt())


@pytest.mark.parametrize(
    ("name", "settings", "scale", "largest"),
    [("performer", {}, 0.25, 0.03), ("performer", {"temperature": 1.0}, 1.0, 0.1), ("rfa", {}, 1.0, 0.06)],
)
def test_sixteen_times_the_features_quarter_the_error(name, settings, scale, largest):
    """Of unit queries and keys; a bias that stayed would stop the fall."""
    errors = [error(name, m, scale=scale, **settings) for m in (64, 256, 1024, 4096)]
    for fewer, more in zip(errors, errors[2:], strict=False):
        assert 0.18 < more / fewer < 0.34, errors
    assert errors[2] < largest, errors


@pytest.mark.parametrize(("name", "settings"), [("performer", {}), ("rfa", {"width": 1.3})])
def test_the_mean_estimate_is_the_kernel(name, settings):
    q, k, _ = points(1.2, n=5)
    draws = []
    for seed in range(100):
        mixer = unit(name, seed, num_features=48, **settings)
        phi_q, phi_k = mixer.features(q), mixer.features(k)
        draws.append(phi_q @ phi_k.mT / (48 if name == "performer" else 1))
    estimate = torch.cat(draws)
    if name == "performer":
        exact = (q @ k.mT / 4).exp()
    else:
        exact = (
            -(normalize(q, dim=-1)[..., None, :] - normalize(k, dim=-1)[..., None, :, :]).square().sum(-1) / 2 / 1.3**2
        ).exp()
    z = (estimate.mean(0) - exact[0]) / (estimate.std(0) / 100**0.5)
    assert z.abs().max() < 4, z


def test_a_performer_of_large_norms_is_a_kernel_of_its_own():
    assert error("performer", 1024, norm=4.0) > 0.3 > 0.1 > error("performer", 1024, norm=2.0)


def test_projections_are_orthogonal_gaussian_and_without_a_mean():
    torch.manual_seed(0)
    w = orthogonal(2, 40, 16)
    assert w.shape == (2, 40, 16)
    for block in (w[:, :16], w[:, 16:32], w[:, 32:]):
        gram = normalize(block, dim=-1) @ normalize(block, dim=-1).mT
        torch.testing.assert_close(gram, torch.eye(block.shape[1]).expand_as(gram), rtol=0, atol=1e-5)
    w = orthogonal(1, 2**16, 16)[0]
    torch.testing.assert_close(w.mT @ w / len(w), torch.eye(16), rtol=0, atol=0.03)
    assert w.mean(0).norm() < 2 * (16 / len(w)) ** 0.5  # QR without signs would leave 0.17
    rows = w.unflatten(0, (-1, 16))  # each row of a block, too
    assert rows.mean(0).norm() < 2 * 16 / len(rows) ** 0.5


def test_no_key_is_too_large():
    """In float32, wide heads included, where |w|^2 / 2 would overflow the exponential."""
    torch.manual_seed(0)
    mixer = make_mixer("performer", Site(1, 256, 1, 0), {})
    for p in (mixer.to_q.weight, mixer.to_kv.weight[:256]):
        torch.nn.init.eye_(p.data)
    worst = 4 * mixer.w[0, :7] * torch.tensor([0.01, 0.1, 0.5, 1.0, 2.0, 10.0, 1e3])[:, None]  # k' = w is the largest
    h = worst[None].requires_grad_()
    ctx = Tokens(h, h[..., :1], None, count(None, h))
    read = mixer.read(ctx, mixer.summarise(ctx)[0])
    read.sum().backward()
    assert read.isfinite().all() and h.grad.isfinite().all()


def test_features_of_keys_are_told_from_zero_at_any_norm():
    """In float32: all of a context that large keys made look empty is read as in float64, and half of it removed."""
    torch.manual_seed(0)
    mixer = make_mixer("performer", Site(1, 64, 1, 0), {})
    h = torch.nn.functional.layer_norm(torch.randn(3, 20, 64), (64,))
    for factor in (1.0, 16.0, 256.0):
        ctx = Tokens(factor * h, h[..., :1], None, count(None, h))
        state, _ = mixer.float().summarise(ctx)
        assert (state.z > 1e-27).all() and (state.z < 1e28).all()
        read = mixer.read(ctx, state)
        ctx, half = (t._replace(h=t.h.double()) for t in (ctx, ctx._replace(h=factor * h[:, 10:])))
        exact = mixer.double().read(ctx, mixer.summarise(ctx)[0])
        torch.testing.assert_close(read.double(), exact, rtol=2e-3, atol=2e-3)
        assert (exact - mixer.to_out.bias).norm(dim=-1).min() > 0.3
        left = mixer.retract(mixer.summarise(ctx)[0], half)[0]
        torch.testing.assert_close(left.z, mixer.summarise(ctx._replace(h=ctx.h[:, :10]))[0].z)


@pytest.mark.parametrize(("dz", "bound"), [(16, 6.7), (64, 5.0), (1024, 1.7)])
def test_norms_are_left_alone_up_to_half_their_bound(dz, bound):
    torch.manual_seed(0)
    mixer = make_mixer("performer", Site(1, dz, 1, 0), {}).double()
    y = normalize(torch.randn(1, 1, 8, dz, dtype=torch.float64), dim=-1)
    norms = [float(mixer._scale(r * dz**0.25 * y).norm(dim=-1).mean()) for r in (bound / 2, 1e2, 1e6)]
    assert 0.98 < norms[0] / (bound / 2) <= 1 and bound < norms[1] <= norms[2] + 1e-9 < 1.1 * bound, norms
    features = torch.cat([mixer.features(sign * 1e6 * mixer.w[None]) for sign in (1, -1)])
    assert features.log().abs().max() < 60.001


def test_noise_is_not_divided_by():
    """Narrow kernels of few features give negative denominators; what is read stays of the size of the values."""
    torch.manual_seed(0)
    mixer = make_mixer("rfa", SITE, {"num_features": 8, "width": 0.3}).double()
    q, k, _ = points()
    assert (mixer.features(q) @ mixer.features(k).sum(2)[..., None]).min() < 0
    h = torch.cat([q[0], k[0]], 1)
    ctx = Tokens(h, h[..., :1], None, count(None, h))
    state = mixer.summarise(ctx)[0]
    values = mixer.to_kv(h)[..., 16:].norm(dim=-1).max()
    assert (mixer.read(ctx, state) - mixer.to_out.bias).norm(dim=-1).max() < 100 * values


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("performer", {"num_features": 0}),
        ("performer", {"temperature": 0.0}),
        ("rfa", {"num_features": 0}),
        ("rfa", {"width": 0.0}),
    ],
)
def test_impossible_settings_are_refused(name, settings, untyped):
    with pytest.raises(ConfigError, match="at least"):
        unit(name, **settings)
