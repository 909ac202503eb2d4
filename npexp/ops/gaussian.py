"""Joint normal laws by their factors. All of it in the dtype of the inputs, whatever autocast says."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from npexp.ops.normal import LOG_SQRT_2PI


def full_precision(like: Tensor) -> torch.autocast:
    """A context without autocast on the device of a tensor: products of factors must not be rounded to bfloat16."""
    return torch.autocast(like.device.type, enabled=False)


def triangular_log_prob(residual: Float[Tensor, "... n"], factor: Float[Tensor, "... n n"]) -> Float[Tensor, "..."]:
    """Log density of N(0, L L^T) for a lower-triangular L, whatever the signs on its diagonal: O(n^2)."""
    with full_precision(residual):
        white = torch.linalg.solve_triangular(factor, residual[..., None], upper=False)[..., 0]
        log_scale = factor.diagonal(dim1=-2, dim2=-1).abs().log()
        return -(0.5 * white.square() + log_scale + LOG_SQRT_2PI).sum(-1)


def lower_factor(rows: Float[Tensor, "... n m"]) -> Float[Tensor, "... n n"]:
    """A lower-triangular L with L L^T = A A^T, n <= m, from a QR decomposition: O(n^2 m).

    A A^T is never formed, which would square the condition number. Signs on the diagonal are arbitrary.
    """
    with full_precision(rows):
        return torch.linalg.qr(rows.mT)[1].mT


def low_rank_log_prob(
    residual: Float[Tensor, "... n"],
    factor: Float[Tensor, "... n r"],
    stddev: Float[Tensor, "... n"],
    mask: Bool[Tensor, "... n"] | None = None,
) -> Float[Tensor, "..."]:
    """Log density of N(0, H H^T + diag(stddev)^2) over the real entries: time O(n r min(n, r)), memory O(n r).

    Few entries have a small covariance. For many, the determinant lemma gives the volume, and the quadratic form is
    written as a least-squares problem, min_z |e - G z|^2 + |z|^2 with e and G the residual and H in units of stddev:
    the matrix-inversion lemma with squares only, where the usual difference of two large numbers would lose digits. It
    is computed in float64 where the device has it: in float32 the 1 in I + G^T G would drown where H is 3,000 times
    stddev.
    """
    dtype = residual.dtype
    with full_precision(residual):
        if residual.device.type != "mps":
            residual, factor, stddev = residual.double(), factor.double(), stddev.double()
        if mask is not None:
            residual = torch.where(mask, residual, torch.zeros_like(residual))
            factor = torch.where(mask[..., None], factor, torch.zeros_like(factor))
            stddev = torch.where(mask, stddev, torch.ones_like(stddev))
        e, g = (residual / stddev)[..., None], factor / stddev[..., None]
        few = g.shape[-2] < g.shape[-1]
        products = g @ g.mT if few else g.mT @ g
        eye = torch.eye(products.shape[-1], dtype=g.dtype, device=g.device)
        root = torch.linalg.cholesky(eye + products)
        if few:
            quadratic = torch.linalg.solve_triangular(root, e, upper=False).square().sum((-2, -1))
        else:
            z = torch.cholesky_solve(g.mT @ e, root)
            quadratic = (e - g @ z).square().sum((-2, -1)) + z.square().sum((-2, -1))
        half_log_det = root.diagonal(dim1=-2, dim2=-1).log().sum(-1) + stddev.log().sum(-1)
        n = residual.shape[-1] if mask is None else mask.sum(-1).to(residual)
        return (-0.5 * quadratic - half_log_det - n * LOG_SQRT_2PI).to(dtype)


def low_rank_log_prob_naive(
    residual: Float[Tensor, " n"], factor: Float[Tensor, "n r"], stddev: Float[Tensor, " n"]
) -> Float[Tensor, ""]:
    """Twin of `low_rank_log_prob` for one vector, which forms the covariance: O(n^3)."""
    covariance = factor @ factor.mT + torch.diag(stddev.square())
    log_det = torch.linalg.slogdet(covariance)[1]
    return -0.5 * (residual @ torch.linalg.solve(covariance, residual) + log_det) - len(residual) * LOG_SQRT_2PI
