"""Bootstrapping neural processes against a naive twin, and against the plain models that they wrap."""

import numpy as np
import pytest
import torch
from torch.distributions import Normal

import npexp
from npexp.errors import ConfigError, UnsupportedError
from npexp.likelihoods import Gaussian
from npexp.likelihoods.lowrank import LowRank
from npexp.models.base import Points
from npexp.objectives import bootstrap, loglik, refusal
from tests.contracts.checks import TINY, differ, same, tasks, tiny

PAIRS = [("bnp", "cnp"), ("banp", "canp")]
NAMES = [name for name, _ in PAIRS]


@pytest.fixture
def represented(monkeypatch):
    """Every context that models make a representation of, in order."""
    seen: list[Points] = []

    def spy(model):
        represent = model._represent
        monkeypatch.setattr(model, "_represent", lambda points: seen.append(points) or represent(points))
        return seen

    return spy


@pytest.mark.parametrize(("name", "plain"), PAIRS)
def test_base_is_the_plain_model(name, plain):
    model, t = tiny(name), tasks()
    # the decoder's first layer stands apart from the rest of its network here
    weights = {k: v for k, v in model.state_dict().items() if not k.startswith(("enter", "inject", "head"))}
    for part in ("weight", "bias"):
        weights[f"head.network.0.{part}"] = getattr(model.enter, part)
        for layer in (0, 2):
            weights[f"head.network.{layer + 2}.{part}"] = getattr(model.head.network[layer], part)
    twin = tiny(plain)
    twin.load_state_dict(weights)
    mask = torch.rand(3, 7, generator=torch.Generator().manual_seed(0)) < 0.6
    for m in (mask, None):
        same(model.base(model.encode(t.xc, t.yc, m), t.xt), twin(t.xc, t.yc, t.xt, m))


@pytest.mark.parametrize("name", NAMES)
def test_resampling_against_a_naive_twin(name, represented):
    """Indices, residuals and pseudo outputs, one point at a time; then the decoder with a bootstrap in it."""
    s, sizes = 3, (7, 4, 1)
    small = {k: v for k, v in TINY.items() if k in ("dz", "num_heads") and (name == "banp" or k == "dz")}
    model = npexp.build(name, dx=1, dy=2, num_samples=s, **small).double().eval()
    t = tasks()
    xc, xt = t.xc[..., :1], t.xt[..., :1]
    mask = torch.stack([torch.randperm(7, generator=torch.Generator().manual_seed(n)) < n for n in sizes])  # with holes
    seen = represented(model)
    state = model.encode(xc, t.yc, mask)
    drawn, pseudo = seen[0], seen[1]
    components = model.predict(state, xt).law
    assert not pseudo.y.requires_grad and components.mean.requires_grad
    for task, n in enumerate(sizes):
        x, y = (v[task][mask[task]].numpy() for v in (xc, t.yc))
        order = np.lexsort((y[:, 1], y[:, 0], x[:, 0]))
        x, y = x[order], y[order]
        uniform = np.random.default_rng(0).random((n, 2, s))
        for k in range(s):
            row = k * len(sizes) + task
            paired = [int(u * n) for u in uniform[:, 0, k]]
            np.testing.assert_allclose(drawn.x[row, :n], x[paired])
            np.testing.assert_allclose(drawn.y[row, :n], y[paired])
            law = model.base(model.encode(*(torch.tensor(v[paired])[None] for v in (x, y))), torch.tensor(x)[None])
            mean, stddev = law.mean[0].detach().numpy(), law.stddev[0].detach().numpy()
            residuals = np.stack([(y[i] - mean[i]) / stddev[i] for i in range(n)])
            residuals = np.stack([residuals[int(u * n)] for u in uniform[:, 1, k]])
            residuals = residuals - residuals.mean(0)
            outputs = np.stack([mean[i] + stddev[i] * residuals[i] for i in range(n)])
            np.testing.assert_allclose(pseudo.x[row, :n], x)
            np.testing.assert_allclose(pseudo.y[row, :n], outputs)

            real, boot = (
                model._read(model._represent(Points(torch.tensor(x)[None], torch.tensor(v)[None], None)), xt[[task]])
                for v in (y, outputs)
            )
            hidden = model.enter((*real, xt[[task]])) + model.inject(boot)
            law = model.head(hidden.relu())
            torch.testing.assert_close(components.mean[k, [task]], law.mean)
            torch.testing.assert_close(components.stddev[k, [task]], law.stddev)


@pytest.mark.parametrize("name", NAMES)
def test_without_injection_every_component_is_the_base(name):
    model, t = tiny(name), tasks()
    state = model.encode(t.xc, t.yc)
    assert differ(model.predict(state, t.xt), model.base(state, t.xt))
    torch.nn.init.zeros_(model.inject.weight)
    pred, base = model.predict(state, t.xt), model.base(state, t.xt)
    same(pred, base)
    torch.testing.assert_close(pred.joint_log_prob(t.yt), base.joint_log_prob(t.yt))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("nc", "spread"), [(0, False), (1, False), (2, True)])
