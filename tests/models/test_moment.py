"""RMNP, LPNP and their hybrid: what decay means, where inputs lie, what a state holds, which laws there are."""

import numpy as np
import pytest
import torch

import npexp
from npexp.errors import ConfigError, UnknownNameError
from npexp.likelihoods import DiagonalGaussian, IndependentStudentT, NormalMixture, SetMixture, StudentT
from npexp.models.base import NeuralProcess
from npexp.ops.tree import nbytes, tensors
from tests.contracts.checks import differ, same, tasks, tiny

MODELS = ["rmnp", "lpnp", "rmnp_hybrid"]


def inside(**sizes):
    """Tasks with inputs in [-2, 2]."""
    t = tasks(**sizes)
    return t._replace(xc=t.xc.clamp(-2, 2), xt=t.xt.clamp(-2, 2))


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def solved(model: NeuralProcess, state):
    return (
        model.memory.solve(state.summary) if hasattr(model, "memory") else model.ridge.solve(state.summary.ridge)
    ).bank


@pytest.mark.parametrize("name", ["rmnp", "rmnp_hybrid"])
def test_decay_is_weighted_least_squares(name):
    """A point that was told before t decays has weight gamma^t in the sums of squares that a prior regularises."""
    model, gamma, chunks = tiny(name), 0.7, [(draw(2, n, 2, seed=n), draw(2, n, 2, seed=-n)) for n in (5, 1, 4)]
    state = model.encode(*chunks[0])
    for x, y in chunks[1:]:
        state = model.update(model.decay(state, gamma), x, y)
    bank = solved(model, state)
    x, y = (torch.cat(parts, 1) for parts in zip(*chunks, strict=True))
    phi = model.basis(model.domain("context", x)) if name == "rmnp" else model.ridge.basis(model.domain("context", x))
    phi, y, d, w = (
        phi.detach().numpy(),
        y.numpy(),
        bank.scale.detach().numpy(),
        gamma ** np.repeat([2, 1, 0], [5, 1, 4]),
    )
    assert state.n.tolist() == [10, 10]
    for b in range(2):
        for k in range(d.shape[1]):
            root = np.sqrt(w)[:, None]
            rows = np.concatenate([root * phi[b], np.diag(1 / d[b, k])])  # (y - phi w)^2 weights + |w / d|^2
            known = np.linalg.lstsq(rows, np.concatenate([root * y[b], np.zeros((phi.shape[-1], 2))]), rcond=None)[0]
            np.testing.assert_allclose(bank.weights[b, k].detach(), known, rtol=1e-6, atol=1e-8)
            inner = np.eye(10) + root * (phi[b] * d[b, k] ** 2) @ phi[b].T * root.T
            assert bank.log_det[b, k].item() == pytest.approx(np.linalg.slogdet(inner)[1], rel=1e-8)


