"""Ridge moments and located sums together."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from torch import Tensor

from npexp.layers.basis import Basis, Kind
from npexp.layers.domain import Domain
from npexp.layers.experts import ExpertTokens
from npexp.layers.located import Heaps, LocatedMemory, LocatedStack
from npexp.layers.moments import Moments
from npexp.layers.ridge import RidgeMemory
from npexp.likelihoods import Likelihood, Predictive
from npexp.likelihoods.experts import Law, check_law, expert_head
from npexp.models.additive import AdditiveNeuralProcess
from npexp.models.base import Points, State


class HybridSums(NamedTuple):
    """Both memories."""

    ridge: Moments
    located: Heaps


class RMNPHybrid(AdditiveNeuralProcess):
    """RMNP whose experts are corrected by an LPNP: constant memory for functions with edges. By this project.

    The ridge experts are read at the places too, so that what the linear smoother cannot explain is known where it
    happens. Everything that holds for the states of `RMNP` and `LPNP` holds here.

    Cost and arguments as of these two.

    Args:
        dx: input size.
        dy: output size.
        num_features: m, a constant and waves of the inputs.
        basis: "fourier", "mlp" or "fourier_mlp".
        domain: (low, high) of the inputs on every axis; None is measured by `adapt`, which `npexp fit` calls before the
            first step, and [-2, 2] until then. Inputs further out than 0.19 of its width are refused.
        num_priors: learned priors.
        num_refined: priors inferred from these; 0 for none.
        num_locations: places; a lattice at first where it is a dx-th power, else spread evenly.
        num_widths: widths of the kernels around each place.
        dz: width of the tokens.
        num_layers: layers over places and targets.
        num_heads: attention heads.
        dim_feedforward: hidden width of the feed-forward networks.
        dim_head: hidden width of the networks over evidences, and of the head.
        law: see `RMNP`.
        min_stddev: floor of the law's standard deviations, in units of y; experts assume at least 0.01 of noise.
        misfit: whether experts that fit worse than they expect widen their laws.
        shared_noise: whether outputs share priors and noise.
        accumulate: dtype of the moments, "float64" or "float32".
        likelihood: a head that sees the features only, in place of `law` and `min_stddev`.
    """

    cost = "nc (m^2 + l) + k m^3 + l^2 + nt (k m^2 + l)"

    def __init__(
        self,
        dx: int,
        dy: int,
        num_features: int = 64,
        basis: Kind = "fourier",
        domain: Sequence[float] | None = None,
        num_priors: int = 4,
        num_refined: int = 2,
        num_locations: int = 24,
        num_widths: int = 8,
        dz: int = 64,
        num_layers: int = 3,
        num_heads: int = 4,
        dim_feedforward: int = 128,
        dim_head: int = 128,
        law: Law = "mixture",
        min_stddev: float = 0.005,
        misfit: bool = True,
        shared_noise: bool = True,
        accumulate: Literal["float64", "float32"] = "float64",
        likelihood: Likelihood | None = None,
    ):
        super().__init__(dx, dy)
        self.domain = Domain(dx, domain)
        features = Basis(dx, num_features, basis)
        self.ridge = RidgeMemory(features, dy, num_priors, num_refined, dz, dim_head, misfit, shared_noise, accumulate)
        self.located = LocatedMemory(features, dx, dy, num_locations, num_widths, dz)
        self.tokens = ExpertTokens(dy, self.ridge.num_experts, dz)
        self.stack = LocatedStack(self.located.step, num_layers, dz, num_heads, dim_feedforward)
        self.corrects = likelihood is None
        check_law(law, likelihood)
        if self.corrects:
            self.head = expert_head(law, dz, dim_head, dy, self.ridge.num_experts, min_stddev, shared_noise)
            self.joint = self.head.joint
        else:
            self._use_head(likelihood, dz, dim_head, 2)

    def adapt(self, x: Tensor) -> None:
        """Takes the range of training inputs, where no domain was given, once."""
        self.domain.adapt(x)

    def _encode(self, points: Points) -> HybridSums:
        x = self.domain("context", points.x, points.mask)
        return HybridSums(self.ridge.pool(x, points.y, points.mask), self.located.pool(x, points.y, points.mask))

    def _mass(self, summary: HybridSums) -> Tensor:
        return summary.ridge.count

    def _predict(self, state: State, xt: Tensor, mask_t: Tensor | None) -> Predictive:
        x, z = self.domain("target", xt, mask_t), self.located.places
        solved = self.ridge.solve(state.summary.ridge)
        experts = self.ridge.read(solved, x, rows=self.corrects and self.joint)
        at_places = self.tokens(self.ridge.read(solved, z.expand(x.shape[0], -1, -1)))
        h = self.tokens(experts) + solved.code[:, None] + self.located.at(x)
        h = self.stack(self.located.tokens(state.summary.located) + at_places, z, h, x)
        return self.head(h, experts) if self.corrects else self.head(h, mask_t)
