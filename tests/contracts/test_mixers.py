"""The contract of a mixer, for every registered one in every wiring it takes: drop a file in and it is tested."""

import re

import pytest
import torch

from npexp.batch import count
from npexp.errors import ConfigError, UnknownNameError, UnsupportedError
from npexp.mixer_table import FAMILIES
from npexp.mixers import base
from npexp.mixers.base import Mixer, Tokens
from tests.contracts import checks, units
from tests.contracts.checks import CLOSE, MIXERS, tasks, tied_tasks, tiny_mixer

IDS = ["-".join(m) for m in MIXERS]
CLASSES = base.registered()

# what the wiring of the layers has no part in is looked at in the default one only, for the sake of time
IN_ONE_WIRING = {
    checks.translation_equivariant,
    checks.padding_is_inert_in_training,
    checks.train_is_eval,
    checks.joint_as_claimed,
    checks.low_precision_state,
}


DEFAULT = {(name, cls.contexts[0]) for name, cls in CLASSES.items()}
WIRED = [(m, c) for m in MIXERS for c in checks.ALWAYS if m in DEFAULT or c not in IN_ONE_WIRING]


@pytest.mark.parametrize(("mixer", "check"), WIRED, ids=[f"{'-'.join(m)}-{c.__name__}" for m, c in WIRED])
def test_contract(mixer, check, request):
    if check not in checks.TYPED:
        request.getfixturevalue("untyped")
    check(tiny_mixer(*mixer))


@pytest.mark.parametrize("mixer", MIXERS, ids=IDS)
def test_sorted_entry(mixer, untyped):
    """Sorted, any mixer is invariant bit for bit; the unsorted check above is the one that proves symmetry."""
    model = tiny_mixer(*mixer, sort=True)
    checks.permutation_invariant(model, exact=True)
    checks.permutation_invariant(model, exact=True, t=tied_tasks())


@pytest.mark.parametrize("mixer", MIXERS, ids=IDS)
def test_every_parameter_learns_under_pre_norm(mixer):
    """Layer norms then stand in other places; processes that train together wait for each weight's gradient."""
    checks.every_parameter_learns(tiny_mixer(*mixer, norm_first=True))


@pytest.mark.parametrize("check", units.ALWAYS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("mixer", CLASSES)
def test_unit(mixer, check, request):
    """Two bare layers and tasks that outgrow default sizes."""
    if check not in units.TYPED:
        request.getfixturevalue("untyped")
    check(mixer)


@pytest.mark.parametrize("mixer", [name for name, cls in CLASSES.items() if cls.dense_limit is not None])
def test_dense_in_the_limit(mixer):
    units.dense_in_the_limit(mixer)


@pytest.mark.parametrize("mixer", [name for name, cls in CLASSES.items() if cls.update == "local"])
def test_end_is_local(mixer):
    units.end_is_local(mixer)


@pytest.mark.parametrize("mixer", MIXERS, ids=IDS)
def test_updates_and_removals_as_claimed(mixer):
    model = tiny_mixer(*mixer)
    if model.traits["update"] == "exact":
        checks.chunks_do_not_matter(model)
    if model.traits["remove"] == "exact":
        checks.remove_undoes_update(model)


@pytest.mark.parametrize("mixer", MIXERS, ids=IDS)
def test_extend_where_it_is_not_exact(mixer):
    """The negative side: where the traits do not promise exactness through the stack, `extend` must not give it."""
    model = tiny_mixer(*mixer)
    if model.stack.updatable:
        return
    t = tasks()
    old, new = model.encode(t.xc[:, :4], t.yc[:, :4]), model._points(t.xc[:, 4:], t.yc[:, 4:], None)
    if model.stack.mixer.update in ("none", "local"):
        with pytest.raises(UnsupportedError, match="re-encode"):
            model._extend(old.summary, new)
    else:
        wrong = model.predict(old._replace(summary=model._extend(old.summary, new)), t.xt)
        assert checks.differ(wrong, model(t.xc, t.yc, t.xt))


@pytest.mark.parametrize("mixer", CLASSES)
def test_extend_of_one_layer(mixer):
    """`update` is "layer" or "stack" exactly where extending one layer's summary equals a new one."""
    unit = base.make_mixer(mixer, base.Site(dx=2, dz=16, num_heads=2, layer=0)).double()
    t = tasks()
    h = torch.randn(3, 7, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    slot = torch.arange(7).expand(3, 7)
    ctx = Tokens(h, t.xc, None, count(None, h), slot if unit.needs_order else None, None, slot)
    old, new = (units.rows(ctx, s, n=count(None, h[:, s])) for s in (slice(0, 3), slice(3, 7)))
    query = ctx._replace(h=h.flip(1))
    whole = unit.read(query, unit.summarise(ctx)[0])
    state, _ = unit.summarise(old)
    if unit.update in ("none", "local"):
        with pytest.raises(UnsupportedError):
            unit.extend(state, new)
        return
    extended, _ = unit.extend(state, new)
    torch.testing.assert_close(unit.read(query, extended), whole, **CLOSE)
    if unit.removable:
        back, _ = unit.retract(extended, new)
        torch.testing.assert_close(unit.read(query, back), unit.read(query, state), **CLOSE)
    else:
        with pytest.raises(UnsupportedError):
            unit.retract(extended, new)


def test_unknown_mixer_and_settings(monkeypatch):
    with pytest.raises(UnknownNameError, match="did you mean 'dense'"):
        tiny_mixer("dens", None)
    with pytest.raises(ConfigError, match="did you mean 'num_latents'"):
        tiny_mixer("ist", None, mixer_args={"num_latentz": 3})
    with pytest.raises(ConfigError, match="takes context=raw"):
        tiny_mixer("cmab", "read")
    with pytest.raises(ConfigError, match="multiple of num_heads"):
        tiny_mixer("dense", None, num_heads=3)


@pytest.mark.parametrize("mixer", CLASSES)
def test_traits_are_complete(mixer):
    cls = CLASSES[mixer]
    assert issubclass(cls, Mixer) and cls.family in FAMILIES and cls.published and cls.cost
    assert cls.paper == "" or re.search(r"\d{4}\.\d{4,5}", cls.paper), "give the arXiv number"
    assert cls.update in ("stack", "layer", "local", "none") and cls.state in ("constant", "grows")
    assert cls.contexts and set(cls.contexts) <= {"read", "raw"}
    assert not cls.removable or cls.update in ("stack", "layer")
    assert cls.exponent >= 1
