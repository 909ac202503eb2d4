"""Ridge regression from moments: many priors on the same data, solved together after the data are gone.

The model is y = phi' w + noise with weights w ~ N(0, noise^2 D^2), D = diag(scale), on data with the moments
G = sum phi phi' and S = sum phi y'. Everything follows from A = I + D G D = L L', which has no eigenvalue below 1.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from npexp.errors import DivergenceError
from npexp.ops.gaussian import full_precision

LEAF = 17  # size up to which triangular solves are faster than two halves
FEW = 32  # matrices below which they are in any case
NEGLIGIBLE = 1e-14


class Ridge(NamedTuple):
    """Posteriors of linear regressions under k priors.

    Args:
        weights: posterior means D A^-1 D S, `[b, k, m, dy]`.
        log_det: log |A|, `[b, k]`; the log evidence of one output is, up to a constant,
            -(y'y - S'w) / 2 noise^2 - log |A| / 2 - n log noise.
        whiten: Q = L^-1, so that A^-1 = Q'Q, `[b, k, m, m]`; carries no gradient by itself, see `ridge_rows`.
    """

    weights: Tensor
    log_det: Tensor
    whiten: Tensor


def ridge(gram: Float[Tensor, "b m m"], cross: Float[Tensor, "b m dy"], scale: Float[Tensor, "b k m"]) -> Ridge:
    """Solves for every prior: O(k m^3), in the dtype of the scales.

    A factorises unless rounding of D G D exceeds 1: in float32 it may with very many points, and all is then done again
    in float64, for which G should still have its own precision. Gradients never differentiate the factorisation; that
    of w is a solve with the adjoint. To form A^-1 and multiply is the same on paper but spoils the gradient in float32,
    as cond(A) stands where its root would do.

    Args:
        gram: G, symmetric, as precise as it is known.
        cross: S.
        scale: the diagonal of D for each prior, positive: prior standard deviations of weights over the noise's.

    Raises:
        DivergenceError: moments or scales that are not finite, or a G that is far from positive semi-definite.
    """
    with full_precision(gram):
        return Ridge(*_Solve.apply(gram, cross, scale))


def ridge_rows(
    gram: Float[Tensor, "b m m"],
    scale: Float[Tensor, "b k m"],
    whiten: Float[Tensor, "b k m m"],
    phi: Float[Tensor, "b n m"],
) -> Float[Tensor, "b k n m"]:
    """Rows of a factor H of the posterior covariance at features phi: H H' = Phi (G + D^-2)^-1 Phi', O(n k m^2).

    In units of the noise: the variance of phi' w is noise^2 |row|^2, the covariance of two noise^2 row_i row_j'.
    H is fixed up to a rotation only, so gradients are right for functions of H H'.

    Args:
        gram: as for `ridge`.
        scale: as for `ridge`.
        whiten: from `ridge`.
        phi: features of the targets.
    """
    with full_precision(gram):
        return _Rows.apply(gram, scale, whiten, phi)


def ridge_naive(gram: Float[Tensor, "m m"], cross: Float[Tensor, "m dy"], scale: Float[Tensor, " m"]) -> Ridge:
    """Twin of `ridge` for one task and prior from general solvers, with the covariance (G + D^-2)^-1 for `whiten`."""
    precision = gram + scale.square().reciprocal().diag()
    log_det = torch.linalg.slogdet(precision)[1] + 2 * scale.log().sum()
    return Ridge(torch.linalg.solve(precision, cross), log_det, torch.linalg.inv(precision))


class _Solve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, gram: Tensor, cross: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        z, log_det, whiten = _solve(gram, cross, scale)
        ctx.save_for_backward(gram.to(scale.dtype), scale, whiten, z)
        ctx.mark_non_differentiable(whiten)
        return scale[..., None] * z, log_det, whiten

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_w: Tensor, by_log_det: Tensor, _: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        gram, scale, whiten, z = ctx.saved_tensors
        by_w, by_log_det = _flush(by_w), _flush(by_log_det)[..., None]
        with full_precision(gram):
            by_right = whiten.mT @ (whiten @ (scale[..., None] * by_w))  # by D S
            left, right = scale[..., None] * by_right, scale[..., None] * z
            inverse = (whiten.mT @ whiten) * scale[..., None, :]  # A^-1 D
            by_gram = ((by_log_det * scale)[..., None] * inverse).sum(1) - _symmetric(_over_k(left, right))
            # A^-1 D G D = 1 - A^-1, spelt out where D is small
            by_scale = 2 * ((z * by_right).sum(-1) / scale + by_log_det * (inverse * gram[:, None]).sum(-1))
            return by_gram, left.sum(1), by_scale


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, gram: Tensor, scale: Tensor, whiten: Tensor, phi: Tensor) -> Tensor:
        rows = (scale[..., None, :] * phi[:, None]) @ whiten.mT
        ctx.save_for_backward(gram.to(scale.dtype), scale, whiten, phi, rows)
        return rows

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_rows: Tensor) -> tuple[Tensor, Tensor, None, Tensor]:
        gram, scale, whiten, phi, rows = ctx.saved_tensors
        with full_precision(gram):
            both = torch.cat([_flush(by_rows), rows], -2) @ whiten
            left, right = (both * scale[..., None, :]).chunk(2, -2)  # by D Phi', and A^-1 D Phi', times D
            by_gram = -0.5 * _symmetric(_over_k(left.mT, right.mT))
            by_scale = left * (phi[:, None] + right / scale.square()[..., None, :]) - right * (left @ gram[:, None])
            by_scale = 0.5 * by_scale.sum(-2) / scale
            return by_gram, by_scale, None, left.sum(1)


def triangular_inverse(root: Float[Tensor, "... m m"]) -> Float[Tensor, "... m m"]:
    """Inverse of a lower-triangular matrix by halves, most of it matrix products: O(m^3)."""
    m = root.shape[-1]
    # who translates a graph knows a way, and its batch must not be looked at
    if torch.compiler.is_exporting() or m <= LEAF or root[..., 0, 0].numel() < FEW:
        eye = torch.eye(m, dtype=root.dtype, device=root.device)
        return torch.linalg.solve_triangular(root, eye.expand_as(root), upper=False)
    half = m // 2
    inverse = torch.zeros_like(root)
    inverse[..., :half, :half] = first = triangular_inverse(root[..., :half, :half])
    inverse[..., half:, half:] = last = triangular_inverse(root[..., half:, half:])
    inverse[..., half:, :half] = -last @ (root[..., half:, :half] @ first)
    return inverse


def _over_k(left: Tensor, right: Tensor) -> Tensor:
    """Sum over k of left right', `[b, k, m, n]` each, as one product."""
    return left.transpose(1, 2).flatten(2) @ right.transpose(1, 2).flatten(2).mT


