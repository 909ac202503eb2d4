"""A GP whose hyperparameters maximise the likelihood of each context, for `opponents.py`: without any learned model.

RBF kernel, as the tasks have it. Lengthscale, scale and noise are optimised in their logarithms by Adam in float64 from
several starts drawn from the box that the tasks' hyperparameters come from; the start that ends with the largest
evidence predicts. Noise stays above a floor and lengthscales within bounds, without which contexts of three points have
no maximum.
"""

import math

import torch
from torch import Tensor

from npexp.batch import TaskBatch
from npexp.likelihoods.lowrank import LowRankGaussian

LENGTHSCALE, SCALE, NOISE = (0.1, 0.6), (0.1, 1.0), 0.02  # of conf/data/gp_rbf.yaml
LOW = torch.tensor([0.02, 0.01, 2e-3], dtype=torch.float64).log()
HIGH = torch.tensor([10.0, 10.0, 2.0], dtype=torch.float64).log()


def covariance(theta: Tensor, x1: Tensor, x2: Tensor) -> Tensor:
    """theta `[..., 3]` are logs of lengthscale, scale and noise; x `[..., n]`; without the noise."""
    lengthscale, scale = theta[..., 0].exp()[..., None, None], theta[..., 1].exp()[..., None, None]
    return scale.square() * (-0.5 * ((x1[..., :, None] - x2[..., None, :]) / lengthscale).square()).exp()


def factor(theta: Tensor, x: Tensor) -> Tensor:
    """Cholesky factor of the covariance of noisy outputs."""
    k = covariance(theta, x, x)
    variance = (2 * theta[..., 2]).exp() + 1e-10 * (2 * theta[..., 1]).exp()
    return torch.linalg.cholesky(k + variance[..., None, None] * torch.eye(x.shape[-1], dtype=x.dtype))


def evidence(theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """log p(y), of x and y `[..., n]`."""
    root = factor(theta, x)
    z = torch.linalg.solve_triangular(root, y[..., None], upper=False)[..., 0]
    return -(0.5 * z.square() + root.diagonal(dim1=-2, dim2=-1).log() + 0.5 * math.log(2 * math.pi)).sum(-1)


def maximise(x: Tensor, y: Tensor, noise: float | None, starts: int, steps: int, generator: torch.Generator) -> Tensor:
    """Hyperparameters of the best start, `[b, 3]`, for tasks `[b, n]`; a noise that is given stays."""
    b = len(x)
    u = torch.rand(starts, b, 3, generator=generator, dtype=x.dtype)
    theta = torch.empty_like(u)
    for i, (low, high) in enumerate([LENGTHSCALE, SCALE]):
        theta[..., i] = (low + (high - low) * u[..., i]).log()
    theta[..., 2] = math.log(0.005) + u[..., 2] * math.log(0.2 / 0.005) if noise is None else math.log(noise)
    theta.requires_grad_()
    optimizer = torch.optim.Adam([theta], 0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        (-evidence(theta, x, y).sum()).backward()
        if noise is not None:
            theta.grad[..., 2] = 0
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            theta.clamp_(LOW, HIGH)
    with torch.no_grad():
        best = evidence(theta, x, y).argmax(0)
        return theta[best, torch.arange(b)]


def predict(batch: TaskBatch, noise: float | None, starts: int, steps: int, seed: int) -> LowRankGaussian:
    """The joint law of the targets under each task's fitted GP."""
    xc, yc, xt = (v[..., 0].double() for v in (batch.xc, batch.yc, batch.xt))
    theta = maximise(xc, yc, noise, starts, steps, torch.Generator().manual_seed(seed))
    root = factor(theta, xc)
    across = torch.linalg.solve_triangular(root, covariance(theta, xc, xt), upper=False)  # [b, nc, nt]
    z = torch.linalg.solve_triangular(root, yc[..., None], upper=False)
    posterior = covariance(theta, xt, xt) - across.mT @ across
    values, vectors = torch.linalg.eigh(posterior)  # semi-definite up to rounding, and often singular
    rows = vectors * values.clamp_min(0).sqrt()[:, None]
    sigma = theta[:, 2].exp()[:, None, None].expand(-1, xt.shape[1], 1)
    return LowRankGaussian(across.mT @ z, rows[:, :, None], sigma, across=False)