@pytest.mark.parametrize("name", MODELS)
def test_inputs_are_seen_relative_to_the_domain(name):
    """Moving the domain and all inputs changes nothing; moving only the domain does."""
    t, near, far = inside(), tiny(name, domain=(-2.0, 2.0)), tiny(name, domain=(8.0, 16.0))
    expected = near(t.xc, t.yc, t.xt)
    assert differ(expected, tiny(name, domain=(-3.0, 3.0))(t.xc, t.yc, t.xt))
    same(far(12 + 2 * t.xc, t.yc, 12 + 2 * t.xt), expected, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("name", MODELS)
def test_an_automatic_domain_follows_the_data(name):
    """After a look at inputs; before it is [-2, 2]."""
    t, model = inside(), tiny(name, domain=None)
    twin = tiny(name, domain=(-2.0, 2.0))
    same(model(t.xc, t.yc, t.xt), twin(t.xc, t.yc, t.xt), rtol=0, atol=0)
    model.adapt(torch.tensor([[8.0, 8.0], [16.0, 16.0]]))
    same(model(12 + 2 * t.xc, t.yc, 12 + 2 * t.xt), twin(t.xc, t.yc, t.xt), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("far", [3.0, 1e5])
@pytest.mark.parametrize(
    "settings", [{}, {"num_features": 9}, {"robust": True}, {"law": "joint"}, {"shared_noise": False}], ids=str
)
def test_a_stationary_model_does_not_know_where_it_is(far, settings):
    settings = {"num_features": 8, "num_refined": 2, **settings}
    t, model = inside(), tiny("rmnp", **settings, stationary=True)
    assert model.traits["translation_equivariant"]
    expected, moved = model(t.xc, t.yc, t.xt), model(t.xc + far, t.yc, t.xt + far)
    same(moved, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(moved.joint_log_prob(t.yt), expected.joint_log_prob(t.yt), rtol=1e-6, atol=1e-6)
    ordinary = tiny("rmnp", **settings)
    assert differ(ordinary(t.xc + 0.3, t.yc, t.xt + 0.3), ordinary(t.xc, t.yc, t.xt))


def test_the_state_is_as_small_as_documented():
    state = npexp.build("rmnp", dx=1, dy=1).encode(*2 * [torch.zeros(1, 3, 1)])
    assert sum(part.numel() for part in tensors(state.summary)) == 2147 and nbytes(state.summary) == 8 * 2147


@pytest.mark.parametrize("name", MODELS)
def test_a_stream_in_any_order_is_the_whole(name):
    """Points one by one in a float32 model, whose sums are float64."""
    model = tiny(name).float()
    x, y = (draw(1, 30, 2, seed=s).float() for s in (0, 1))
    with torch.no_grad():
        state, whole = model.encode(x[:, :0], y[:, :0]), model.encode(x, y)
        for i in torch.randperm(30, generator=torch.Generator().manual_seed(0)).tolist():
            state = model.update(state, x[:, i : i + 1], y[:, i : i + 1])
        moments = [(s.summary if name == "rmnp" else getattr(s.summary, "ridge", ())) for s in (state, whole)]
        for a, b in zip(*moments, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-11)
        same(model.predict(state, x), model.predict(whole, x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["rmnp", "rmnp_hybrid"])
@pytest.mark.parametrize(
    ("settings", "law", "joint"),
    [
        ({"law": "mixture"}, NormalMixture, False),
        ({"law": "anchored"}, DiagonalGaussian, False),
        ({"law": "joint"}, SetMixture, True),
        ({"likelihood": StudentT()}, IndependentStudentT, False),
        ({"shared_noise": False}, NormalMixture, False),
        ({"basis": "mlp"}, NormalMixture, False),
        ({"accumulate": "float32"}, NormalMixture, False),
        ({"misfit": False, "num_refined": 0}, NormalMixture, False),
    ],
    ids=lambda v: str(v) if isinstance(v, dict) else "",
)
def test_laws_and_settings(name, settings, law, joint):
    """The law and its traits follow the settings, and every parameter learns."""
    model, t = tiny(name, **settings), tasks()
    pred = model(t.xc, t.yc, t.xt)
    assert isinstance(pred, law) and model.traits["joint"] is joint and model.traits["consistent"]
    gap = (pred.joint_log_prob(t.yt) - pred.marginal_log_prob(t.yt).sum(-1)).abs().max()
    assert (gap > 1e-6) == joint
    pred.joint_log_prob(t.yt).sum().backward()
    for key, p in model.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all(), key


@pytest.mark.parametrize("name", ["rmnp", "rmnp_hybrid"])
def test_float32_gradients_are_those_of_float64(name):
    """On crowded points at the heads' own priors."""
    model, t = tiny(name, domain=(-2.0, 2.0)).train(), inside(nc=46)
    gradients = []
    for dtype in (torch.float64, torch.float32):
        model, (xc, yc, xt, yt) = model.to(dtype), (v.to(dtype) for v in t[:4])
        model.zero_grad()
        model(xc, yc, xt).joint_log_prob(yt).mean().backward()
        gradients.append(torch.cat([p.grad.double().flatten() for p in model.parameters()]))
    assert (gradients[1] - gradients[0]).norm() < 1e-3 * gradients[0].norm()


def test_laws_are_the_same_with_and_without_gradients():
    """On many crowded points, where float32 would not do: only training itself is that fast."""
    torch.manual_seed(0)
    model = npexp.build("rmnp", dx=1, dy=1).eval()
    x = 0.3 + 0.1 * torch.rand(1, 20_000, 1)
    state, xt = model.encode(x, x.sin()), torch.linspace(-2, 2, 9)[None, :, None]
    with torch.no_grad():
        expected = model.predict(state, xt)
    same(model.predict(state, xt), expected, rtol=1e-6, atol=1e-6)
    same(model.train().predict(state, xt), expected, rtol=1e-6, atol=1e-6)


def test_many_waves_have_gradients():
    """Amplitudes of the fastest of them underflow without a floor."""
    torch.manual_seed(0)
    model, x = npexp.build("rmnp", dx=1, dy=1, num_features=256), torch.linspace(-2, 2, 12)[None, :, None]
    model(x, x.sin(), x).joint_log_prob(x.cos()).sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", ["rmnp", "rmnp_joint", "rmnp_hybrid"])
def test_half_precision_weights(name):
    """Solves, laws and scores stay in float32 or better."""
    model, t = tiny(name).bfloat16(), tasks()
    xc, yc, xt = (v.bfloat16() for v in t[:3])
    law = model(xc, yc, xt)
    assert law.mean.dtype == torch.float32 and law.joint_log_prob(t.yt.float()).isfinite().all()


def test_one_head_at_a_time(untyped):
    with pytest.raises(ConfigError, match="not both"):
        npexp.build("rmnp", dx=1, dy=1, law="joint", likelihood=StudentT())
    with pytest.raises(UnknownNameError, match="unknown law 'joined'"):
        npexp.build("rmnp", dx=1, dy=1, law="joined", likelihood=StudentT())
    with pytest.raises(ConfigError, match="num_layers"):
        npexp.build("rmnp", dx=1, dy=1, num_layers=-1)