def _flush(gradient: Tensor) -> Tensor:
    """Zeros where float32 sums would not notice: products of tiny numbers are denormal, a hundred times slower."""
    if not gradient.numel():
        return gradient
    # not the other way round: NaN is no less than anything, and has to be seen
    return torch.where(gradient.abs() < NEGLIGIBLE * gradient.abs().amax(), 0.0, gradient)


def _symmetric(a: Tensor) -> Tensor:
    return 0.5 * (a + a.mT)


def _solve(gram: Tensor, cross: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A^-1 D S, log |A| and L^-1."""
    g, s = gram.to(scale.dtype)[:, None], cross.to(scale.dtype)[:, None]
    eye = torch.eye(g.shape[-1], dtype=g.dtype, device=g.device)
    root, failed = torch.linalg.cholesky_ex(torch.addcmul(eye, scale[..., None] * g, scale[..., None, :]))
    whiten = triangular_inverse(root)
    z = whiten.mT @ (whiten @ (scale[..., None] * s))
    log_det = 2 * root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    if torch.compiler.is_exporting():  # a graph has no branches; in float64 it needs none
        return z, log_det, whiten
    if bool((failed == 0).all() & z.isfinite().all() & log_det.isfinite().all()):
        return z, log_det, whiten
    if g.dtype == torch.float64 or g.device.type == "mps":
        raise DivergenceError(
            "a ridge system has no solution: its moments are not finite, or of no data at all, as when points were "
            "removed that had never been there; check the data, and in training lower the learning rate"
        )
    z, log_det, whiten = (v.to(scale.dtype) for v in _solve(gram.double(), cross.double(), scale.double()))
    return z, log_det, whiten
