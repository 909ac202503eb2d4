"""Matérn functions of one input as Markov chains: exact samples and exact likelihoods in O(n), at any points.

A Matérn function with `d` = nu + 1/2 and its first `d` - 1 derivatives follow a linear stochastic differential equation
(Hartikainen and Särkkä 2010, Kalman filtering and smoothing solutions to temporal Gaussian process regression models),
so that the points, sorted, are a chain with `d` numbers each. All is in units of the process: variance 1, and distances
tau = sqrt(2 nu) / lengthscale times those of the inputs. A distance of `FAR` starts a new and independent chain.

Variances of one step are integrals of positive powers, not differences of variances: close points, even the same point
twice, cost no digits.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy.linalg.blas import dtbsv
from scipy.special import gammainc

FAR = 1e3  # a distance after which float64 remembers nothing
CHUNK = 1024  # steps whose matrices are held at once
RESPONSES = {  # the chain's answer to an impulse, polynomials in time (lowest power first) times exp(-time)
    1: [[1.0]],
    2: [[0.0, 1.0], [1.0, -1.0]],
    3: [[0.0, 0.0, 0.5], [0.0, 1.0, -0.5], [1.0, -2.0, 0.5]],
}


class Predicted(NamedTuple):
    """What the chain before some steps says about them, and the log density of each observation.

    Args:
        mean: of the state, `[b, num, d]`.
        covariance: of the state, `[b, num, d, d]`.
        log_prob: of each observation given those before, zero where there is none, `[b, n]`.
    """

    mean: np.ndarray
    covariance: np.ndarray
    log_prob: np.ndarray


def transitions(order: int, tau: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Matrix and covariance of a step: `[..., d, d]` each, `d` = `order`, for distances `[...]`."""
    response = RESPONSES[order]
    decay = np.exp(-tau)
    shift = np.diag(np.ones(order - 1), 1)  # N, with N^d = 0: exp(F tau) = exp(-tau) sum_k N^k tau^k / k!
    shift[-1] = [-math.comb(order, i) for i in range(order)]
    shift += np.eye(order)
    powers = [np.linalg.matrix_power(shift, k) / math.factorial(k) for k in range(order)]
    step = sum(power * (decay * tau**k)[..., None, None] for k, power in enumerate(powers))
    top = 2 * order - 2
    integrals = [math.factorial(top) / 2 ** (top + 1) * gammainc(top + 1, 2 * tau)]  # of s^k exp(-2 s) up to tau
    for k in range(top, 0, -1):
        integrals.insert(0, (2 * integrals[0] + tau**k * decay**2) / k)
    density = 2 ** (2 * order - 1) * math.factorial(order - 1) ** 2 / math.factorial(top)  # makes the variance 1
    spread = np.empty((*tau.shape, order, order))
    for i in range(order):
        for j in range(i + 1):
            product = np.polynomial.polynomial.polymul(response[i], response[j])
            entry = sum(c * integrals[k] for k, c in enumerate(product) if c)
            spread[..., i, j] = spread[..., j, i] = density * entry
    return step, spread


def root(matrices: np.ndarray) -> np.ndarray:
    """Cholesky factors of `[..., d, d]`, which may be zero: a step between equal points."""
    result = np.zeros_like(matrices)
    for j in range(matrices.shape[-1]):
        rest = matrices[..., j:, j] - (result[..., j:, :j] * result[..., j, None, :j]).sum(-1)
        diagonal = np.sqrt(rest[..., :1].clip(0))
        result[..., j:, j] = np.divide(rest, diagonal, out=np.zeros_like(rest), where=diagonal > 0)
    return result


def distances(x: np.ndarray, rate: np.ndarray) -> np.ndarray:
    """`tau` of each step of sorted chains, `[b, n]`, the first one `FAR`."""
    return np.concatenate([np.full((len(x), 1), FAR), np.diff(x, axis=1) * rate[:, None]], 1)


def sample(order: int, tau: np.ndarray, white: np.ndarray) -> np.ndarray:
    """Functions along chains `[b, n]` from white noise `[b, n, d]`: one banded triangular solve, in compiled code."""
    step, spread = transitions(order, tau)
    driven = np.einsum("...ij,...j", root(spread), white)
    below = np.zeros((tau.size, order, 2 * order))  # by column: what later rows owe to this one, the diagonal first
    later = -step.reshape(-1, order, order)[1:]
    for j in range(order):
        below[:-1, j, order - j : 2 * order - j] = later[:, :, j]
    states = dtbsv(2 * order - 1, below.reshape(-1, 2 * order).T, driven.ravel(), lower=1, diag=1)
    return states.reshape(white.shape)[..., 0]


def filtered(
    order: int, tau: np.ndarray, y: np.ndarray, variance: np.ndarray, slots: np.ndarray, num: int
) -> Predicted:
    """Kalman filter along chains, all tasks at once.

    Args:
        order: `d`.
        tau: distances, `[b, n]`.
        y: observations, `[b, n]`.
        variance: of their noise, infinite where there is none, `[b, n]`.
        slots: where to keep what is known before a step, below `num`; `num` for nowhere, `[b, n]`.
        num: how many steps are kept.
    """
    b, n = tau.shape
    lanes = np.arange(b)
    mean, covariance = np.zeros((b, order)), np.zeros((b, order, order))
    means, covariances = np.zeros((b, num + 1, order)), np.zeros((b, num + 1, order, order))
    errors, spreads = np.empty((n, b)), np.empty((n, b))
    for start in range(0, n, CHUNK):
        steps, noises = (m.swapaxes(0, 1) for m in transitions(order, tau[:, start : start + CHUNK]))
        for k, (step, noise) in enumerate(zip(steps, noises, strict=True), start):
            mean = (step @ mean[..., None])[..., 0]
            covariance = step @ covariance @ step.swapaxes(1, 2) + noise
            means[lanes, slots[:, k]], covariances[lanes, slots[:, k]] = mean, covariance
            errors[k], spreads[k] = y[:, k] - mean[:, 0], covariance[:, 0, 0] + variance[:, k]
            gain = covariance[:, :, 0] / spreads[k][:, None]
            mean = mean + gain * errors[k][:, None]
            covariance = covariance - gain[:, :, None] * covariance[:, :1]
    seen = np.isfinite(spreads)
    log_prob = -0.5 * (errors**2 / spreads + np.log(2 * np.pi * np.where(seen, spreads, 1.0)))
    return Predicted(means[:, :num], covariances[:, :num], np.where(seen, log_prob, 0.0).T)


def between(order: int, left: Predicted, right: Predicted) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of the function given the chains on both sides, the right one run backwards, `[b, num]`."""
    sign = (-1.0) ** np.arange(order)  # odd derivatives change their sign with the direction
    prior = np.linalg.inv(transitions(order, np.array(FAR))[1])
    first, second = np.linalg.inv(left.covariance), np.linalg.inv(right.covariance) * sign[:, None] * sign
    known = (first @ left.mean[..., None] + second @ (sign * right.mean)[..., None])[..., 0]
    covariance = np.linalg.inv(first + second - prior)
    return (covariance @ known[..., None])[..., 0, 0], covariance[..., 0, 0]
