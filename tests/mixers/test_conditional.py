"""Dense attention with other feed-forwards: what is mixed how, and where in a stack."""

import pytest
import torch

import npexp
from npexp.batch import count
from npexp.errors import ConfigError
from npexp.layers.block_sparse import BlockSparseFeedForward
from npexp.layers.conditional import active_parameters
from npexp.layers.factorised import LowRankLinear, MultiplicativeLinear
from npexp.layers.mixture_of_experts import MixtureOfExperts
from npexp.layers.mlp import FeedForward
from npexp.layers.product_key import ProductKeyMemory
from npexp.mixers.base import Site, Tokens, make_mixer
from npexp.mixers.dense import Dense
from npexp.objectives import loglik
from tests.contracts import checks
from tests.contracts.checks import CLOSE, tasks, tiny, tiny_mixer

SITE = Site(dx=2, dz=16, num_heads=2, layer=0)
NAMES = ["switch", "gshard", "glam", "product_key", "scaling", "low_rank"]


def tokens(n: int = 7) -> Tokens:
    g = torch.Generator().manual_seed(0)
    h, x = (torch.randn(3, n, d, generator=g, dtype=torch.float64) for d in (16, 2))
    return Tokens(h, x, None, count(None, h))


def feedforwards(name, **overrides):
    return [block.ff for block in tiny_mixer(name, "read", **overrides).stack.blocks]


@pytest.mark.parametrize("name", ["switch", "gshard", "glam", "product_key"])
def test_attention_is_dense(name):
    torch.manual_seed(0)
    mixer, dense, ctx = make_mixer(name, SITE).double(), make_mixer("dense", SITE).double(), tokens()
    dense.load_state_dict(mixer.state_dict())
    torch.testing.assert_close(mixer.read(ctx, mixer.summarise(ctx)[0]), dense.read(ctx, dense.summarise(ctx)[0]))


@pytest.mark.parametrize(("name", "of_kind"), [("scaling", MultiplicativeLinear), ("low_rank", LowRankLinear)])
def test_attention_is_dense_with_the_matrices_multiplied_out(name, of_kind):
    torch.manual_seed(0)
    mixer, dense, ctx = make_mixer(name, SITE).double(), Dense(SITE, bias=True).double(), tokens()
    with torch.no_grad():
        for key in ("to_q", "to_kv", "to_out"):
            part, whole = getattr(mixer.attention, key), getattr(dense.attention, key)
            assert isinstance(part, of_kind)
            zero = part(torch.zeros(1, 16).double())
            whole.weight.copy_((part(torch.eye(16).double()) - zero).mT)
            whole.bias.copy_(zero[0])
    torch.testing.assert_close(
        mixer.read(ctx, mixer.summarise(ctx)[0]), dense.read(ctx, dense.summarise(ctx)[0]), **CLOSE
    )


def test_which_layers_have_experts():
    assert [type(ff) for ff in feedforwards("switch")] == [MixtureOfExperts] * 3
    for name in ("gshard", "glam"):
        assert [type(ff) for ff in feedforwards(name)] == [MixtureOfExperts, FeedForward, MixtureOfExperts]
    assert [type(ff) for ff in feedforwards("product_key")] == [ProductKeyMemory] * 3
    assert [type(ff) for ff in feedforwards("scaling")] == [BlockSparseFeedForward] * 3
    assert all(
        isinstance(ff.up, LowRankLinear) and isinstance(ff.down, LowRankLinear) for ff in feedforwards("low_rank")
    )


def test_what_experts_are_like():
    for name, top_k, gated in (("switch", 1, False), ("gshard", 2, False), ("glam", 2, True)):
        layer = feedforwards(name, activation="relu", mixer_args={"num_experts": 3})[0]
        assert (len(layer.experts), layer.top_k, layer.experts[0].gated) == (3, top_k, gated)
    assert feedforwards("switch", activation="geglu")[0].experts[0].gated


