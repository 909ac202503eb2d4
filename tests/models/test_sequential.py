"""Models that read targets in an order: one pass against step by step, and against other models that must agree."""

import pytest
import torch

import npexp
from npexp.likelihoods import Decoding
from npexp.objectives import sequence
from tests.contracts.checks import CLOSE, differ, tasks, tiny

SEQUENTIAL = ["tnpa", "tnpa_buffer", "inctnp"]


def sequential(name, **overrides):
    return tiny(name, **({"buffer_size": 2} if name == "tnpa_buffer" else {}), **overrides)


def step_by_step(model, state, x, y, mask=None):
    """The chain rule spelled out: predict one target, take it in, go on."""
    verbs, total = model._verbs(), 0
    for i in range(x.shape[1]):
        now = (x[:, i : i + 1], y[:, i : i + 1], None if mask is None else mask[:, i : i + 1])
        total = total + model._predict(state, now[0], now[2]).joint_log_prob(now[1], now[2])
        state = verbs.absorb(state, *now)
    return total


@pytest.mark.parametrize("name", SEQUENTIAL)
@pytest.mark.parametrize("ragged", [False, True])
def test_one_pass_equals_step_by_step(name, ragged):
    model, t = sequential(name), tasks()
    mask_c, mask_t = (torch.arange(n) < torch.tensor([n, 2, 1])[:, None] if ragged else None for n in (7, 5))
    state = model.encode(t.xc, t.yc, mask_c)
    score = model.chain(state, t.xt, mask_t).joint_log_prob(t.yt, mask_t)
    torch.testing.assert_close(score, step_by_step(model, state, t.xt, t.yt, mask_t), **CLOSE)
    assert (score - model._predict(state, t.xt, mask_t).joint_log_prob(t.yt, mask_t)).abs().max() > 1e-4


@pytest.mark.parametrize("name", SEQUENTIAL)
def test_the_first_target_is_predicted_from_the_context_alone(name):
    model, t = sequential(name), tasks()
    law = model.chain(model.encode(t.xc, t.yc), t.xt[:, :1])
    torch.testing.assert_close(law.joint_log_prob(t.yt[:, :1]), law.marginal_log_prob(t.yt[:, :1])[:, 0], **CLOSE)


def test_tnpa_is_tnpd_until_something_is_decoded():
    """One set of weights: the marginals of TNP-A are TNP-D's predictions."""
    tnpa, tnp, t = tiny("paper/tnpa"), tiny("paper/tnpd"), tasks()
    tnp.load_state_dict(tnpa.state_dict())
    a, d = tnpa(t.xc, t.yc, t.xt), tnp(t.xc, t.yc, t.xt)
    torch.testing.assert_close(a.mean, d.mean, **CLOSE)
    torch.testing.assert_close(a.marginal_log_prob(t.yt), d.marginal_log_prob(t.yt), **CLOSE)


def test_a_buffer_of_one_is_tnpd_decoded_autoregressively():
    model, t = tiny("tnpa_buffer", buffer_size=1), tasks()
    state, expected = model.encode(t.xc, t.yc), 0
    for i in range(5):
        told = model.encode(torch.cat([t.xc, t.xt[:, :i]], 1), torch.cat([t.yc, t.yt[:, :i]], 1))
        expected = expected + model._predict(told, t.xt[:, i : i + 1], None).joint_log_prob(t.yt[:, i : i + 1])
    torch.testing.assert_close(model.chain(state, t.xt).joint_log_prob(t.yt), expected, **CLOSE)


def test_a_buffer_that_never_fills_is_tnpa():
    wide, plain, t = tiny("tnpa_buffer", buffer_size=99), tiny("tnpa"), tasks()
    plain.load_state_dict(wide.state_dict())
    scores = [m(t.xc, t.yc, t.xt).joint_log_prob(t.yt) for m in (wide, plain)]
    torch.testing.assert_close(*scores, **CLOSE)


