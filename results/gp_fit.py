"""A GP whose hyperparameters maximise the likelihood of each context: without any learned model.

RBF or Matérn-5/2 kernel with one lengthscale, zero mean; outputs of a point are functions of their own. Lengthscale,
scale and noise are optimised in their logarithms by Adam in float64 from several starts drawn from a box; the start
that ends with the largest evidence predicts. Noise stays above a floor and lengthscales within bounds, without which
contexts of three points have no maximum.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from npexp.batch import TaskBatch, real
from npexp.likelihoods.lowrank import LowRankGaussian

Box = Sequence[Sequence[float]]
PRIOR: Box = ((0.1, 0.6), (0.1, 1.0), (0.005, 0.2))  # of lengthscale, scale and noise: conf/data/gp_rbf.yaml
LOW = torch.tensor([0.02, 0.01, 2e-3], dtype=torch.float64).log()
HIGH = torch.tensor([10.0, 10.0, 2.0], dtype=torch.float64).log()


def covariance(theta: Tensor, x1: Tensor, x2: Tensor, matern: bool) -> Tensor:
    """theta `[..., 3]` are logs of lengthscale, scale and noise; x `[..., n, dx]`; without the noise."""
    lengthscale, scale = theta[..., 0].exp()[..., None, None], theta[..., 1].exp()[..., None, None]
    square = (x1[..., :, None, :] - x2[..., None, :, :]).square().sum(-1) / lengthscale.square()
    if not matern:
        return scale.square() * (-0.5 * square).exp()
    d = (5 * square + 1e-12).sqrt()  # its gradient at zero distance
    return scale.square() * (1 + d + d.square() / 3) * (-d).exp()


def factor(theta: Tensor, x: Tensor, mask: Tensor, matern: bool) -> Tensor:
    """Cholesky factor of the covariance of noisy outputs; padded points are independent of all."""
    both = mask[..., :, None] & mask[..., None, :]
    k = covariance(theta, x, x, matern).where(both, 0.0)
    variance = (2 * theta[..., 2]).exp() + 1e-8 * (2 * theta[..., 1]).exp()
    return torch.linalg.cholesky(k + torch.diag_embed(variance[..., None].where(mask, 1.0)))


def evidence(theta: Tensor, x: Tensor, y: Tensor, mask: Tensor, matern: bool) -> Tensor:
    """log p(y), of y `[..., n]`, zero where padded."""
    root = factor(theta, x, mask, matern)
    z = torch.linalg.solve_triangular(root, y[..., None], upper=False)[..., 0]
    terms = 0.5 * z.square() + root.diagonal(dim1=-2, dim2=-1).log() + 0.5 * math.log(2 * math.pi)
    return -terms.where(mask, 0.0).sum(-1)


def maximise(
    x: Tensor,
    y: Tensor,
    mask: Tensor,
    noise: float | None,
    starts: int,
    steps: int,
    generator: torch.Generator,
    box: Box,
    matern: bool,
) -> Tensor:
    """Hyperparameters of the best start, `[b, 3]`, for tasks `[b, n]`; a noise that is given stays."""
    low, high = torch.tensor(box, dtype=x.dtype).T
    u = torch.rand(starts, len(x), 3, generator=generator, dtype=x.dtype)
    theta = (low + (high - low) * u).log()
    theta[..., 2] = low[2].log() + u[..., 2] * (high[2] / low[2]).log() if noise is None else math.log(noise)
    theta.requires_grad_()
    optimizer = torch.optim.Adam([theta], 0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        (-evidence(theta, x, y, mask, matern).sum()).backward()
        if noise is not None:
            theta.grad[..., 2] = 0
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            theta.clamp_(LOW, HIGH)
    with torch.no_grad():
        best = evidence(theta, x, y, mask, matern).argmax(0)
        return theta[best, torch.arange(len(x))]


def predict(
    batch: TaskBatch,
    noise: float | None,
    starts: int,
    steps: int,
    seed: int,
    box: Box = PRIOR,
    matern: bool = False,
) -> LowRankGaussian:
    """The joint law of the targets under each task's fitted GP."""
    b, nt, dy = batch.yt.shape
    mask = real(batch.mask_c, batch.xc).repeat_interleave(dy, 0)  # outputs as tasks of their own
    xc, xt = (v.double().repeat_interleave(dy, 0) for v in (batch.xc, batch.xt))
    yc = batch.yc.double().mT.flatten(0, 1).where(mask, 0.0)
    theta = maximise(xc, yc, mask, noise, starts, steps, torch.Generator().manual_seed(seed), box, matern)
    root = factor(theta, xc, mask, matern)
    between = covariance(theta, xc, xt, matern).where(mask[..., None], 0.0)
    across = torch.linalg.solve_triangular(root, between, upper=False)  # [b dy, nc, nt]
    z = torch.linalg.solve_triangular(root, yc[..., None], upper=False)
    posterior = covariance(theta, xt, xt, matern) - across.mT @ across
    values, vectors = torch.linalg.eigh(posterior)  # semi-definite up to rounding, and often singular
    rows = (vectors * values.clamp_min(0).sqrt()[:, None]).view(b, dy, nt, nt).movedim(1, 2)
    sigma = theta[:, 2].exp().view(b, 1, dy).expand(b, nt, dy)
    return LowRankGaussian((across.mT @ z).view(b, dy, nt).mT, rows, sigma, across=False)
