"""Ridge-Moment Neural Process."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from npexp.errors import at_least
from npexp.layers.basis import Basis, Kind
from npexp.layers.domain import Domain
from npexp.layers.experts import ExpertTokens
from npexp.layers.mlp import FeedForward, mlp
from npexp.layers.moments import Moments
from npexp.layers.ridge import RidgeMemory
from npexp.likelihoods import Likelihood, Predictive
from npexp.likelihoods.experts import Law, check_law, expert_head
from npexp.models.additive import AdditiveNeuralProcess
from npexp.models.base import Points, State


class RMNP(AdditiveNeuralProcess):
    """Moments of learned features, solved after pooling under many priors, then corrected per target. By this project.

    The context is kept as G = sum phi(x) phi(x)', S = sum phi(x) y', sum y, sum y^2 and n, whatever nc: 2,147 numbers
    at m = 64, 17 KB in float64. `predict` solves ridge regressions under learned priors, weighs them by
    evidence, infers better priors from evidences and residuals, solves these, and lets a small network correct the
    experts' predictions at each target. Points are added, removed, merged and forgotten exactly.

    Where a function is smooth, or its spectrum is what varies, this learns in a minute what attention learns in hours.
    Its core is a linear smoother: edges and jumps want `RMNPHybrid`. Features for a smooth function on a box of side a
    with lengthscale l number (a / l)^dx, so it is for one to three input dimensions, or for slowly varying functions.

    Cost O(nc m^2) once, O(k m^3) per `predict`, O(nt k m^2) for its targets, with k = num_priors + num_refined experts.

    Args:
        dx: input size.
        dy: output size; the outputs of a point are observed together.
        num_features: m, a constant and waves of the inputs.
        basis: "fourier", "mlp" or "fourier_mlp".
        domain: (low, high) of the inputs on every axis; None is measured by `adapt`, which `npexp fit` calls before the
            first step, and [-2, 2] until then. Inputs further out than 0.19 of its width are refused, unless they may
            lie anywhere (`stationary`).
        num_priors: learned priors.
        num_refined: priors inferred from these; 0 for none.
        dz: width of the network over targets.
        num_layers: its layers.
        dim_feedforward: hidden width of each.
        dim_head: hidden width of the networks over evidences, and of the head.
        law: what is predicted: a "mixture" of the experts and a free normal for each target, one normal "anchored" at
            their moments, or the experts' "joint" law of all targets.
        min_stddev: floor of the law's standard deviations, in units of y; experts assume at least 0.01 of noise.
        misfit: whether experts that fit worse than they expect widen their laws.
        shared_noise: whether outputs share priors and noise; else each has its own, at dy times the cost of solving.
        accumulate: dtype of the state, "float64" or "float32".
        robust: adds eight priors that are not learned, Matérn-5/2 functions of several lengthscales, for tasks of
            another law than those of training; costs nearly twice as much, and wants 96 features in one dimension.
        cycles: of the fastest waves along each axis at first, over 1.375 widths of the domain, such as [30, 2] where
            functions change much faster along the first; None is m / 2 in one dimension, (m / 2)^(1/dx) in more.
        stationary: knows differences of inputs only. Moving all of them changes nothing, and those outside the domain
            are not refused, up to a thousand widths of it in float32: series and streams may go on. What is kept and
            what is asked for should still lie within 1.2 widths of the domain; at 1.375 the slowest wave returns.
        likelihood: a head that sees the features only, in place of `law` and `min_stddev`.
    """

    cost = "nc m^2 + k m^3 + nt k m^2"

    def __init__(
        self,
        dx: int,
        dy: int,
        num_features: int = 64,
        basis: Kind = "fourier",
        domain: Sequence[float] | None = None,
        num_priors: int = 6,
        num_refined: int = 3,
        dz: int = 64,
        num_layers: int = 2,
        dim_feedforward: int = 128,
        dim_head: int = 128,
        law: Law = "mixture",
        min_stddev: float = 0.005,
        misfit: bool = True,
        shared_noise: bool = True,
        accumulate: Literal["float64", "float32"] = "float64",
        robust: bool = False,
        cycles: Sequence[float] | None = None,
        stationary: bool = False,
        likelihood: Likelihood | None = None,
    ):
        super().__init__(dx, dy)
        at_least("num_layers", num_layers, 0)
        self.domain = Domain(dx, domain, bounded=not stationary)
        self.translation_equivariant = stationary
        self.basis = Basis(dx, num_features, basis, cycles=cycles)
        self.memory = RidgeMemory(
            self.basis, dy, num_priors, num_refined, dz, dim_head, misfit, shared_noise, accumulate, robust, stationary
        )
        self.tokens = ExpertTokens(dy, self.memory.num_experts, dz)
        self.place = None if stationary else mlp(dx + num_features - 1, dz, dz, 2, "gelu")
        self.layers = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(dz), FeedForward(dz, dim_feedforward)) for _ in range(num_layers)
        )
        self.corrects = likelihood is None
        check_law(law, likelihood)
        if self.corrects:
            self.head = expert_head(law, dz, dim_head, dy, self.memory.num_experts, min_stddev, shared_noise)
            self.joint = self.head.joint
        else:
            self._use_head(likelihood, dz, dim_head, 2)

    def adapt(self, x: Tensor) -> None:
        """Takes the range of training inputs, where no domain was given, once."""
        self.domain.adapt(x)

    def _encode(self, points: Points) -> Moments:
        return self.memory.pool(self.domain("context", points.x, points.mask), points.y, points.mask)

    def _mass(self, summary: Moments) -> Tensor:
        return summary.count

    def _predict(self, state: State, xt: Tensor, mask_t: Tensor | None) -> Predictive:
        x = self.domain("target", xt, mask_t)
        solved = self.memory.solve(state.summary)
        experts = self.memory.read(solved, x, rows=self.corrects and self.joint)
        h = self.tokens(experts) + solved.code[:, None]
        if self.place is not None:
            h = h + self.place(torch.cat([x, self.basis.waves(x)], -1))
        for layer in self.layers:
            h = h + layer(h)
        return self.head(h, experts) if self.corrects else self.head(h, mask_t)
