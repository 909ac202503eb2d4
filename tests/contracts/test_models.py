"""The contract of a neural process, for every YAML under conf/model: drop one in and it is tested."""

import inspect

import pytest
import torch

import npexp
from npexp.errors import ConfigError, DataError, ShapeError, UnsupportedError
from npexp.models.latent import LatentNeuralProcess
from tests.contracts import checks
from tests.contracts.checks import MODELS, tasks, tiny


@pytest.mark.parametrize("check", checks.ALWAYS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("name", MODELS)
def test_contract(name, check, request):
    if check not in checks.TYPED:
        request.getfixturevalue("untyped")
    check(tiny(name))


@pytest.mark.parametrize("name", MODELS)
def test_updates_and_removals_as_claimed(name):
    model = tiny(name)
    if model.traits["update"] == "exact":
        checks.chunks_do_not_matter(model)
    if model.traits["remove"] == "exact":
        checks.remove_undoes_update(model)
        checks.float64_states_serve_float32_models(model)
    else:
        t = tasks()
        with pytest.raises(UnsupportedError, match="cannot remove"):
            model.remove(model.encode(t.xc, t.yc), t.xc, t.yc)


@pytest.mark.parametrize("name", [name for name in MODELS if isinstance(tiny(name), LatentNeuralProcess)])
def test_posterior_is_that_of_an_update(name):
    """Whatever it spares itself; with padding of NaN, and of tasks without a context."""
    model, t = tiny(name), tasks()
    keep = torch.arange(5) < torch.tensor([5, 2, 0])[:, None]
    x, y = (torch.where(keep[..., None], v, torch.nan) for v in (t.xt, t.yt))
    for nc in (7, 0):
        state = model.encode(t.xc[:, :nc], t.yc[:, :nc])
        for given in ((t.xt, t.yt), (x, y, keep)):
            found, expected = model.posterior(state, *given), model.distribution(model.update(state, *given))
            torch.testing.assert_close((found.mean, found.stddev), (expected.mean, expected.stddev), **checks.CLOSE)


@pytest.mark.parametrize("name", MODELS)
def test_sums_as_claimed(name, untyped):
    """Models whose traits say additive merge states and let points decay; all others refuse both."""
    model, t = tiny(name), tasks()
    state = model.encode(t.xc, t.yc)
    if not model.traits["additive"]:
        for verb in (lambda: model.merge(state, state), lambda: model.decay(state, 0.5)):
            with pytest.raises(UnsupportedError, match="traits say additive, such as"):
                verb()
        return
    checks.merge_is_encode(model)
    checks.decay_weighs_points(model)
    for other, why in ((model.encode(t.xc[:2], t.yc[:2]), "as many tasks, got 3 and 2"), (None, "got a NoneType")):
        with pytest.raises(ShapeError, match=why):
            model.merge(state, other)
    for gamma in (0, -0.5, 1.01, float("nan"), "0.5"):
        with pytest.raises(ConfigError, match="expected 0 < gamma <= 1"):
            model.decay(state, gamma)
    with pytest.raises(DataError, match="has decayed"):
        model.remove(model.decay(state, 0.9), t.xc, t.yc)
    assert model.remove(model.decay(state, 1.0), t.xc, t.yc).n.tolist() == [0, 0, 0]


def test_states_of_two_models_do_not_merge():
    t = tasks()
    states = [tiny("cnp", dz=dz).encode(t.xc, t.yc) for dz in (8, 16)]
    with pytest.raises(ShapeError, match="two states of one model"):
        tiny("cnp").merge(*states)


TRANSFORMERS = [name for name in MODELS if "sort" in inspect.signature(type(tiny(name))).parameters]


REPAIRED = {"offsets": True, "num_features": 8, "likelihood": None}
EXACT = [checks.chunks_do_not_matter, checks.remove_undoes_update, checks.float64_states_serve_float32_models]


@pytest.mark.parametrize("check", [*checks.ALWAYS, *EXACT], ids=lambda c: c.__name__)
@pytest.mark.parametrize("settings", [{"location_range": 0.1}, REPAIRED], ids=["near", "repaired"])
def test_contract_of_repaired_cmanp(check, settings):
    check(tiny("cmanp", **{"location_range": 1.0, **settings}))


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_contract_with_sorted_entry(name, untyped):
    for check in checks.ALWAYS:
        check(tiny(name, sort=True))


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_sorted_entry_makes_invariance_bitwise(name):
    checks.permutation_invariant(tiny(name, sort=True), exact=True)


@pytest.mark.parametrize("name", MODELS)
def test_state_dict_round_trip(name):
    a, b = tiny(name, seed=0), tiny(name, seed=1)
    t = tasks()
    assert checks.differ(a(t.xc, t.yc, t.xt), b(t.xc, t.yc, t.xt))
    b.load_state_dict(a.state_dict())
    checks.same(a(t.xc, t.yc, t.xt), b(t.xc, t.yc, t.xt), rtol=0, atol=0)


@pytest.mark.parametrize("name", MODELS)
def test_inference_mode_and_samples(name):
    model, t = tiny(name), tasks()
    with torch.inference_mode():
        pred = model(t.xc, t.yc, t.xt)
        torch.manual_seed(0)
        n = 20_000 if model.decoding is None else 4_000
        draws = pred.sample(n)
        if model.decoding is not None:  # stated moments are those of each target alone, which only the first one is
            draws, pred = draws[:, :, :1], model.predict(model.encode(t.xc, t.yc), t.xt[:, :1])
    assert draws.shape == (n, *pred.mean.shape)
    assert ((draws.mean(0) - pred.mean).abs() < 5 * pred.stddev / n**0.5).all()
    torch.testing.assert_close(draws.std(0), pred.stddev, rtol=0.07, atol=0)


@pytest.mark.parametrize("name", MODELS)
def test_wrong_shapes_are_refused(name, untyped):
    model, t = tiny(name), tasks()
    with pytest.raises(ShapeError, match="dx=1"):
        model.encode(t.xc[..., :1], t.yc)
    with pytest.raises(ShapeError, match="differ in tasks or points"):
        model.encode(t.xc[:, 1:], t.yc)
    with pytest.raises(ShapeError, match="boolean context mask"):
        model.encode(t.xc, t.yc, torch.ones(3, 4, dtype=torch.bool))
    with pytest.raises(ShapeError, match="expected xt"):
        model.predict(model.encode(t.xc, t.yc), t.xt[..., :1])
    with pytest.raises(ShapeError, match="3 tasks, got points of 2"):
        model.predict(model.encode(t.xc, t.yc), t.xt[:2])
    with pytest.raises(ShapeError, match="3 tasks, got points of 1"):
        model.update(model.encode(t.xc, t.yc), t.xc[:1], t.yc[:1])
    pred = model(t.xc, t.yc, t.xt)
    for wrong in (t.yt[..., 0], t.yt[:, :1], t.yt[..., :1]):
        for score in (pred.joint_log_prob, pred.marginal_log_prob):
            with pytest.raises(ShapeError, match="as predicted"):
                score(wrong)


def test_more_points_than_seen_cannot_be_removed():
    model, t = tiny("cnp"), tasks()
    with pytest.raises(DataError, match="more points than were seen"):
        model.remove(model.encode(t.xc[:, :1], t.yc[:, :1]), t.xc, t.yc)


PUBLISHED = {
    "paper/cnp": 215_682,
    "paper/np": 232_194,
    "paper/anp": 348_418,
    "paper/canp": 331_906,
    "paper/bnp": 248_450,
    "paper/banp": 364_674,
    "paper/tnpd": 222_082,
    "paper/tnpa": 222_082,
    "paper/tnpnd": 332_821,
    "paper/eqtnp": 492_354,
    "paper/lbanp": 792_514,
    "paper/lbanpnd": 903_253,
    "paper/cmanp": 1_341_634,
    "paper/cmanpand": 1_452_373,
}


def test_published_sizes():
    found = npexp.available_models()
    assert {name: found[name]["parameters"] for name in PUBLISHED} == PUBLISHED
    assert set(PUBLISHED) == {name for name in found if name.startswith("paper/")}


# the same presets on images: (dx, dy) = (2, 3) is CelebA, (2, 1) is EMNIST; the CNP family is deeper there
@pytest.mark.parametrize(
    ("name", "celeba", "emnist"),
    [
        ("paper/tnpd", 222_790, 222_146),
        ("paper/eqtnp", 493_126, 492_482),
        ("paper/lbanp", 793_286, 792_642),
        ("paper/tnpnd", 338_431, 332_885),
        ("paper/lbanpnd", 918_021 - 9_094, 911_959 - 8_578),  # the release less the head it does not use
        ("paper/cmanp", 1_342_406, 1_341_762),
    ],
)
def test_published_sizes_on_images(name, celeba, emnist):
    assert [sum(p.numel() for p in npexp.build(name, dx=2, dy=dy).parameters()) for dy in (3, 1)] == [celeba, emnist]


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("cnp", "dz"),
        ("np", "num_samples"),
        ("tnp", "num_layers"),
        ("lbanp", "num_latents"),
        ("cmanp", "num_block_latents"),
    ],
)
def test_impossible_sizes_are_refused(name, size, untyped):
    for value in (0, -3, 1.5):
        with pytest.raises(ConfigError, match="at least 1, got"):
            npexp.build(name, dx=1, dy=1, **{size: value})
