"""Training losses against numbers worked out in another way."""

import pytest
import torch
from torch.distributions import Normal

from npexp.batch import TaskBatch
from npexp.errors import UnsupportedError
from npexp.objectives import OBJECTIVES, elbo, importance_weighted, loglik, with_context
from tests.contracts.checks import tasks, tiny


@pytest.fixture
def model():
    return tiny("np")


def test_loglik_is_minus_the_mean_per_channel():
    net, batch = tiny("cnp"), tasks()
    pred = net(batch.xc, batch.yc, batch.xt)
    expected = -Normal(pred.mean, pred.stddev).log_prob(batch.yt).mean()
    torch.testing.assert_close(loglik(net, batch, 1).total, expected)


def test_loglik_weighs_tasks_equally_when_ragged():
    net, batch = tiny("cnp"), tasks()
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]], dtype=torch.bool)
    parts = [
        loglik(net, TaskBatch(*(f[i : i + 1] for f in batch[:2]), *(f[i : i + 1, :n] for f in batch[2:4])), 1).total
        for i, n in enumerate((5, 2, 1))
    ]
    torch.testing.assert_close(loglik(net, batch._replace(mask_t=mask), 1).total, torch.stack(parts).mean())


def test_elbo_kl_against_torch_and_by_hand(model):
    batch = tasks()
    state = model.encode(batch.xc, batch.yc)
    prior = model.distribution(state)
    posterior = model.distribution(model.update(state, batch.xt, batch.yt))
    ratio = (posterior.stddev / prior.stddev) ** 2
    shift = ((posterior.mean - prior.mean) / prior.stddev) ** 2
    kl = 0.5 * (ratio + shift - 1 - ratio.log()).sum(-1)  # closed form, one line per task
    loss = elbo(model, batch, 3)
    torch.testing.assert_close(loss.parts["kl"], (kl / 10).mean())
    torch.testing.assert_close(loss.total, loss.parts["kl"] - loss.parts["reconstruction"])


def test_posterior_sees_context_and_targets(model):
    batch = tasks()
    everything = model.encode(torch.cat([batch.xc, batch.xt], 1), torch.cat([batch.yc, batch.yt], 1))
    updated = model.update(model.encode(batch.xc, batch.yc), batch.xt, batch.yt)
    torch.testing.assert_close(model.distribution(updated).mean, model.distribution(everything).mean)


@pytest.mark.parametrize("objective", [elbo, importance_weighted])
def test_context_as_targets_does_not_enter_the_posterior_twice(model, objective, monkeypatch):
    """The law of z and its KL are the same; only the reconstruction has more targets."""
    batch, seen = tasks(), []
    monkeypatch.setattr(
        type(model), "distribution", lambda self, state: seen.append(state) or self._latent(state.summary)
    )
    torch.manual_seed(0)
    loss = objective(model, batch, 2, include_context=True)
    assert [int(s.n[0]) for s in seen] == [7, 12]
    torch.manual_seed(0)
    kl = objective(model, batch, 2).parts["kl"] * 10  # nats per task, spread over 2 x 5 targets here, 2 x 12 there
    torch.testing.assert_close(loss.parts["kl"] * 24, kl)


def test_one_importance_sample_is_a_one_sample_elbo(model):
    batch = tasks()
    torch.manual_seed(0)
    loss = importance_weighted(model, batch, 1)
    torch.testing.assert_close(-loss.total, loss.parts["reconstruction"] - loss.parts["kl"])


def test_bounds_are_ordered(model):
    """ELBO <= 5 importance samples <= 200 of them <= log p, the last by plain Monte Carlo."""
    batch = tasks()
    torch.manual_seed(0)
    with torch.no_grad():
        bound = {
            k: torch.stack([-importance_weighted(model, batch, k).total for _ in range(400)]).mean()
            for k in (1, 5, 200)
        }
        exact = -loglik(model, batch, 50_000).total
        evidence = torch.stack([-elbo(model, batch, 1).total for _ in range(400)]).mean()
    torch.testing.assert_close(bound[1], evidence, rtol=0, atol=0.01)
    assert bound[1] < bound[5] < bound[200] < exact + 1e-3
    torch.testing.assert_close(bound[200], exact, rtol=0, atol=2e-3)


@pytest.mark.parametrize("name", ["elbo", "importance_weighted"])
def test_deterministic_models_are_refused(name):
    with pytest.raises(UnsupportedError, match="use objective 'loglik'"):
        OBJECTIVES[name](tiny("cnp"), tasks(), 1)


def test_with_context_puts_context_points_first():
    batch = tasks()
    both = with_context(batch._replace(mask_t=torch.ones(3, 5, dtype=torch.bool)))
    assert torch.equal(both.xt, torch.cat([batch.xc, batch.xt], 1)) and both.mask_t.shape == (3, 12)
    assert torch.equal(both.xc, batch.xc)
