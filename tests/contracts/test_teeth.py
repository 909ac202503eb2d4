"""Deliberately broken mixers fail the check that is meant for them, and a sound one of a new kind passes."""

from typing import ClassVar, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from npexp.layers.attention import Attention, KeyValue
from npexp.mixers import base
from npexp.mixers.base import Mixer
from npexp.mixers.dense import Dense
from tests.contracts import checks, units
from tests.contracts.checks import tiny_mixer


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


class Unordered(Dense):
    """Says that the order matters, though it does not."""

    permutation_invariant = False


class Sum(NamedTuple):
    """Of values, `[b, dz]`, and the number of points, `[b]`."""

    s: Tensor
    n: Tensor


class Mean(Mixer):
    """Rows multiply the context's mean: the smallest sound mixer."""

    def __init__(self, site):
        super().__init__()
        self.to_q, self.to_v = nn.Linear(site.dz, site.dz), nn.Linear(site.dz, site.dz)

    def summarise(self, ctx, carry=None):
        v = self.to_v(ctx.h)
        v = v.to(torch.promote_types(v.dtype, torch.float32))
        if ctx.mask is not None:
            v = torch.where(ctx.mask[..., None], v, torch.zeros_like(v))
        return Sum(v.sum(1), ctx.n), carry

    def read(self, q, state):
        return self.to_q(q.h) * (state.s / state.n.clamp_min(1)[:, None])[:, None]


class Unguarded(Mean):
    """Divides by the number of points, of which there may be none."""

    def read(self, q, state):
        return self.to_q(q.h) * (state.s / state.n[:, None])[:, None]


class Rooted(Dense):
    """Sees distances from the origin, whose gradient is not finite there."""

    def summarise(self, ctx, carry=None):
        return super().summarise(ctx._replace(h=ctx.h * (1 + ctx.x.square().sum(-1, keepdim=True).sqrt())), carry)


class Flat(Mean):
    """Hides the tasks behind another axis."""

    def summarise(self, ctx, carry=None):
        state, carry = super().summarise(ctx, carry)
        return state._replace(s=state.s.mT), carry

    def read(self, q, state):
        return super().read(q, state._replace(s=state.s.mT))


class Boastful(Dense):
    """Promises a constant state."""

    state = "constant"


class Blind(Dense):
    """Promises to see where points are."""

    translation_equivariant = True


class Anchored(Blind):
    """Sees where points are, from the origin."""

    def summarise(self, ctx, carry=None):
        return super().summarise(ctx._replace(h=ctx.h * ctx.x[..., :1]), carry)


class Relative(Mean):
    """Sees differences of inputs only, without saying so."""

    def read(self, q, state):
        return super().read(q, state) * (q.x - q.x[:, :1]).norm()


class Rough(Dense):
    """Rounds its state."""

    def summarise(self, ctx, carry=None):
        state, carry = super().summarise(ctx, carry)
        return state._replace(k=state.k.bfloat16()), carry


class Noisy(Dense):
    """Draws anew in every pass."""

    def read(self, q, state):
        return super().read(q, state) + torch.randn(q.h.shape[-1], dtype=q.h.dtype)


class Idle(Dense):
    """Has weights that nothing depends on."""

    def __init__(self, site):
        super().__init__(site)
        self.idle = nn.Linear(site.dz, site.dz)


class Restless(Dense):
    """Moves a statistic whether or not a loss is being computed."""

    def __init__(self, site):
        super().__init__(site)
        self.register_buffer("mean", torch.zeros(site.dz))

    def summarise(self, ctx, carry=None):
        if self.training:
            self.mean.add_(ctx.h.detach().sum((0, 1)))
        return super().summarise(ctx, carry)


class Unsaved(Dense):
    """Keeps something random that is not saved."""

    def __init__(self, site):
        super().__init__(site)
        self.register_buffer("scale", torch.rand(site.dz), persistent=False)

    def read(self, q, state):
        return super().read(q._replace(h=q.h * self.scale), state)


class Understated(Dense):
    """Promises linear time."""

    exponent = 1.0


