"""RBF functions of 1-D inputs at any number of points, and their exact posterior, for `context.py`.

A function of lengthscale 0.1 or more on [-2, 2] is, to 1e-9, its Chebyshev interpolant through 256 nodes. Its values at
the nodes are drawn from the GP, so that f = psi(x)' z with z ~ N(0, 1) and few functions psi, and conditioning on n
noisy points is linear regression on psi: O(n) in moments that all tasks share, where the usual GP takes O(n^3).
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

NODES, NOISE = 256, 0.02


def chebyshev(x: Tensor) -> Tensor:
    """Chebyshev polynomials at x in [-2, 2], `[n, NODES]`."""
    angle = (x.double() / 2).clamp(-1, 1).arccos()
    return (angle[:, None] * torch.arange(NODES)).cos()


class Functions:
    """As many functions as asked for, with the lengthscales and scales of conf/data/gp_rbf.yaml.

    Args:
        tasks: b.
        rng: draws them.
    """

    def __init__(self, tasks: int, rng: np.random.Generator):
        angle = math.pi * (torch.arange(NODES, dtype=torch.float64) + 0.5) / NODES
        nodes, to_coefficients = 2 * angle.cos(), (torch.arange(NODES)[:, None] * angle).cos() * 2 / NODES
        to_coefficients[0] /= 2
        lengthscale, scale = (torch.from_numpy(rng.uniform(*ends, (tasks, 1, 1))) for ends in ((0.1, 0.6), (0.1, 1.0)))
        k = scale.square() * (-0.5 * ((nodes[:, None] - nodes) / lengthscale).square()).exp()
        values, vectors = torch.linalg.eigh(k)
        self.psi = to_coefficients @ (vectors * values.clamp_min(0).sqrt()[:, None])  # [b, NODES, NODES]
        self.z = torch.from_numpy(rng.standard_normal((tasks, NODES, 1)))

    def at(self, x: Tensor) -> Tensor:
        """Values without noise, `[b, n, 1]`, at x `[n]`."""
        return chebyshev(x) @ (self.psi @ self.z)

    def posterior(self, gram: Tensor, cross: Tensor, xt: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of noisy outputs at xt `[nt]`, both `[b, nt]`.

        Args:
            gram: sum of T T' over the points, T the Chebyshev polynomials, `[NODES, NODES]`.
            cross: sum of T y, `[b, NODES, 1]`.
            xt: targets.
        """
        a = torch.eye(NODES, dtype=gram.dtype) + self.psi.mT @ gram @ self.psi / NOISE**2
        root = torch.linalg.cholesky(0.5 * (a + a.mT))
        rows = chebyshev(xt) @ self.psi  # [b, nt, NODES]
        mean = rows @ torch.cholesky_solve(self.psi.mT @ cross / NOISE**2, root)
        spread = torch.linalg.solve_triangular(root, rows.mT, upper=False).square().sum(1)
        return mean[..., 0], (spread + NOISE**2).sqrt()


def chunks(functions: Functions, n: int, size: int, rng: np.random.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """n noisy points, `size` at a time: x `[n]`, the same for all tasks, and y `[b, n, 1]`, both float32."""
    for start in range(0, n, size):
        x = torch.from_numpy(rng.uniform(-2, 2, min(size, n - start)).astype(np.float32))
        clean = functions.at(x)
        yield x, (clean + NOISE * torch.from_numpy(rng.standard_normal(clean.shape))).float()