def test_training_with_a_buffer_shows_random_prefixes():
    """Half of the targets read nothing decoded, the others a random prefix, anew at every step."""
    model, t = tiny("tnpa_buffer", buffer_size=3), tasks(b=1)
    state = model.encode(t.xc, t.yc)

    def loss(yt):
        torch.manual_seed(0)
        return model.training_law(t.xc, t.yc, t.xt).joint_log_prob(yt)

    torch.manual_seed(1)
    other = model.training_law(t.xc, t.yc, t.xt).joint_log_prob(t.yt)
    assert torch.equal(loss(t.yt), loss(t.yt)) and not torch.equal(loss(t.yt), other)
    torch.manual_seed(0)
    drawn = [model.training_law(t.xc, t.yc, t.xt).joint_log_prob(t.yt) for _ in range(400)]
    alone = model._predict(state, t.xt, None).joint_log_prob(t.yt)
    share = torch.stack([(d - alone).abs() < 1e-9 for d in drawn]).double().mean()  # all five alone: 1 (first) * 1/2^4
    assert abs(share - 1 / 16) < 4 * (1 / 16 / 400) ** 0.5


def test_old_points_of_a_causal_context_never_look_at_new_ones():
    model, t = tiny("inctnp"), tasks()
    old = model.encode(t.xc[:, :4], t.yc[:, :4])
    new = model.update(old, t.xc[:, 4:], t.yc[:, 4:])
    for a, b in zip(old.summary.layers, new.summary.layers, strict=True):
        torch.testing.assert_close(a.k, b.k[:, :, :4], rtol=0, atol=0)
        assert b.k.shape[2] == 7
    bidirectional = tiny("tnp")
    a, b = bidirectional.encode(t.xc[:, :4], t.yc[:, :4]), bidirectional.encode(t.xc, t.yc)
    assert (a.summary.layers[1].k - b.summary.layers[1].k[:, :, :4]).abs().max() > 1e-6


def test_the_sequence_objective_scores_every_prefix():
    """It equals the sum over all points of log p(y_i | all before), each by encoding the prefix from scratch."""
    model, t = tiny("inctnp_seq"), tasks()
    x, y = torch.cat([t.xc, t.xt], 1), torch.cat([t.yc, t.yt], 1)
    total = sum(model(x[:, :i], y[:, :i], x[:, i : i + 1]).joint_log_prob(y[:, i : i + 1]) for i in range(x.shape[1]))
    torch.testing.assert_close(sequence(model, t, 1).total, -(total / (12 * 2)).mean(), **CLOSE)


def test_and_with_blocks_of_one_is_the_autoregressive_wrapper():
    """CMANP-AND on a diagonal head with blocks of one target = CMANP decoded point by point, in score and in draws."""
    model, t = tiny("cmanp", block_size=1), tasks()
    plain = tiny("cmanp")
    plain.load_state_dict(model.state_dict())
    state = plain.encode(t.xc, t.yc)
    a, b = model.predict(state, t.xt), plain.chain(state, t.xt)
    torch.testing.assert_close(a.joint_log_prob(t.yt), b.joint_log_prob(t.yt), rtol=0, atol=0)
    assert torch.equal(a.sample(3, seed=0), b.sample(3, seed=0))
    torch.testing.assert_close(a.joint_log_prob(t.yt), step_by_step(plain, state, t.xt, t.yt), **CLOSE)


def test_and_with_one_block_is_the_joint_head():
    model, t = tiny("cmanpand"), tasks()
    law, state = model(t.xc, t.yc, t.xt), model.encode(t.xc, t.yc)
    one_step = model._predict(state, t.xt, None)
    for size, equal in ((5, True), (100, True), (2, False)):
        model.decoding = Decoding(size)
        gap = (model.predict(state, t.xt).joint_log_prob(t.yt) - one_step.joint_log_prob(t.yt)).abs().max()
        assert (gap < 1e-9) == equal
    assert differ(law, model(t.xc, t.yc + 1, t.xt))


def test_any_model_can_be_decoded():
    """Latent, deep-set and joint models alike; the score is the chain rule by hand."""
    for name in ("cnp", "np", "lbanp", "convcnp"):
        model, t = tiny(name), tasks()
        state = model.encode(t.xc, t.yc)
        expected = step_by_step(model, state, t.xt, t.yt)
        torch.testing.assert_close(model.chain(state, t.xt).joint_log_prob(t.yt), expected, **CLOSE)
        model.decoding = Decoding()
        assert model.traits["joint"]
        assert model(t.xc, t.yc, t.xt).sample(2).shape == (2, *t.yt.shape)


def test_build_knows_them():
    assert npexp.build("inctnp", dx=1, dy=1).traits["causal"]
    assert npexp.build("tnpa", dx=1, dy=1).traits["joint"]
