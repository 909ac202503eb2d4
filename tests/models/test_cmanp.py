"""What repairs CMANP: offsets from places, and ridge moments beside the latents."""

import math

import pytest
import torch

import npexp
from npexp.errors import ConfigError, DataError
from npexp.likelihoods import DiagonalGaussian, Gaussian, NormalMixture, StudentT
from npexp.mixers.base import Site, Tokens, make_mixer
from npexp.models import CMANP
from npexp.ops.tree import nbytes
from tests.contracts.checks import tasks, tiny
from tests.models.test_fold import gradients_as_ever

REPAIRED = {"location_range": 1.0, "offsets": True, "num_features": 8}


def unit(**settings):
    torch.manual_seed(0)
    settings = {"num_latents": 3, "num_block_latents": 5, "location_range": 1.5, **settings}
    return make_mixer("cmab", Site(dx=2, dz=16, num_heads=2, layer=0), settings).double()


def tokens(h, x):
    return Tokens(h, x, None, torch.full((len(h),), h.shape[1]))


def test_pools_average_where_points_lie():
    """Against the softmax spelt out; values are as without offsets."""
    mixer, h, x = unit(offsets=True), torch.randn(3, 20, 16).double(), torch.randn(3, 20, 2).double()
    plain = unit()
    plain.load_state_dict({k: v for k, v in mixer.state_dict().items() if k != "away.weight"})
    found, without = (m.summarise(tokens(h, x))[0].part for m in (mixer, plain))
    assert found.out.shape == (3, 2, 5, 8 + 2)
    torch.testing.assert_close((found.out[..., :8], found.lse), tuple(without), rtol=0, atol=1e-12)
    latents = mixer.norm_pool(mixer.block_latents + mixer.pool_places.code())
    q = mixer.pool.to_q(latents).unflatten(-1, (2, 8)).transpose(0, 1)  # [h, m, dh]
    k = mixer.pool.to_kv(h)[..., :16].unflatten(-1, (2, 8)).transpose(1, 2)  # [b, h, n, dh]
    distance = torch.cdist(mixer.pool_places.x.expand(3, -1, -1), x)  # [b, m, n]
    logits = q @ k.mT / math.sqrt(8) - 0.5 * (distance[:, None] / mixer.pool_places.width[:, None, None]) ** 2
    torch.testing.assert_close(found.out[..., 8:], logits.softmax(-1) @ x[:, None], rtol=0, atol=1e-12)


def test_offsets_are_those_of_a_single_point():
    """In units of each head's width; a latent that has seen nothing is told nothing."""
    mixer, told = unit(offsets=True), []
    mixer.away.register_forward_hook(lambda _, given, out: told.append(given[0]))
    point = torch.tensor([[[0.3, -0.7]]]).double()
    mixer.summarise(tokens(torch.randn(1, 1, 16).double(), point))
    mixer.summarise(tokens(torch.randn(1, 0, 16).double(), point[:, :0]))
    steps = (point[0] - mixer.pool_places.x)[:, None] / mixer.pool_places.width[:, None]  # [m, h, dx]
    torch.testing.assert_close(told[0][0], steps.flatten(1), rtol=0, atol=1e-12)
    assert not told[1].any()


def test_widths_are_those_that_places_start_with():
    places = unit().pool_places
    torch.testing.assert_close(places.width, torch.tensor([1.5, 0.15]).double(), rtol=1e-5, atol=0)


def test_moments_are_sums_through_updates_and_removals():
    model, t = tiny("cmanp", **REPAIRED | {"location_range": 6.0}), tasks(nc=9)  # places that see far
    state = model.encode(t.xc[:, :4], t.yc[:, :4])
    state = model.remove(model.update(state, t.xc[:, 4:], t.yc[:, 4:]), t.xc[:, 2:6], t.yc[:, 2:6])
    x, y = (torch.cat([v[:, :2], v[:, 6:]], 1) for v in (t.xc, t.yc))
    phi, found = model.ridge.basis(model.domain("context", x)), state.summary.moments
    torch.testing.assert_close(found.cross, torch.einsum("bnm,bnd->bmd", phi, y), rtol=0, atol=1e-12)
    i, j = torch.tril_indices(8, 8)
    torch.testing.assert_close(found.gram, torch.einsum("bnm,bnk->bmk", phi, phi)[:, i, j], rtol=0, atol=1e-12)
    assert found.count.tolist() == [5, 5, 5]


