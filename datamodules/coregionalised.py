"""Several outputs at once: families of vector-valued functions."""

from functools import reduce

import torch
from jaxtyping import Float
from torch import Tensor

from datamodules.kernels import Kernel, Range, draw, members
from datamodules.settings import interval
from npexp.errors import ConfigError, at_least


class Coregionalised(Kernel):
    """Two correlated outputs: the intrinsic coregionalisation model, covariance k(x, x') B with B = [[1, r], [r, 1]].

    Both outputs have the law of the given family, and a correlation at equal inputs that each task draws anew. The
    outputs of a point are observed together, so that without noise one tells nothing about the other elsewhere
    (Bonilla et al. 2007, Multi-task Gaussian process prediction): then the correlation shows in the joint law only.

    Args:
        kernel: the family of each output.
        correlation: range of r, uniform, within [-1, 1].

    Raises:
        ConfigError: a family of several outputs already, or correlations out of range.
    """

    num_outputs = 2

    def __init__(self, kernel: Kernel, correlation: Range = (-0.95, 0.95)):
        self.kernel = single(kernel)
        self.correlation = interval("correlation", correlation, low=-1.0)
        if self.correlation[1] > 1:
            raise ConfigError(f"expected correlations of at most 1, got {correlation!r}: correct the ends")
        self.num_hyper = kernel.num_hyper + 1

    def covariance(
        self, u: Float[Tensor, "b k"], x1: Float[Tensor, "#b n dx"], x2: Float[Tensor, "#b m dx"]
    ) -> Float[Tensor, "b r s"]:
        (r,) = draw(u[:, -1:], (self.correlation,), log_uniform=False)
        between = torch.eye(2, dtype=u.dtype) + r * torch.eye(2, dtype=u.dtype).flip(0)  # B, [b, 2, 2]
        return kronecker(self.kernel.covariance(u[:, :-1], x1, x2), between)


class LMC(Kernel):
    """Any number of outputs that share hidden functions: the linear model of coregionalisation.

    The covariance is sum_q k_q(x, x') B_q with B_q = a_q a_q' + diag(kappa_q): each family q lends every output one
    shared function with a weight and one of the output's own (Alvarez, Rosasco and Lawrence 2012, arXiv 1106.6251).
    Each task draws the weights anew.

    Args:
        kernels: the families of the hidden functions; let their scales be 1, for the weights say how much of each.
        num_outputs: how many outputs.
        weight: range of the entries of a_q, uniform.
        own: range of the entries of kappa_q, the variance of what outputs do not share, uniform.

    Raises:
        ConfigError: no family, one of several outputs already, or a setting out of range.
    """

    def __init__(
        self,
        kernels: list[Kernel],
        num_outputs: int = 3,
        weight: Range = (-1.0, 1.0),
        own: Range = (0.0, 0.1),
    ):
        self.kernels = [single(kernel) for kernel in members("LMC", kernels)]
        self.num_outputs = at_least("num_outputs", num_outputs, 1)
        self.weight = interval("weight", weight)
        self.own = interval("own", own, low=0.0)
        self.num_hyper = sum(kernel.num_hyper + 2 * num_outputs for kernel in kernels)

    def covariance(
        self, u: Float[Tensor, "b k"], x1: Float[Tensor, "#b n dx"], x2: Float[Tensor, "#b m dx"]
    ) -> Float[Tensor, "b r s"]:
        dy, terms = self.num_outputs, []
        for kernel, hyper in zip(self.kernels, u.split([2 * dy + k.num_hyper for k in self.kernels], 1), strict=True):
            ranges = [self.weight] * dy + [self.own] * dy
            values = torch.cat(draw(hyper[:, : 2 * dy], ranges, log_uniform=False), 1)[..., 0]  # [b, 2 dy]
            shared, own = values.split(dy, 1)
            between = shared[:, :, None] * shared[:, None, :] + torch.diag_embed(own)
            terms.append(kronecker(kernel.covariance(hyper[:, 2 * dy :], x1, x2), between))
        return reduce(Tensor.add_, terms)


def single(kernel: Kernel) -> Kernel:
    """Returns a family of one output, or raises `ConfigError`."""
    if kernel.num_outputs != 1:
        raise ConfigError(
            f"expected a kernel of one output, got one of {kernel.num_outputs}: nest no coregionalised families"
        )
    return kernel


def kronecker(inputs: Float[Tensor, "b n m"], between: Float[Tensor, "b dy dy"]) -> Float[Tensor, "b r s"]:
    """Covariance over points and outputs, the outputs of a point one after the other: `r` = n dy, `s` = m dy."""
    dy, m = between.shape[1], inputs.shape[2]
    # Both are laid out by columns first: the product of whole rows takes half as long as that of rows of dy numbers.
    columns = inputs.repeat_interleave(dy, 2), between.repeat(1, 1, m)  # [b, n, s] and [b, dy, s]
    return (columns[0][:, :, None] * columns[1][:, None]).flatten(1, 2)
