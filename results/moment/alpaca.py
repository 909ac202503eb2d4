"""A single Bayesian last layer on learned features, for `opponents.py`: what RMNP is without its bank of priors."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from npexp.layers.basis import Basis
from npexp.layers.moments import Moments, moments, symmetric
from npexp.likelihoods import Predictive
from npexp.likelihoods.gaussian import DiagonalGaussian
from npexp.likelihoods.lowrank import LowRankGaussian
from npexp.models.additive import AdditiveNeuralProcess
from npexp.models.base import Points, State
from npexp.ops.ridge import ridge, ridge_rows


class ALPaCA(AdditiveNeuralProcess):
    """Linear regression on learned features under one learned prior, in closed form (Harrison et al. 2018, 1807.08912).

    y = phi(x)' w + noise, w ~ N(w0, noise^2 C C'), with phi, w0, C and the noise trained on the predictive
    log-likelihood of the targets. The paper knows the noise; here it is learned, as nothing tells a model of it.

    Args:
        dx: input size.
        dy: output size.
        num_features: m.
        basis: "mlp", as published, or "fourier".
        covariance: "full" learns C, "diagonal" only its diagonal.
        law: "marginal" trains and predicts each target alone, "joint" all of a task's together.
        dim_hidden: width of the network of the basis.
    """

    cost = "nc m^2 + m^3 + nt m^2"
    min_stddev = 0.005

    def __init__(
        self,
        dx: int,
        dy: int,
        num_features: int = 64,
        basis: Literal["mlp", "fourier"] = "mlp",
        covariance: Literal["full", "diagonal"] = "full",
        law: Literal["marginal", "joint"] = "marginal",
        dim_hidden: int = 128,
    ):
        super().__init__(dx, dy)
        self.basis = Basis(dx, num_features, basis, dim_hidden)
        start = torch.zeros(num_features)
        if basis == "fourier":  # the middle one of RMNP's priors
            roughness = self.basis.frequencies.detach().norm(dim=-1).repeat(2)[: num_features - 1]
            start = torch.cat([-1.0 - 0.12 * roughness, torch.tensor([-0.7])]) - math.log(0.1)
        self.log_scale = nn.Parameter(start)
        self.mix = nn.Parameter(torch.eye(num_features)) if covariance == "full" else None
        self.mean = nn.Parameter(torch.zeros(num_features, dy))
        self.log_noise = nn.Parameter(torch.full((dy,), math.log(0.1)))
        self.joint = law == "joint"

    def _features(self, x: Tensor) -> Tensor:
        """phi, in which the prior's covariance is diagonal."""
        phi = self.basis(x)
        return phi if self.mix is None else phi @ self.mix.to(phi.dtype)

    def _encode(self, points: Points) -> Moments:
        phi = self._features(points.x.double())
        return moments(phi, points.y.double(), points.mask)

    def _mass(self, summary: Moments) -> Tensor:
        return summary.count

    def _predict(self, state: State, xt: Tensor, mask_t: Tensor | None) -> Predictive:
        own = self.log_noise.dtype
        dtype = own if torch.is_grad_enabled() else torch.float64
        gram, cross = symmetric(state.summary.gram, self.basis.m).to(dtype), state.summary.cross.to(dtype)
        prior = self.mean.to(dtype)
        scale = self.log_scale.to(dtype).exp().expand(len(gram), 1, -1)
        solved = ridge(gram, cross - gram @ prior, scale)
        phi = self._features(xt.to(dtype))
        mean = (phi @ (prior + solved.weights[:, 0])).to(own)
        rows = ridge_rows(gram, scale, solved.whiten, phi)[:, 0].to(own)  # [b, nt, m]
        noise = self.min_stddev + self.log_noise.exp()
        if self.joint:
            return LowRankGaussian(mean, noise[:, None] * rows[:, :, None], noise.expand_as(mean), across=False)
        return DiagonalGaussian(mean, noise * (1 + rows.square().sum(-1, keepdim=True)).sqrt())
