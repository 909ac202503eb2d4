"""Several outputs at once: families of vector-valued functions."""

import torch
from jaxtyping import Float
from torch import Tensor

from datamodules.kernels import Kernel, Range, draw
from datamodules.settings import interval
from npexp.errors import ConfigError


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
        if kernel.num_outputs != 1:
            raise ConfigError(
                f"expected a kernel of one output, got one of {kernel.num_outputs}: nest no coregionalised families"
            )
        self.kernel = kernel
        self.correlation = interval("correlation", correlation, low=-1.0)
        if self.correlation[1] > 1:
            raise ConfigError(f"expected correlations of at most 1, got {correlation!r}: correct the ends")
        self.num_hyper = kernel.num_hyper + 1

    def covariance(
        self, u: Float[Tensor, "b k"], x1: Float[Tensor, "#b n dx"], x2: Float[Tensor, "#b m dx"]
    ) -> Float[Tensor, "b r s"]:
        (r,) = draw(u[:, -1:], (self.correlation,), log_uniform=False)
        between = torch.eye(2, dtype=u.dtype) + r * torch.eye(2, dtype=u.dtype).flip(0)  # B, [b, 2, 2]
        inputs = self.kernel.covariance(u[:, :-1], x1, x2)
        blocks = inputs[:, :, None, :, None] * between[:, None, :, None, :]  # [b, n, 2, m, 2]
        return blocks.flatten(3).flatten(1, 2)
