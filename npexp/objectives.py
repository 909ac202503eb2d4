"""What is minimised: the only place that knows about training losses.

Every objective is in nats per target and output channel, averaged over tasks, so that losses compare across sizes. With
`include_context` the context points count as targets too, as the CNP and NP families are published; the posterior of a
latent variable sees every point once all the same.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from npexp.batch import TaskBatch, real
from npexp.errors import UnknownNameError, UnsupportedError
from npexp.layers.penalty import collect_penalties
from npexp.likelihoods.base import hide_padding
from npexp.models.base import NeuralProcess, State
from npexp.models.bootstrap import BootstrapNeuralProcess
from npexp.models.inctnp import INCTNP
from npexp.models.latent import LatentNeuralProcess


class Loss(NamedTuple):
    """The number to minimise and its parts for the log, all scalars."""

    total: Tensor
    parts: dict[str, Tensor]


Objective = Callable[[NeuralProcess, TaskBatch, int, bool], Loss]


def _with_penalties(objective: Callable[..., Loss]) -> Callable[..., Loss]:
    """The objective plus what the model's layers add to a training loss."""

    @functools.wraps(objective)
    def penalised(net: NeuralProcess, *args: Any, **kwargs: Any) -> Loss:
        if not net.training:
            return objective(net, *args, **kwargs)
        with collect_penalties() as terms:
            loss = objective(net, *args, **kwargs)
        if not terms:
            return loss
        penalty = torch.stack(terms).sum()
        return Loss(loss.total + penalty, {**loss.parts, "penalty": penalty.detach()})

    return penalised


@_with_penalties
def loglik(net: NeuralProcess, batch: TaskBatch, num_samples: int, include_context: bool = False) -> Loss:
    """Minus the joint log-likelihood of the targets given the context (Garnelo et al. 2018a).

    A latent-variable model is scored under `num_samples` fresh draws from its prior p(z | C), a biased but consistent
    estimate of log p(yt | C) (Foong et al. 2020, arXiv 2007.01332); a bootstrapping one under as many fresh bootstraps.
    """
    context = batch.xc, batch.yc, batch.mask_c
    batch = with_context(batch) if include_context else batch
    if isinstance(net, BootstrapNeuralProcess):
        pred = net.predict(net.bootstrap(*context, num_samples), batch.xt, batch.mask_t)
    elif isinstance(net, LatentNeuralProcess):
        state = net.encode(*context)
        pred = net.decode(state, net.distribution(state).rsample((num_samples,)), batch.xt, batch.mask_t)
    else:
        pred = net.training_law(*context[:2], batch.xt, batch.mask_c, batch.mask_t)
    score = _per_channel(pred.joint_log_prob(batch.yt, batch.mask_t), batch)
    return Loss(-score, {"loglik_joint": score.detach()})


@_with_penalties
def elbo(net: NeuralProcess, batch: TaskBatch, num_samples: int, include_context: bool = False) -> Loss:
    """Minus the evidence lower bound E_q[log p(yt | z, C)] - KL(q(z | C, T) || p(z | C)) (Garnelo et al. 2018b)."""
    state, prior, posterior = _latents(net, batch, "elbo")
    batch = with_context(batch) if include_context else batch
    z = posterior.rsample((num_samples,))
    log_prob = net.decode(state, z, batch.xt, batch.mask_t).component_log_prob(batch.yt, batch.mask_t).mean(0)
    reconstruction = _per_channel(log_prob, batch)
    kl = _per_channel(kl_divergence(posterior, prior).sum(-1), batch)
    return Loss(kl - reconstruction, {"reconstruction": reconstruction.detach(), "kl": kl.detach()})


@_with_penalties
def importance_weighted(net: NeuralProcess, batch: TaskBatch, num_samples: int, include_context: bool = False) -> Loss:
    """Minus the importance-weighted bound log mean_s p(yt | z_s, C) p(z_s | C) / q(z_s | C, T) (Le et al. 2018).

    With one sample it is a one-sample ELBO; the bound tightens with more (Burda et al. 2016, arXiv 1509.00519).
    """
    state, prior, posterior = _latents(net, batch, "importance_weighted")
    batch = with_context(batch) if include_context else batch
    z = posterior.rsample((num_samples,))
    log_prob = net.decode(state, z, batch.xt, batch.mask_t).component_log_prob(batch.yt, batch.mask_t)
    log_ratio = (posterior.log_prob(z) - prior.log_prob(z)).sum(-1)
    bound = (log_prob - log_ratio).logsumexp(0) - math.log(num_samples)
    total = _per_channel(bound, batch)
    parts = {
        "reconstruction": _per_channel(log_prob.mean(0), batch).detach(),
        "kl": _per_channel(log_ratio.mean(0), batch).detach(),
    }
    return Loss(-total, parts)


