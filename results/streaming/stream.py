"""Streams of readings of a field that drifts, and what exact Gaussian processes make of them."""

from typing import NamedTuple

import torch
from torch import Tensor

LENGTHSCALE, SCALE, NOISE = (0.1, 0.6), (0.1, 1.0), 0.02  # of the tasks in conf/data/gp_rbf.yaml


class Streams(NamedTuple):
    """Readings of independent fields, all read at the same irregular times, and the exact law of each reading.

    A field is a Gaussian process with covariance scale^2 RBF(x; lengthscale) Matérn-3/2(t; drift): at any one time a
    task of conf/data/gp_rbf.yaml, which another one replaces in a few times `drift`.

    Args:
        t: times, one apart on average, `[n]`.
        x: where the field was read, uniform on [-2, 2], `[b, n, 1]`.
        y: the readings, `[b, n, 1]`.
        lengthscale: of each field, `[b, 1, 1]`.
        scale: its standard deviation, `[b, 1, 1]`.
        drift: its lengthscale in time, `[b, 1, 1]`.
        mean: of each reading given all before it, the field's law being known, `[b, n]`.
        stddev: the same, noise included, `[b, n]`.
    """

    t: Tensor
    x: Tensor
    y: Tensor
    lengthscale: Tensor
    scale: Tensor
    drift: Tensor
    mean: Tensor
    stddev: Tensor


def over_space(r: Tensor, lengthscale: Tensor | float, scale: Tensor | float) -> Tensor:
    """Covariance of what is r apart in x."""
    return scale**2 * (-0.5 * (r / lengthscale).square()).exp()


def over_time(r: Tensor, drift: Tensor) -> Tensor:
    """Correlation of what is r apart in time."""
    r = 3**0.5 * r.abs() / drift
    return (1 + r) * (-r).exp()


def draw(drifts: list[float], fields: int, events: int, seed: int = 0) -> Streams:
    """`fields` streams of each drift, exactly, by Cholesky factors, whose rows are also the laws one step ahead."""
    g = torch.Generator().manual_seed(seed)
    b = len(drifts) * fields
    uniform = lambda ends, *shape: ends[0] + (ends[1] - ends[0]) * torch.rand(*shape, generator=g).double()  # noqa: E731
    t = torch.empty(events, dtype=torch.float64).exponential_(generator=g).cumsum(0)
    x = uniform((-2.0, 2.0), b, events, 1)
    lengthscale, scale = uniform(LENGTHSCALE, b, 1, 1), uniform(SCALE, b, 1, 1)
    drift = torch.tensor(drifts, dtype=torch.float64).repeat_interleave(fields).view(-1, 1, 1)
    white = torch.randn(b, events, generator=g, dtype=torch.float64)
    y, stddev = torch.empty_like(white), torch.empty_like(white)
    for i in range(b):
        covariance = over_space(x[i] - x[i].mT, lengthscale[i], scale[i]) * over_time(t[:, None] - t, drift[i])
        covariance.diagonal().add_(NOISE**2)
        factor = torch.linalg.cholesky(covariance)
        y[i], stddev[i] = factor @ white[i], factor.diagonal()
    return Streams(t, x, y[..., None], lengthscale, scale, drift, y - stddev * white, stddev)


def window_law(s: Streams, first: int, event: int, knows_drift: bool) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation `[b]` of a reading given those from `first` on, by the field's own hyperparameters.

    O(w^3) for w readings. Without `knows_drift` all of them are taken for readings of now.
    """
    x, y, t = s.x[:, first : event + 1], s.y[:, first:event], s.t[first : event + 1]
    covariance = over_space(x - x.mT, s.lengthscale, s.scale)
    if knows_drift:
        covariance = covariance * over_time(t[:, None] - t, s.drift)
    covariance.diagonal(dim1=1, dim2=2).add_(NOISE**2)
    factor = torch.linalg.cholesky(covariance)  # its last row is the law of the last reading
    known = torch.linalg.solve_triangular(factor[:, :-1, :-1], y, upper=False)
    return (factor[:, -1:, :-1] @ known)[:, 0, 0], factor[:, -1, -1].clone()  # a view would keep all of it


class WindowGP:
    """The exact Gaussian process of a window that slides, whose inverse covariance is kept: O(w^2) an event.

    Replacing a point is two changes of rank one: its row and column are eliminated, then those of the new point are
    bordered on, in the same place.

    Args:
        x: the points, `[w]`, float64.
        y: their readings, `[w]`.
        lengthscale: of the RBF covariance.
        scale: the functions' standard deviation.
    """

    def __init__(self, x: Tensor, y: Tensor, lengthscale: float, scale: float):
        self.x, self.y, self.lengthscale, self.scale, self.oldest = x.clone(), y.clone(), lengthscale, scale, 0
        self.inverse = torch.cholesky_inverse(torch.linalg.cholesky(self._covariance()))

    def replace(self, x: Tensor, y: Tensor) -> None:
        """A new point in place of the oldest one."""
        a, i = self.inverse, self.oldest
        gone = a[i].clone()
        a.addr_(gone, gone, alpha=-1 / float(gone[i]))
        self.x[i], self.y[i] = x, y
        near = self._near(x)
        near[i] = 0
        new = a @ near
        rest = self.scale**2 + NOISE**2 - float(near @ new)
        new[i] = -1
        a[i], a[:, i] = 0, 0  # what rounding left of the old point
        a.addr_(new, new, alpha=1 / rest)
        self.oldest = (i + 1) % len(self.x)

    def predict(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of a reading."""
        near = self._near(x)
        weights = self.inverse @ near
        return weights @ self.y, self.scale**2 + NOISE**2 - weights @ near

    def anew(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`predict` by a Cholesky factor of the window: O(w^3), and nothing kept is used."""
        near, factor = self._near(x)[:, None], torch.linalg.cholesky(self._covariance())
        weights = torch.cholesky_solve(near, factor)[:, 0]
        return weights @ self.y, self.scale**2 + NOISE**2 - weights @ near[:, 0]

    def _near(self, x: Tensor) -> Tensor:
        return over_space(self.x - x, self.lengthscale, self.scale)

    def _covariance(self) -> Tensor:
        covariance = over_space(self.x[:, None] - self.x, self.lengthscale, self.scale)
        covariance.diagonal().add_(NOISE**2)
        return covariance