class Wasteful(Mean):
    """Takes quadratic memory without an operation."""

    def summarise(self, ctx, carry=None):
        torch.zeros(ctx.h.shape[1], ctx.h.shape[1])
        return super().summarise(ctx, carry)


class Scaled(Dense):
    """Is not dense attention, though it looks like it."""

    dense_limit: ClassVar = {}

    def read(self, q, state):
        return 1.01 * super().read(q, state)


class Near(Mixer):
    """Reads the neighbours within three ranks: a sound local mixer."""

    needs_order, permutation_invariant, update, state = True, False, "local", "grows"
    exponent = 2.0  # its mask is as large as the context squared
    width = 3

    def __init__(self, site):
        super().__init__()
        self.attention = Attention(site.dz, site.num_heads)

    @property
    def reach(self):
        return 3

    def summarise(self, ctx, carry=None):
        return self.attention.project(ctx.h, ctx.mask), carry

    def read(self, q, state: KeyValue) -> Tensor:
        near = (torch.arange(state.k.shape[2]) - q.pos[..., None]).abs() <= self.width
        return self.attention(q.h, state._replace(mask=near if state.mask is None else near & state.mask[:, None]))


class Far(Near):
    """Reaches further than it says."""

    width = 4


class Alone(Near):
    """Reaches nobody."""

    width = 0


@pytest.fixture
def as_broken(monkeypatch):
    """Registers a mixer for this test."""
    return lambda cls: monkeypatch.setitem(base._REGISTRY, "broken", (cls, {}))


@pytest.mark.parametrize(
    ("mixer", "check"),
    [
        (Leaky, checks.targets_do_not_interact),
        (Forgetful, checks.padding_is_inert),
        (Coupled, checks.tasks_do_not_interact),
        (Ordered, checks.permutation_invariant),
        (Idle, checks.every_parameter_learns),
    ],
    ids=lambda v: v.__name__,
)
def test_models_with_broken_mixers(mixer, check, as_broken):
    as_broken(mixer)
    with pytest.raises(AssertionError):
        check(tiny_mixer("broken", "read"))


@pytest.mark.parametrize(
    ("mixer", "check"),
    [
        (Ordered, units.order_as_declared),
        (Unordered, units.order_as_declared),
        (Forgetful, units.pads_are_inert),
        (Coupled, units.tasks_are_alone),
        (Leaky, units.rows_are_alone),
        (Unguarded, units.small_contexts_work),
        (Rooted, units.ties_are_ordinary),
        (Flat, units.states_belong_to_tasks),
        (Boastful, units.state_bytes_as_declared),
        (Blind, units.translation_as_declared),
        (Anchored, units.translation_as_declared),
        (Relative, units.translation_as_declared),
        (Rough, units.precision_as_promised),
        (Noisy, units.runs_are_repeatable),
        (Restless, units.runs_are_repeatable),
        (Unsaved, units.state_dict_is_complete),
        (Understated, units.growth_as_declared),
        (Wasteful, units.growth_as_declared),
        (Scaled, units.dense_in_the_limit),
        (Far, units.end_is_local),
        (Alone, units.end_is_local),
    ],
    ids=lambda v: v.__name__,
)
def test_broken_mixers(mixer, check, as_broken):
    as_broken(mixer)
    with pytest.raises(AssertionError):
        check("broken")


def test_every_check_has_teeth():
    """Each check of the kit is one that some mixer above fails."""
    mark = next(m for m in test_broken_mixers.pytestmark if m.name == "parametrize")
    tested = {check for _, check in mark.args[1]}
    assert tested == {*units.ALWAYS, units.dense_in_the_limit, units.end_is_local}


@pytest.mark.parametrize(
    ("mixer", "check"),
    [*((m, c) for m in (Mean, Near) for c in units.ALWAYS), (Near, units.end_is_local)],
    ids=lambda v: v.__name__,
)
def test_sound_mixers(mixer, check, as_broken):
    """So it is not the kit's own sites and tasks that fail above."""
    as_broken(mixer)
    check("broken")
