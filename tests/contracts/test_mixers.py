"""The contract of a mixer, for every registered one in every wiring it takes: drop a file in and it is tested."""

import pytest
import torch

from npexp.batch import count
from npexp.errors import ConfigError, UnknownNameError, UnsupportedError
from npexp.mixers import base
from npexp.mixers.base import Mixer, Tokens
from npexp.mixers.dense import Dense
from tests.contracts import checks
from tests.contracts.checks import CLOSE, MIXERS, tasks, tiny_mixer

IDS = ["-".join(m) for m in MIXERS]


@pytest.mark.parametrize("check", checks.ALWAYS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("mixer", MIXERS, ids=IDS)
def test_contract(mixer, check):
    check(tiny_mixer(*mixer))


@pytest.mark.parametrize("mixer", MIXERS, ids=IDS)
def test_sorted_entry(mixer):
    """Sorted, any mixer is invariant bit for bit; the unsorted check above is the one that proves symmetry."""
    checks.permutation_invariant(tiny_mixer(*mixer, sort=True), exact=True)


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
    if model.stack.mixer.update == "none":
        with pytest.raises(UnsupportedError, match="re-encode"):
            model._extend(old.summary, new)
    else:
        wrong = model.predict(old._replace(summary=model._extend(old.summary, new)), t.xt)
        assert checks.differ(wrong, model(t.xc, t.yc, t.xt))


@pytest.mark.parametrize("mixer", sorted({m for m, _ in MIXERS}))
def test_extend_of_one_layer(mixer):
    """`update` is "layer" or "stack" exactly where extending one layer's summary equals a new one."""
    unit = base.make_mixer(mixer, base.Site(dx=2, dz=16, num_heads=2, layer=0)).double()
    t = tasks()
    h = torch.randn(3, 7, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ctx = Tokens(h, t.xc, None, count(None, h))
    old, new = (Tokens(h[:, s], t.xc[:, s], None, count(None, h[:, s])) for s in (slice(0, 3), slice(3, 7)))
    query = ctx._replace(h=h.flip(1))
    whole = unit.read(query, unit.summarise(ctx)[0])
    state, _ = unit.summarise(old)
    if unit.update == "none":
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


class Leaky(Dense):
    """Centres the queries on their mean, so that targets see each other: the mistake the suite exists for."""

    def read(self, q, state):
        return super().read(q._replace(h=q.h - q.h.mean(1, keepdim=True)), state)


class Forgetful(Dense):
    """Lets padded points into the softmax."""

    def summarise(self, ctx, carry=None):
        return super().summarise(ctx._replace(mask=None), carry)


class Coupled(Dense):
    """Scales by a statistic of the whole batch."""

    def summarise(self, ctx, carry=None):
        return super().summarise(ctx._replace(h=ctx.h / ctx.h.std()), carry)


class Ordered(Dense):
    """Weights points by their position in the array."""

    def summarise(self, ctx, carry=None):
        ramp = torch.linspace(0.5, 1.5, max(ctx.h.shape[1], 1), dtype=ctx.h.dtype)[: ctx.h.shape[1], None]
        return super().summarise(ctx._replace(h=ctx.h * ramp), carry)


@pytest.mark.parametrize(
    ("mixer", "check"),
    [
        (Leaky, checks.targets_do_not_interact),
        (Forgetful, checks.padding_is_inert),
        (Coupled, checks.tasks_do_not_interact),
        (Ordered, checks.permutation_invariant),
    ],
    ids=lambda v: v.__name__,
)
def test_the_suite_has_teeth(mixer, check, monkeypatch):
    """Deliberately broken mixers fail the check that is meant for them."""
    monkeypatch.setitem(base._REGISTRY, "broken", (mixer, {}))
    with pytest.raises(AssertionError):
        check(tiny_mixer("broken", "read"))


def test_unknown_mixer_and_settings(monkeypatch):
    with pytest.raises(UnknownNameError, match="did you mean 'dense'"):
        tiny_mixer("dens", None)
    with pytest.raises(ConfigError, match="did you mean 'num_latents'"):
        tiny_mixer("ist", None, mixer_args={"num_latentz": 3})
    with pytest.raises(ConfigError, match="takes context=raw"):
        tiny_mixer("cmab", "read")
    with pytest.raises(ConfigError, match="multiple of num_heads"):
        tiny_mixer("dense", None, num_heads=3)


def test_every_mixer_declares_valid_traits():
    for name, cls in base.registered().items():
        assert issubclass(cls, Mixer), name
        assert cls.update in ("stack", "layer", "none") and cls.state in ("constant", "grows"), name
        assert cls.contexts and set(cls.contexts) <= {"read", "raw"}, name
        assert not cls.removable or cls.update != "none", name