def test_bootstraps_differ_once_there_is_something_to_resample(name, nc, spread):
    """The centred residual of a single point is 0, so its bootstraps are all one."""
    model, t = tiny(name), tasks(nc=nc)
    assert (model(t.xc, t.yc, t.xt).law.mean.std(0).max() > 1e-6) == spread


@pytest.mark.parametrize("name", NAMES)
def test_predictions_that_are_certain(name):
    """Standard deviations of exactly 0 at the context: pseudo outputs stay finite."""
    model, t = tiny(name, likelihood=Gaussian(scale="exp")), tasks()
    with torch.no_grad():
        model.head.network[-1].bias[2:] = -2e3
    assert (model.base(model.encode(t.xc, t.yc), t.xc).stddev == 0).all()
    assert model(t.xc, t.yc, t.xt).mean.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_fresh_bootstraps(name):
    model, t = tiny(name), tasks()

    def draw(seed, xc=t.xc, yc=t.yc):
        torch.manual_seed(seed)
        state = model.bootstrap(xc, yc, None, 6)
        return model.predict(state, t.xt), model.base(state, t.xt)

    (a, base_a), (b, base_b) = draw(0), draw(1)
    assert a.law.mean.shape == (6, 3, 5, 2)
    assert differ(a, b)
    same(base_a, base_b)
    same(a, draw(0)[0])
    same(a, draw(0, t.xc.flip(1), t.yc.flip(1))[0])
    twins = model.predict(model.bootstrap(t.xc[[0, 0]], t.yc[[0, 0]], None, 6), t.xt[[0, 0]]).mean
    assert (twins[0] - twins[1]).abs().max() > 1e-6  # tasks draw for themselves


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("include_context", [False, True])
def test_objective_by_hand(name, include_context):
    """Ragged targets with NaN in the padding: mean per task, then over tasks, in nats per channel."""
    model, t = tiny(name), tasks()
    sizes = (5, 2, 1)
    mask_t = torch.arange(5) < torch.tensor(sizes)[:, None]
    nan = torch.full_like(t.xt, torch.nan)
    ragged = t._replace(xt=t.xt.where(mask_t[..., None], nan), yt=t.yt.where(mask_t[..., None], nan), mask_t=mask_t)
    torch.manual_seed(0)
    loss = bootstrap(model, ragged, 4, include_context)
    torch.manual_seed(0)
    state = model.bootstrap(t.xc, t.yc, None, 4)
    base, mixed = [], []
    for i, n in enumerate(sizes):
        xt, yt = t.xt[:, :n], t.yt[i, :n]
        if include_context:
            xt, yt = torch.cat([t.xc, xt], 1), torch.cat([t.yc[i], yt])
        law, laws = model.base(state, xt), model.predict(state, xt).law
        base.append(Normal(law.mean[i], law.stddev[i]).log_prob(yt).mean())
        density = Normal(laws.mean[:, i], laws.stddev[:, i]).log_prob(yt).sum(-1).exp()  # [4, n]
        mixed.append(density.mean(0).log().mean() / 2)
    base, mixed = torch.stack(base).mean(), torch.stack(mixed).mean()
    torch.testing.assert_close(loss.total, -base - mixed)
    torch.testing.assert_close(loss.parts, {"loglik_base": base.detach(), "loglik_bootstrap": mixed.detach()})
    loss.total.backward()
    assert all(p.grad.isfinite().all() and p.grad.abs().max() > 0 for p in model.parameters())


def test_objective_of_a_joint_likelihood_mixes_whole_sets():
    model, t = tiny("bnp", likelihood=LowRank()), tasks()
    torch.manual_seed(0)
    loss = bootstrap(model, t, 4)
    torch.manual_seed(0)
    state = model.bootstrap(t.xc, t.yc, None, 4)
    components = model.predict(state, t.xt).law.joint_log_prob(t.yt).exp()  # [4, b]
    both = components.mean(0).log() + model.base(state, t.xt).joint_log_prob(t.yt)
    torch.testing.assert_close(loss.total, -both.mean() / 10)


def test_loglik_draws_bootstraps_afresh():
    model, t = tiny("bnp"), tasks()
    torch.manual_seed(0)
    loss = loglik(model, t, 5).total
    torch.manual_seed(0)
    pred = model.predict(model.bootstrap(t.xc, t.yc, None, 5), t.xt)
    torch.testing.assert_close(loss, -pred.joint_log_prob(t.yt).mean() / 10)
    assert loglik(model, t, 5).total != loss


def test_models_without_bootstraps_are_refused():
    for name in ("cnp", "np"):
        with pytest.raises(UnsupportedError, match="needs a bootstrapping model such as BNP or BANP"):
            bootstrap(tiny(name), tasks(), 2)
    for name in NAMES:
        assert refusal(tiny(name), "bootstrap") is None is refusal(tiny(name), "loglik")
        assert "needs a latent-variable model" in refusal(tiny(name), "elbo")


@pytest.mark.parametrize("name", NAMES)
def test_impossible_sizes(name):
    for size, value, low in (("num_samples", 0, 1), ("depth_decoder", 1, 2)):
        with pytest.raises(ConfigError, match=f"expected {size} to be an integer, at least {low}, got {value}"):
            npexp.build(name, dx=1, dy=1, **{size: value})
