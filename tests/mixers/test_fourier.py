"""Fourier mixing over places: against complex sums point by point, and against the transform it takes its name from."""

import cmath

import pytest
import torch

from npexp.batch import count
from npexp.errors import ConfigError
from npexp.layers.embedding import PointEmbedding
from npexp.mixers.base import Site, Tokens, make_mixer
from npexp.mixers.stack import Stack
from npexp.models.transformer import TransformerNP
from tests.contracts import checks
from tests.contracts.checks import CLOSE


def tokens(n: int = 9, dx: int = 2, seed: int = 0) -> Tokens:
    g = torch.Generator().manual_seed(seed)
    h, x = (torch.randn(3, n, d, generator=g, dtype=torch.float64) for d in (6, dx))
    mask = torch.arange(n) < torch.tensor([[n], [n // 2], [0]])
    return Tokens(torch.where(mask[..., None], h, 1e3), x, mask, count(mask, h))


def mixer(dx: int = 2, **settings):
    torch.manual_seed(0)
    return make_mixer("fnet_x", Site(dx, 6, 2, 0), settings).double()


def test_values_and_gradients_of_complex_sums():
    unit, ctx, q = mixer(num_frequencies=3), tokens(7), tokens(3, seed=1)
    ctx.h.requires_grad_()
    found, rows = unit.read(q, unit.summarise(ctx)[0]), []
    for i, n in enumerate(ctx.n.tolist()):
        for x in q.x[i]:
            row = torch.zeros(6, dtype=torch.float64)
            for w in unit.frequencies:
                for j in range(n):
                    row = row + (cmath.exp(1j * float(w @ (x - ctx.x[i, j]))) * torch.fft.fft(ctx.h[i, j])).real
            rows.append(row / (3**0.5 * 6**0.5 * max(n, 1)))
    expected = torch.stack(rows).unflatten(0, (3, 3))
    torch.testing.assert_close(found, expected, **CLOSE)
    gradients = [torch.autograd.grad(o.square().sum(), ctx.h)[0] for o in (found, expected)]
    torch.testing.assert_close(*gradients, **CLOSE)
    assert gradients[0][~ctx.mask].abs().max() == 0


def test_on_a_grid_with_all_its_frequencies_points_get_back_their_own_transform():
    """The inverse of the published transform over ranks undoes it, and leaves the one over channels."""
    unit, n = mixer(dx=1, num_frequencies=8), 8
    unit.frequencies.copy_(2 * torch.pi * torch.arange(n, dtype=torch.float64)[:, None] / n)
    h = tokens(n, dx=1).h[:1]
    ctx = Tokens(h, torch.arange(n, dtype=torch.float64)[None, :, None], None, count(None, h))
    spectrum = torch.fft.fft2(h)  # ranks and channels
    state, _ = unit.summarise(ctx)
    z = torch.fft.fft(torch.complex(state.s[:, 0], -state.s[:, 1]))
    torch.testing.assert_close(z, spectrum, **CLOSE)
    torch.testing.assert_close(unit.read(ctx, state) * (6 * n) ** 0.5, torch.fft.fft(h).real, **CLOSE)


def test_only_differences_of_x_matter():
    unit, ctx, q = mixer(), tokens(), tokens(4, seed=1)
    before = unit.read(q, unit.summarise(ctx)[0])
    step = torch.tensor([3.7, -11.0], dtype=torch.float64)
    moved = unit.read(q._replace(x=q.x + step), unit.summarise(ctx._replace(x=ctx.x + step))[0])
    torch.testing.assert_close(moved, before, **CLOSE)


@pytest.mark.parametrize("step", [64.0, 1024.0, 16384.0])
def test_far_from_the_origin_in_float32(step):
    """Steps that float32 adds without rounding."""
    unit, ctx, q = mixer().float(), tokens(), tokens(4, seed=1)
    ctx, q = (t._replace(h=t.h.float(), x=(t.x * 512).round().float() / 512) for t in (ctx, q))
    before = unit.read(q, unit.summarise(ctx)[0])
    moved = unit.read(q._replace(x=q.x + step), unit.summarise(ctx._replace(x=ctx.x + step))[0])
    assert (moved - before).norm() < 1e-6 * before.norm()


def test_model_without_positions_in_tokens():
    """The trait where it counts: in a model that sees x through the mixer only."""
    torch.manual_seed(0)
    embedding = PointEmbedding(2, 2, 16, 2, True, True, absolute=False)
    model = TransformerNP(2, 2, embedding, Stack(2, "fnet_x", 2, 16, 2, 16), 16, 16, None, False).double()
    assert model.traits["translation_equivariant"]
    for check in (checks.translation_equivariant, checks.padding_is_inert, checks.small_contexts_work):
        check(model)


def test_zero_frequency_alone_is_the_mean():
    unit, ctx = mixer(num_frequencies=1), tokens()
    mean = torch.stack([ctx.h[i, :n].sum(0) / max(n, 1) for i, n in enumerate(ctx.n)])
    expected = torch.fft.fft(mean, norm="ortho").real[:, None].expand_as(ctx.h)
    torch.testing.assert_close(unit.read(ctx, unit.summarise(ctx)[0]), expected, **CLOSE)


def test_places_survive_half_precision():
    unit, ctx = mixer().float(), tokens()
    ctx = ctx._replace(h=ctx.h.float(), x=ctx.x.float())
    with torch.autocast("cpu", torch.bfloat16):
        low = unit.read(ctx, unit.summarise(ctx)[0])
    torch.testing.assert_close(low, unit.read(ctx, unit.summarise(ctx)[0]))


@pytest.mark.parametrize("settings", [{"num_frequencies": 0}, {"max_frequency": -1.0}])
def test_impossible_settings_are_refused(settings, untyped):
    with pytest.raises(ConfigError, match="at least"):
        mixer(**settings)
