"""What exact Gaussian-process inference predicts: the ceiling that no model of the same tasks can exceed.

Everything here reads one Cholesky factor L of the covariance of [context; target], context first, noise included.
With y = L z, the context's density needs only the upper left block and the predictive distribution of the targets only
the lower rows: mean L_tc z_c and covariance L_tt L_tt', so no second factorisation is ever needed.

Where a kernel has several outputs, a point has as many rows, one after the other: y `[b, n, dy]` flattened.

Two ceilings exist. A task's own hyperparameters give the known-hyperparameter oracle, free when the task is sampled.
A model sees only the context and must average over the prior; `bayes_oracle` computes that, the best score reachable.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from datamodules.kernels import Kernel
from datamodules.loader import mix
from datamodules.noise import Noise, as_noise
from npexp.batch import TaskBatch
from npexp.errors import DataError, UnsupportedError, at_least

JITTER = 1e-6  # relative to the variance; added where there is no noise, ten times more where a factorisation fails
HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
CHUNK = 2**22  # matrix entries per chunk of draws: 32 MiB for each temporary


class Scores(NamedTuple):
    """Log densities, in nats.

    Args:
        evidence: log p(yc), `[b]`.
        joint: log p(yt | yc), `[b]`.
        marginal: log p(yt_i | yc) for each target alone, its outputs jointly, `[b, nt]`; zero where the mask is False.
    """

    evidence: Float[Tensor, " b"]
    joint: Float[Tensor, " b"]
    marginal: Float[Tensor, "b nt"]


class BayesScores(NamedTuple):
    """Predictive log densities with the hyperparameters integrated out, in nats, and their Monte-Carlo errors.

    Args:
        joint: log p(yt | yc), `[b]`.
        joint_sem: its standard error, `[b]`.
        marginal: log p(yt_i | yc) for each target alone, its outputs jointly, `[b, nt]`; zero where the mask is False.
        marginal_sem: its standard error, `[b, nt]`.
    """

    joint: Float[Tensor, " b"]
    joint_sem: Float[Tensor, " b"]
    marginal: Float[Tensor, "b nt"]
    marginal_sem: Float[Tensor, "b nt"]


def factor(
    kernel: Kernel,
    u: Float[Tensor, "b k"],
    x: Float[Tensor, "#b n dx"],
    noise: float | Float[Tensor, "b n"],
    mask: Bool[Tensor, "b n"] | None = None,
) -> Float[Tensor, "b r r"]:
    """Cholesky factor of each task's covariance with noise on the diagonal, float64; `r` = `n dy` rows.

    Args:
        kernel: the family.
        u: hyperparameters as uniform numbers, float64.
        x: points, float64.
        noise: standard deviation of the observation noise, at every point or at each; the number 0 adds a jitter of
            1e-6 of the variance instead.
        mask: real points; the others, finite as well, become independent of everything, with variance 1.

    Raises:
        DataError: the covariance is not positive definite even with a hundredth of the variance as jitter.
    """
    covariance = kernel.covariance(u, x, x)
    diagonal = covariance.diagonal(dim1=1, dim2=2)
    scale = diagonal.amax(1, keepdim=True)  # [b, 1]
    if mask is not None:
        mask = of_outputs(mask, kernel.num_outputs)
        real = mask.to(covariance)
        covariance.mul_(real[:, :, None]).mul_(real[:, None])
    diagonal += of_outputs(noise, kernel.num_outputs).square() if isinstance(noise, Tensor) else noise**2
    if mask is not None:
        diagonal.masked_fill_(~mask, 1.0)
    jitter = JITTER
    if not isinstance(noise, Tensor) and noise == 0:
        diagonal += jitter * scale
    while True:
        chol, failed = torch.linalg.cholesky_ex(covariance)
        if not failed.any():
            return chol
        jitter *= 10
        if jitter > 0.01:
            break
        diagonal += jitter * scale * (failed > 0)[:, None]  # the others keep the law they were asked for
    raise DataError(
        "expected a positive definite covariance, got one that fails with 1% of its variance added: "
        "add noise, use fewer points, or shorten the lengthscales"
    )


def of_outputs(values: Shaped[Tensor, "b n"], dy: int) -> Shaped[Tensor, "b r"]:
    """A mask, or a value, of each point as one of each of its rows, `r` = `n dy`."""
    return values.repeat_interleave(dy, 1)


def times(chol: Float[Tensor, "b r t"], z: Float[Tensor, "b t"]) -> Float[Tensor, "b r"]:
    """chol z of each task; the transpose of a factor lies in memory by rows, so that z' chol' takes a third as long."""
    return torch.bmm(z[:, None], chol.mT)[:, 0]


def predictive(
    chol: Float[Tensor, "b r r"], z: Float[Tensor, "b r"], first: int
) -> tuple[Float[Tensor, "b t"], Float[Tensor, "b t"]]:
    """Mean and variance of each row from `first` on given those before, from their factor and y = chol z."""
    return times(chol[:, first:, :first], z[:, :first]), chol[:, first:, first:].square().sum(2)


def scores(
    chol: Float[Tensor, "b r r"],
    z: Float[Tensor, "b r"],
    nc: int,
    mask: Bool[Tensor, "b n"] | None = None,
    dy: int = 1,
) -> Scores:
    """Log densities of y = chol z, whose first `nc` points of `dy` rows each are the context."""
    first = nc * dy
    each = torch.addcmul(chol.diagonal(dim1=1, dim2=2).log(), z, z, value=0.5).add_(HALF_LOG_2PI).neg_()
    rows = chol[:, first:, first:]
    error = times(rows, z[:, first:])  # y - mean
    if dy == 1:
        variance = rows.square().sum(2)
        marginal = variance.log().addcdiv_(error.square(), variance).mul_(-0.5).sub_(HALF_LOG_2PI)
    else:
        marginal = of_blocks(rows.unflatten(1, (-1, dy)), error.unflatten(1, (-1, dy)))
    if mask is not None:
        each = each.masked_fill(~of_outputs(mask, dy), 0.0)
        marginal = marginal.masked_fill(~mask[:, nc:], 0.0)
    evidence, joint = (part.sum(1) for part in each.tensor_split([first], 1))
    return Scores(evidence, joint, marginal)


def of_blocks(rows: Float[Tensor, "b nt dy t"], error: Float[Tensor, "b nt dy"]) -> Float[Tensor, "b nt"]:
    """Log density of each target's error, whose covariance is that of its rows, A A'."""
    flat = rows.flatten(0, 1)
    chol = torch.linalg.cholesky(torch.bmm(flat, flat.mT))
    z = torch.linalg.solve_triangular(chol, error.flatten(0, 1)[..., None], upper=False)[..., 0]
    each = -0.5 * z.square() - chol.diagonal(dim1=1, dim2=2).log() - HALF_LOG_2PI
    return each.sum(1).view(error.shape[:2])


def whiten(chol: Float[Tensor, "b r r"], y: Float[Tensor, "#b r"]) -> Float[Tensor, "b r"]:
    """Solves chol z = y."""
    return torch.linalg.solve_triangular(chol, y[..., None].expand(*chol.shape[:2], 1), upper=False)[..., 0]


def gp_predictive(
    kernel: Kernel,
    u: Float[Tensor, "b k"],
    xc: Float[Tensor, "b nc dx"],
    yc: Float[Tensor, "b nc dy"],
    xt: Float[Tensor, "b nt dx"],
    noise: float | Float[Tensor, "b n"],
    mask_c: Bool[Tensor, "b nc"] | None = None,
) -> tuple[Float[Tensor, "b nt dy"], Float[Tensor, "b nt dy"]]:
    """Exact predictive mean and standard deviation of each target, observation noise included.

    Args:
        kernel: the family.
        u: each task's hyperparameters as uniform numbers.
        xc: context inputs.
        yc: context outputs.
        xt: target inputs.
        noise: standard deviation of the observation noise, at every point or at each, context first.
        mask_c: real context points.
    """
    nt, dy, first = xt.shape[1], yc.shape[2], yc.shape[1] * yc.shape[2]
    x, mask = torch.cat([xc, xt], 1).double(), None
    if mask_c is not None:
        mask = torch.cat([mask_c, mask_c.new_ones(mask_c.shape[0], nt)], 1)
        yc = yc.masked_fill(~mask_c[..., None], 0.0)
        x = x.masked_fill(~mask[..., None], 0.0)
    chol = factor(kernel, u.double(), x, noise, mask)
    z = whiten(chol[:, :first, :first], yc.flatten(1).double())
    mean, variance = predictive(chol, torch.cat([z, z.new_zeros(z.shape[0], nt * dy)], 1), first)
    return mean.unflatten(1, (nt, dy)), variance.sqrt().unflatten(1, (nt, dy))


def bayes_oracle(
    kernel: Kernel,
    batch: TaskBatch,
    noise: float | Noise,
    num_draws: int = 1024,
    num_scrambles: int = 4,
    seed: int = 0,
) -> BayesScores:
    """Scores of the best predictor that does not know the hyperparameters, only their prior.

    Self-normalised importance sampling: prior draws, the same for all tasks, weighted by the evidence of each task's
    context. The draws are scrambled Sobol sequences; independent scrambles give the error bar. Costs one factorisation
    per task and draw, in chunks, so memory does not grow with the number of draws.

    Args:
        kernel: the family the tasks came from, whose law is the prior.
        batch: the tasks.
        noise: the law of the observation noise, or its standard deviation.
        num_draws: draws per scramble; a power of two fits the sequence best.
        num_scrambles: independent repetitions, at least 2.
        seed: of the scrambles.

    Raises:
        UnsupportedError: the noise is not Gaussian, and nothing about it is exact.
    """
    noise = as_noise(noise)
    if not noise.gaussian:
        raise UnsupportedError(
            f"expected Gaussian noise for exact prediction, got {type(noise).__name__}: use a number or Heteroscedastic"
        )
    at_least("num_draws", num_draws, 1)
    at_least("num_scrambles", num_scrambles, 2)
    repeats = [
        sobol(kernel.num_hyper + noise.num_hyper, num_draws, mix(seed, "scramble", r)) for r in range(num_scrambles)
    ]
    joint = torch.zeros(num_scrambles, batch.num_tasks, dtype=torch.float64)
    marginal = torch.zeros(num_scrambles, *batch.xt.shape[:2], dtype=torch.float64)
    for task in range(batch.num_tasks):
        real_c = slice(None) if batch.mask_c is None else batch.mask_c[task]
        real_t = slice(None) if batch.mask_t is None else batch.mask_t[task]
        xc, x = batch.xc[task, real_c], torch.cat([batch.xc[task, real_c], batch.xt[task, real_t]]).double()
        y = torch.cat([batch.yc[task, real_c], batch.yt[task, real_t]]).flatten().double()
        for r, u in enumerate(repeats):
            given = task_scores(kernel, u, x, y, noise, len(xc))
            total = given.evidence.logsumexp(0)
            joint[r, task] = (given.evidence + given.joint).logsumexp(0) - total
            marginal[r, task, real_t] = (given.evidence[:, None] + given.marginal).logsumexp(0) - total
    sem = num_scrambles**-0.5
    return BayesScores(joint.mean(0), joint.std(0) * sem, marginal.mean(0), marginal.std(0) * sem)


def task_scores(
    kernel: Kernel, u: Float[Tensor, "s k"], x: Float[Tensor, "n dx"], y: Float[Tensor, " r"], noise: Noise, nc: int
) -> Scores:
    """Scores of one task under each of `s` draws of the hyperparameters, those of the noise last."""
    parts = []
    for draws in u.split(max(1, CHUNK // len(y) ** 2)):
        of_kernel, of_noise = draws.split([kernel.num_hyper, noise.num_hyper], 1)
        chol = factor(kernel, of_kernel, x[None], noise.stddev(of_noise, x[None]))
        parts.append(scores(chol, whiten(chol, y[None]), nc, dy=kernel.num_outputs))
    return Scores(*(torch.cat(part) for part in zip(*parts, strict=True)))


def sobol(dimensions: int, num_draws: int, seed: int) -> Float[Tensor, "s k"]:
    """A scrambled Sobol set in the unit cube, float64."""
    engine = torch.quasirandom.SobolEngine(dimensions, scramble=True, seed=seed)
    return engine.draw(num_draws, dtype=torch.float64)