def test_one_switch_expert_is_dense():
    """With one expert its gate is 1, and the model is the one without experts."""
    switch, dense, t = tiny("tnp", mixer="switch", mixer_args={"num_experts": 1}), tiny("tnp"), tasks()
    weights = {k.replace("ff.experts.0.", "ff."): v for k, v in switch.state_dict().items() if "router" not in k}
    dense.load_state_dict(weights)
    checks.same(switch(t.xc, t.yc, t.xt), dense(t.xc, t.yc, t.xt))


@pytest.mark.parametrize("name", ["switch", "gshard", "glam"])
def test_padding_is_no_load(name):
    """The loss of a ragged batch does not depend on what is in its padding, or how long that is."""
    model, t = tiny_mixer(name, "read", mixer_args={"balance": 1.0}).train(), tasks(b=1)
    batch = t._replace(xc=t.xc[:, :4], yc=t.yc[:, :4], xt=t.xt[:, :3], yt=t.yt[:, :3])
    short = loglik(model, batch, 1)
    padded = loglik(model, t._replace(mask_c=torch.arange(7)[None] < 4, mask_t=torch.arange(5)[None] < 3), 1)
    assert short.parts["penalty"] > 1
    torch.testing.assert_close(padded.parts["penalty"], short.parts["penalty"], **CLOSE)
    torch.testing.assert_close(padded.total, short.total, **CLOSE)


def test_penalties_survive_checkpointing():
    grads = []
    for switch in (False, True):
        model = tiny_mixer("gshard", "read", checkpoint=switch).train()
        loglik(model, tasks(), 1).total.backward()
        grads.append([p.grad for p in model.parameters()])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, **CLOSE)


@pytest.mark.parametrize("name", ["switch", "gshard", "glam", "product_key", "scaling"])
def test_fewer_parameters_are_active_than_there_are(name):
    model = npexp.build("tnp", dx=1, dy=1, mixer=name)
    total = sum(p.numel() for p in model.parameters())
    assert 0 < active_parameters(model) < total
    for whole in ("low_rank", "dense", "all_attention", "entmax"):
        model = npexp.build("tnp", dx=1, dy=1, mixer=whole)
        assert active_parameters(model) == sum(p.numel() for p in model.parameters())


def test_a_switch_is_as_active_as_dense_but_for_its_router():
    switch, dense = (npexp.build("tnp", dx=1, dy=1, mixer=name, num_layers=3) for name in ("switch", "dense"))
    assert active_parameters(switch) == active_parameters(dense) + 3 * 4 * 64
    shared = npexp.build("tnp", dx=1, dy=1, mixer="switch", share_layers=True)
    expert = FeedForward(64, 128, "relu")
    assert active_parameters(shared) == sum(p.numel() for p in shared.parameters()) - 3 * sum(
        p.numel() for p in expert.parameters()
    )


def test_low_rank_has_fewer_parameters_than_dense():
    low, dense = (npexp.build("tnp", dx=1, dy=1, mixer=name).stack for name in ("low_rank", "dense"))
    assert sum(p.numel() for p in low.parameters()) < 0.6 * sum(p.numel() for p in dense.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_training_steps_lower_the_loss(name):
    """Discrete choices included."""
    model, t = tiny_mixer(name, "read").train(), tasks()
    optimiser, losses = torch.optim.Adam(model.parameters(), 3e-3), []
    for _ in range(15):
        optimiser.zero_grad()
        loss = loglik(model, t, 1).total
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.1


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("switch", {"num_experts": 0}, "num_experts"),
        ("glam", {"num_experts": 1}, "num_experts to be an integer, at least 2"),
        ("gshard", {"balance": -0.1}, "balance"),
        ("product_key", {"num_keys": 4}, "num_keys to be an integer, at least 8"),
        ("scaling", {"block": 0}, "block"),
        ("scaling", {"rank": 0}, "rank"),
        ("low_rank", {"rank": 0}, "rank"),
    ],
)
def test_impossible_settings_are_refused(name, settings, message, untyped):
    with pytest.raises(ConfigError, match=message):
        tiny_mixer(name, "read", mixer_args=settings)
