"""Predictions that need no training of a network, for `run.py`: what a model must beat to be of use.

All but the GP predict a mean from the context in a fixed way, and a normal law around it whose standard deviation
depends on how far the nearest context point is: it is the root mean square error on training tasks, in ten bins of that
distance with as many targets each, for each output of its own. So their uncertainty is calibrated as well as a
constant per distance can be. The exact GP knows neither lengthscale nor scale nor noise: it integrates over all three,
by importance sampling from a broad prior, so there is no fit that could go wrong.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from datamodules import Matern
from datamodules.noise import Noise
from datamodules.oracle import bayes_oracle
from npexp.batch import TaskBatch, real
from npexp.likelihoods.gaussian import DiagonalGaussian

BINS = 10
NEIGHBOURS = (1, 2, 4, 8, 16)
FLOOR = 1e-3  # of a standard deviation, in units of the training outputs'

LENGTHSCALE, SCALE, NOISE = (0.05, 5.0), (0.3, 3.0), (0.01, 0.5)  # log-uniform priors of the exact GP
DRAWS, SCRAMBLES = 512, 2  # 2,048 draws move scores on CO2 and sunspots by 0.005 nats, 128 by 0.03 and 0.01

Centre = Callable[[TaskBatch], Tensor]  # tasks to the mean of their targets, [b, nt, dy]


def distances(batch: TaskBatch) -> Tensor:
    """From each target to each context point, infinite to padding, `[b, nt, nc]`."""
    return torch.cdist(batch.xt, batch.xc).masked_fill(~real(batch.mask_c, batch.xc)[:, None], math.inf)


def nearest(batch: TaskBatch) -> Tensor:
    """Distance to the nearest context point, infinite where there is none, `[b, nt]`."""
    d = distances(batch)
    return d.new_full(d.shape[:2], math.inf) if d.shape[2] == 0 else d.amin(2)


def weigh(weights: Tensor, batch: TaskBatch) -> Tensor:
    """Weighted means of the context outputs, zero (the mean of training) without a context, `[b, nt, dy]`."""
    weights = weights.masked_fill(~real(batch.mask_c, batch.xc)[:, None], 0.0)
    yc = batch.yc.masked_fill(~real(batch.mask_c, batch.xc)[..., None], 0.0)
    return weights @ yc / weights.sum(2, keepdim=True).clamp_min(1e-9)


def climatology(batch: TaskBatch) -> Tensor:
    """The mean of the context."""
    return weigh(torch.ones_like(distances(batch)), batch)


def neighbours(k: int) -> Centre:
    """The mean of the k nearest context points."""

    def centre(batch: TaskBatch) -> Tensor:
        d = distances(batch)
        chosen = d.topk(min(k, d.shape[2]), 2, largest=False).indices
        return weigh(torch.zeros_like(d).scatter(2, chosen, 1.0), batch)

    return centre


def last(batch: TaskBatch) -> Tensor:
    """The latest context point not after the target, else the next one; inputs are times."""
    ahead = batch.xt - batch.xc.mT  # [b, nt, nc]
    if ahead.shape[2] == 0:
        return batch.yt.new_zeros(batch.yt.shape)
    gap = torch.where(ahead >= 0, ahead, 1e6 - ahead.double())  # in float32, next to 1e6, gaps of 0.06 are all alike
    gap = gap.masked_fill(~real(batch.mask_c, batch.xc)[:, None], math.inf)
    return weigh(torch.zeros_like(ahead).scatter(2, gap.argmin(2, keepdim=True), 1.0), batch)


def line(batch: TaskBatch) -> Tensor:
    """Linear interpolation between neighbours in time, constant beyond them."""
    before, after = batch.xt - batch.xc.mT, batch.xc.mT - batch.xt
    if before.shape[2] == 0:
        return batch.yt.new_zeros(batch.yt.shape)
    hidden = ~real(batch.mask_c, batch.xc)[:, None]
    found = [torch.where(gap >= 0, gap, math.inf).masked_fill(hidden, math.inf).min(2) for gap in (before, after)]
    yc = batch.yc.masked_fill(hidden.mT, 0.0)
    (gap0, y0), (gap1, y1) = ((g, yc.gather(1, i[..., None].expand(-1, -1, yc.shape[2]))) for g, i in found)
    share = torch.where(gap1.isinf(), 0.0, torch.where(gap0.isinf(), 1.0, gap0 / (gap0 + gap1).clamp_min(1e-9)))
    return torch.lerp(y0, y1, share[..., None])


class Calibrated:
    """A normal law around a centre; see the top of this file.

    Args:
        centre: gives the mean.
        batches: training tasks, to take the standard deviations from.
    """

    def __init__(self, centre: Centre, batches: list[TaskBatch]):
        self.centre = centre
        kept = [real(b.mask_t, b.xt) for b in batches]
        gaps = torch.cat([nearest(b)[k] for b, k in zip(batches, kept, strict=True)])
        errors = torch.cat([(b.yt - centre(b))[k] for b, k in zip(batches, kept, strict=True)])
        finite = gaps[gaps.isfinite()]
        some = finite[:: len(finite) // 2**24 + 1]  # as many as torch.quantile takes
        self.edges = some.quantile(torch.linspace(0, 1, BINS + 1)[1:-1])
        bins = torch.bucketize(gaps, self.edges)
        sums = errors.new_zeros(BINS, errors.shape[1]).index_add(0, bins, errors.square())
        counts = torch.bincount(bins, minlength=BINS)[:, None]
        whole = errors.square().mean(0)  # for bins that distances on a grid leave empty
        self.stddev = torch.where(counts > 0, sums / counts.clamp_min(1), whole).sqrt().clamp_min(FLOOR)

    def __call__(self, batch: TaskBatch) -> DiagonalGaussian:
        """The law of the targets."""
        return DiagonalGaussian(self.centre(batch), self.stddev[torch.bucketize(nearest(batch), self.edges)])

    def loglik(self, batches: list[TaskBatch]) -> float:
        """Mean over targets."""
        scores = [self(b).marginal_log_prob(b.yt)[real(b.mask_t, b.xt)] for b in batches]
        return float(torch.cat(scores).mean())


def fitted(data: Any, num_batches: int = 64) -> dict[str, Calibrated]:
    """The baselines that make sense for a source of tasks, calibrated on its first training batches."""
    batches = [data.make_batch("train", i) for i in range(num_batches)]
    centres: dict[str, Centre] = {"mean of the context": climatology}
    if data.dx == 1:
        centres |= {"last value": last, "linear interpolation": line}
    laws = {name: Calibrated(centre, batches) for name, centre in centres.items()}
    near = [Calibrated(neighbours(k), batches) for k in NEIGHBOURS]
    return laws | {"nearest neighbours": max(near, key=lambda law: law.loglik(batches))}


class UnknownNoise(Noise):
    """Normal noise of a standard deviation that a task draws, log-uniformly."""

    num_hyper = 1

    def stddev(self, u: Tensor, x: Tensor) -> Tensor:
        return (NOISE[0] * (NOISE[1] / NOISE[0]) ** u).expand(-1, x.shape[1])


def exact_gp(batches: list[TaskBatch]) -> dict[str, float]:
    """Log-likelihood of Matérn-5/2 functions with unknown hyperparameters, each output a function of its own.

    And how far it stays below the law that made the tasks, where that is known.
    """
    kernel = Matern(2.5, LENGTHSCALE, SCALE, log_uniform=True)
    scores: dict[str, list[Tensor]] = {"loglik_marginal": [], "oracle_gap_marginal": []}
    for batch in batches:
        total = torch.zeros(batch.num_tasks, dtype=torch.float64)
        for y in range(batch.yt.shape[2]):
            own = batch._replace(yc=batch.yc[..., y : y + 1], yt=batch.yt[..., y : y + 1])
            found = bayes_oracle(kernel, own, UnknownNoise(), DRAWS, SCRAMBLES)
            total += found.marginal.sum(1) / batch.num_target / batch.yt.shape[2]
        scores["loglik_marginal"].append(total)
        if batch.oracle_marginal is not None:
            best = batch.oracle_marginal.double().sum(1) / batch.num_target / batch.yt.shape[2]
            scores["oracle_gap_marginal"].append(best - total)
    found = {}
    for key, by_batch in scores.items():
        if by_batch:
            means = torch.stack([b.mean() for b in by_batch])
            sem = float(means.std() / len(means) ** 0.5) if len(means) > 1 else math.nan
            found |= {key: float(torch.cat(by_batch).mean()), f"{key}_sem": sem}
    return found