def test_a_window_slides_over_a_stream_without_a_trace():
    """Thirty insertions and removals in a float32 model whose state is float64, against encoding what is left."""
    torch.manual_seed(0)
    small = {"dz": 16, "num_layers": 2, "num_heads": 2, "num_latents": 4, "num_block_latents": 4, "dim_feedforward": 16}
    predictor = npexp.Predictor(CMANP(1, 1, **small, location_range=2.0, offsets=True, num_features=16))
    x = 4 * torch.rand(70, generator=torch.Generator().manual_seed(1)) - 2
    y, xt = (3 * x).sin(), torch.linspace(-2, 2, 30)
    state = predictor.condition(x[:40], y[:40])
    for i in range(30):
        state = predictor.update(state, x[40 + i, None], y[40 + i, None])
        state = predictor.remove(state, x[i, None], y[i, None])
    found, expected = (predictor.predict(s, xt) for s in (state, predictor.condition(x[30:70], y[30:70])))
    assert int(state.n) == 40
    torch.testing.assert_close((found.mean, found.stddev), (expected.mean, expected.stddev), rtol=0, atol=1e-6)


def test_an_untrained_law_is_what_the_regressions_say():
    """Beside a free normal of their moments, which has 0.27 of the weight."""
    torch.manual_seed(0)
    model, t = CMANP(2, 2, dz=16, num_layers=1, num_latents=3, num_block_latents=4, **REPAIRED).double().eval(), tasks()
    t = t._replace(xc=t.xc.clamp(-2, 2), xt=t.xt.clamp(-2, 2))
    state = model.encode(t.xc, t.yc)
    law, solved = model.predict(state, t.xt), model.ridge.solve(state.summary.moments)
    experts = model.ridge.read(solved, t.xt)
    torch.testing.assert_close(law.mean, experts.mean, rtol=0, atol=1e-10)
    phi, bank = model.ridge.basis(t.xc), solved.bank
    for k in range(4):  # the learned priors: ridge regression in the data's own space
        prior = bank.scale[0, k].square()
        inner = (phi[0] * prior) @ phi[0].T + torch.eye(7).double()
        known = model.ridge.basis(t.xt)[0] * prior @ phi[0].T @ torch.linalg.solve(inner, t.yc[0])
        torch.testing.assert_close(experts.means[0, ..., k], known, rtol=0, atol=1e-7)


def test_who_says_what_is_predicted():
    for settings, law in (
        ({"likelihood": None}, DiagonalGaussian),
        ({"num_features": 8, "likelihood": None}, NormalMixture),
        ({"num_features": 8, "likelihood": Gaussian()}, DiagonalGaussian),
        ({"num_features": 8, "likelihood": StudentT()}, npexp.likelihoods.IndependentStudentT),
    ):
        t = tasks()
        assert type(tiny("cmanp", **settings)(t.xc, t.yc, t.xt)) is law


def test_the_state_is_as_large_as_documented():
    """Pools and moments in float64, latents in float32."""
    small = {"dz": 16, "num_layers": 3, "num_heads": 2, "num_latents": 5, "num_block_latents": 7, "offsets": True}
    model = npexp.build("cmanp", dx=1, dy=1, **small, num_features=10, likelihood=None)
    with torch.inference_mode():
        state = model.encode(*2 * [torch.zeros(1, 3, 1)])
    pools, latents, moments = 3 * 7 * (16 + 2 * 2 + 2 * 1), 3 * 5 * 16, 10 * 11 // 2 + 10 + 3
    assert nbytes(state.summary) == 8 * (pools + moments) + 4 * latents + 8  # and n


def test_gradients_reach_moments_and_offsets_chunk_by_chunk():
    gradients_as_ever(tiny("cmanp", **REPAIRED, likelihood=None))


def test_sorting_makes_moments_bitwise_the_same():
    model, t = tiny("cmanp", **REPAIRED, sort=True), tasks()
    order = torch.randperm(7, generator=torch.Generator().manual_seed(1))
    a, b = (model.encode(t.xc[:, i], t.yc[:, i]).summary.moments for i in (slice(None), order))
    for first, second in zip(a, b, strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_where_inputs_lie():
    """Moments want to know; without them nothing is looked at."""
    model, plain = CMANP(1, 1, num_features=8), CMANP(1, 1)
    for net in (model, plain):
        net.adapt(torch.tensor([[8.0], [16.0]]))
    far = torch.full((1, 2, 1), 20.0)
    with pytest.raises(DataError, match=r"context x = 20 lies far outside the domain \[8, 16\]"):
        model.encode(far, far)
    assert plain.encode(far, far).n.tolist() == [2]


def test_impossible_settings_are_refused():
    with pytest.raises(ConfigError, match="offsets are measured from latents' places: set location_range"):
        CMANP(1, 1, offsets=True)
    for size in (-1, 1):
        with pytest.raises(ConfigError, match="num_features"):
            CMANP(1, 1, num_features=size)
