"""Draws as smooth functions of noise (the pathwise, or reparameterisation, trick), for whoever optimises over them."""

import copy

import torch
from jaxtyping import Float
from torch import Tensor
from torch.special import ndtr

from npexp.errors import UnsupportedError
from npexp.likelihoods.autoregressive import Autoregressive, Decoding
from npexp.likelihoods.base import Predictive
from npexp.likelihoods.cholesky import CholeskyGaussian
from npexp.likelihoods.gaussian import DiagonalGaussian
from npexp.likelihoods.joint import JointGaussian
from npexp.likelihoods.lowrank import LowRankGaussian
from npexp.likelihoods.mixture import SetMixture
from npexp.likelihoods.normals import NormalMixture
from npexp.likelihoods.transformed import Affine, TransformedLaw
from npexp.ops.gaussian import lower_factor
from npexp.ops.tree import tree_map


def pathwise(law: Predictive, noise: Float[Tensor, "n b nt dy"]) -> Float[Tensor, "n b nt dy"]:
    """Draws of a law as smooth functions of standard normal `noise`, both `[n, b, nt, dy]`.

    The first output is the quantile of its law at the level of the first number, the next one that of its law given the
    first, and so on (Rosenblatt 1952): so gradients reach the weights of a mixture too. A normal law comes out as mean
    plus Cholesky factor times noise, which is what BoTorch does for GPs.

    Raises:
        UnsupportedError: outputs without a density, or a law of which only the outputs alone are known.
    """
    if isinstance(law, Affine):
        return law.shift + law.scale * pathwise(law.law, noise)
    if isinstance(law, TransformedLaw):
        return law.transform.forward(pathwise(law.law, noise))
    if isinstance(law, DiagonalGaussian):
        return law.mean + law.stddev * noise
    if isinstance(law, JointGaussian):
        return law.mean + (_factor(law) @ noise.flatten(-2)[..., None])[..., 0].unflatten(-1, noise.shape[-2:])
    if isinstance(law, SetMixture) and isinstance(law.law, DiagonalGaussian | JointGaussian):
        return _chained(law, noise.flatten(-2)).unflatten(-1, noise.shape[-2:])
    if isinstance(law, Autoregressive) and law.decoding == Decoding():
        return _decoded(law, noise)
    if isinstance(law, NormalMixture):
        return _quantile(law, noise)
    raise UnsupportedError(
        f"no differentiable draws of a {type(law).__name__}: use an acquisition function of mean and variance alone, "
        "or a model with a normal law or a mixture of normals"
    )


def _quantile(law: NormalMixture, noise: Tensor) -> Tensor:
    """Outputs at the levels of the noise, with the gradients of the implicit function: -dF / density."""
    with torch.no_grad():
        tiny = torch.finfo(noise.dtype).eps
        y = law.icdf(ndtr(noise).clamp(tiny, 1 - tiny))
        density = law.log_density(y).exp().clamp_min(torch.finfo(noise.dtype).tiny)
    level = law.cdf(y)
    return y - (level - level.detach()) / density


def _chained(law: SetMixture, noise: Tensor) -> Tensor:
    """Of a mixture of joint normals, output by output, `[n, b, nt dy]`: what came before weighs the components."""
    means, factor = law.law.mean.flatten(-2), _factor(law.law)  # [s, b, nt dy], [s, b, nt dy, nt dy]
    weights = means.new_zeros(means.shape[:2]) if law.log_weights is None else law.log_weights
    weights, residuals, outputs = weights.expand(noise.shape[0], *weights.shape), [], []
    for i in range(noise.shape[-1]):
        mean = means[..., i].expand_as(weights)
        for j, residual in enumerate(residuals):
            mean = mean + factor[..., i, j] * residual
        stddev = factor[..., i, i].expand_as(weights)  # [n, s, b], as all of these
        parts = [v.movedim(1, -1)[:, :, None, None] for v in (weights.log_softmax(1), mean, stddev)]
        y = _quantile(NormalMixture(*parts), noise[..., i, None, None])[..., 0, 0]
        residual = (y[:, None] - mean) / stddev
        weights = weights - 0.5 * residual.square() - stddev.log()
        residuals.append(residual)
        outputs.append(y)
    return torch.stack(outputs, -1)


def _decoded(law: Autoregressive, noise: Tensor) -> Tensor:
    """Target after target, each draw with a state of its own."""
    n, b = noise.shape[:2]
    state, x = tree_map(lambda t: t.expand(n, *t.shape).flatten(0, 1), (law.state, law.xt))
    outputs: list[Tensor] = []
    for i in range(noise.shape[2]):
        if outputs:
            state = law.verbs.absorb(state, x[:, i - 1 : i], outputs[-1], None)
        step = law.verbs.predict(state, x[:, i : i + 1], None)
        outputs.append(pathwise(step, noise[:, :, i : i + 1].flatten(0, 1)[None])[0])
    return torch.cat(outputs, 1).unflatten(0, (n, b))


def _factor(law: DiagonalGaussian | JointGaussian) -> Tensor:
    """Cholesky factor of the covariance of all outputs, `[*s, b, nt dy, nt dy]`."""
    if isinstance(law, DiagonalGaussian):
        return torch.diag_embed(law.stddev.flatten(-2))
    if isinstance(law, CholeskyGaussian):
        rows = law.factor.flatten(-3, -2)
        if rows.shape[-1] > rows.shape[-2]:  # some targets of a larger law
            rows = lower_factor(rows)
        return rows * rows.diagonal(dim1=-2, dim2=-1).sign()[..., None, :]
    if not isinstance(law, LowRankGaussian):
        raise UnsupportedError(f"no covariance of a {type(law).__name__} is known")
    rows, channels = law.factor.flatten(-3, -2), law.mean.shape[-1]
    shared = rows @ rows.mT
    if not law.across:
        channel = torch.arange(rows.shape[-2], device=rows.device) % channels
        shared = shared * (channel[:, None] == channel)
    return torch.linalg.cholesky(shared + torch.diag_embed(law.noise.square().flatten(-2)))


def regroup(law: Predictive, copies: int, nt: int) -> Predictive:
    """A consistent law of `[b, copies nt]` targets as that of `[copies b, nt]`, leaving out how parts hang together."""
    part, axis = copy.copy(law), law.mean.ndim - 3
    for name, value in vars(law).items():
        if isinstance(value, Predictive):
            setattr(part, name, regroup(value, copies, nt))
        elif name == "log_weights" and isinstance(law, SetMixture) and value is not None:
            part.log_weights = value.repeat(1, copies)
        elif isinstance(value, Tensor) and value.shape[: axis + 2] == law.mean.shape[: axis + 2]:
            setattr(
                part, name, value.unflatten(axis + 1, (copies, nt)).transpose(axis, axis + 1).flatten(axis, axis + 1)
            )
    return part