@_with_penalties
def bootstrap(net: NeuralProcess, batch: TaskBatch, num_samples: int, include_context: bool = False) -> Loss:
    """Minus the log-likelihoods of the base and of the mixture over bootstraps, summed (Lee et al. 2020).

    The base must stay good, since residuals are measured under it. The mixture is that of each target alone, as
    published: log mean_s p(y_i | s), which rewards good marginals and leaves the joint law to chance; `loglik` trains
    the latter. Under a likelihood whose targets depend on each other a mixture is over whole sets in any case.
    """
    _check(net, "bootstrap")
    state = net.bootstrap(batch.xc, batch.yc, batch.mask_c, num_samples)
    batch = with_context(batch) if include_context else batch
    base = _per_channel(net.base(state, batch.xt, batch.mask_t).joint_log_prob(batch.yt, batch.mask_t), batch)
    pred = net.predict(state, batch.xt, batch.mask_t)
    per_task = pred.joint_log_prob(batch.yt, batch.mask_t)  # which also refuses outputs that no law allows
    if not net.head.likelihood.joint:
        allowed = pred.law.icdf(torch.full_like(pred.law.mean, 0.5))[0].detach()  # whatever the law's support
        per_target = pred.marginal_log_prob(hide_padding(batch.yt, allowed, batch.mask_t))
        per_task = per_target.where(real(batch.mask_t, batch.xt), 0.0).sum(-1)
    mixture = _per_channel(per_task, batch)
    return Loss(-base - mixture, {"loglik_base": base.detach(), "loglik_bootstrap": mixture.detach()})


@_with_penalties
def sequence(net: NeuralProcess, batch: TaskBatch, num_samples: int, include_context: bool = False) -> Loss:
    """Minus log p(y_1, ..., y_n) of context and targets as one sequence: every prefix is a context, in one pass.

    The training of incTNP-Seq (Mortimer et al. 2026, arXiv 2602.18955).
    """
    _check(net, "sequence")
    batch = with_context(batch)
    law = net.chain(net.encode(batch.xt[:, :0], batch.yt[:, :0]), batch.xt, batch.mask_t)
    score = _per_channel(law.joint_log_prob(batch.yt, batch.mask_t), batch)
    return Loss(-score, {"loglik_sequence": score.detach()})


OBJECTIVES: dict[str, Objective] = {
    "loglik": loglik,
    "elbo": elbo,
    "importance_weighted": importance_weighted,
    "bootstrap": bootstrap,
    "sequence": sequence,
}

LATENT = (LatentNeuralProcess, "a latent-variable model such as NP or ANP")
NEEDS = {
    "elbo": LATENT,
    "importance_weighted": LATENT,
    "bootstrap": (BootstrapNeuralProcess, "a bootstrapping model such as BNP or BANP"),
    "sequence": (INCTNP, "a causal model such as incTNP"),
}


def refusal(net: NeuralProcess, name: str) -> str | None:
    """Why a model cannot be trained with an objective, and what to do about it; None where it can."""
    if name not in OBJECTIVES:
        raise UnknownNameError("objective", name, OBJECTIVES)
    kind, words = NEEDS.get(name, (NeuralProcess, ""))
    if isinstance(net, kind):
        return None
    return f"objective '{name}' needs {words}, got {type(net).__name__}: use objective 'loglik'"


def with_context(batch: TaskBatch) -> TaskBatch:
    """The same tasks with the context points among the targets, as the CNP and NP families are published."""
    mask = None
    if batch.mask_c is not None or batch.mask_t is not None:
        mask = torch.cat([real(batch.mask_c, batch.xc), real(batch.mask_t, batch.xt)], 1)
    return batch._replace(
        xt=torch.cat([batch.xc, batch.xt], 1),
        yt=torch.cat([batch.yc, batch.yt], 1),
        mask_t=mask,
        oracle_joint=None,
        oracle_marginal=None,
    )


def _latents(net: NeuralProcess, batch: TaskBatch, name: str) -> tuple[State, Normal, Normal]:
    _check(net, name)
    state = net.encode(batch.xc, batch.yc, batch.mask_c)
    return state, net.distribution(state), net.posterior(state, batch.xt, batch.yt, batch.mask_t)


def _check(net: NeuralProcess, name: str) -> None:
    if why := refusal(net, name):
        raise UnsupportedError(why)


def _per_channel(per_task: Tensor, batch: TaskBatch) -> Tensor:
    return (per_task / (batch.num_target * batch.yt.shape[-1])).mean()
