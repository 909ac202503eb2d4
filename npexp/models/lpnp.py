"""Located-Pooling Neural Process."""

from collections.abc import Sequence

from torch import Tensor

from npexp.layers.basis import Basis
from npexp.layers.domain import Domain
from npexp.layers.located import Heaps, LocatedMemory, LocatedStack
from npexp.likelihoods import Likelihood, Predictive
from npexp.models.additive import AdditiveNeuralProcess
from npexp.models.base import Points, State


class LPNP(AdditiveNeuralProcess):
    """Sums around learned places, a Transformer over the places, read by targets near them. By this project.

    Points are pooled with Gaussian weights of several widths around m places, which keeps a plain sum per place and
    width; self-attention over places and the targets' reads are biased by distance. Points are added, removed, merged
    and forgotten exactly. For images and fields with edges, where a ConvCNP would do too, but with learned
    places instead of a lattice.

    Cost O(nc m num_widths) once, O(m^2 + nt m) per layer of `predict`; state O(m num_widths).

    Args:
        dx: input size.
        dy: output size.
        num_locations: m, places; a lattice at first where it is a dx-th power, else spread evenly.
        num_widths: widths of the kernels around each place.
        num_features: one more than the waves in the embeddings of x.
        domain: (low, high) of the inputs on every axis; None is measured by `adapt`, which `npexp fit` calls before the
            first step, and [-2, 2] until then. Inputs further out than 0.19 of its width are refused.
        dz: width of the tokens.
        num_layers: layers.
        num_heads: attention heads.
        dim_feedforward: hidden width of the feed-forward networks.
        dim_head: hidden width of the network in front of the likelihood.
        likelihood: the head; None is a Gaussian with floor 0.01.
    """

    cost = "nc m + m^2 + nt m"

    def __init__(
        self,
        dx: int,
        dy: int,
        num_locations: int = 24,
        num_widths: int = 8,
        num_features: int = 64,
        domain: Sequence[float] | None = None,
        dz: int = 64,
        num_layers: int = 3,
        num_heads: int = 4,
        dim_feedforward: int = 128,
        dim_head: int = 128,
        likelihood: Likelihood | None = None,
    ):
        super().__init__(dx, dy)
        self.domain = Domain(dx, domain)
        basis = Basis(dx, num_features)
        self.memory = LocatedMemory(basis, dx, dy, num_locations, num_widths, dz)
        self.stack = LocatedStack(self.memory.step, num_layers, dz, num_heads, dim_feedforward)
        self._use_head(likelihood, dz, dim_head, 2)

    def adapt(self, x: Tensor) -> None:
        """Takes the range of training inputs, where no domain was given, once."""
        self.domain.adapt(x)

    def _encode(self, points: Points) -> Heaps:
        return self.memory.pool(self.domain("context", points.x, points.mask), points.y, points.mask)

    def _mass(self, summary: Heaps) -> Tensor:
        return summary.count

    def _predict(self, state: State, xt: Tensor, mask_t: Tensor | None) -> Predictive:
        x = self.domain("target", xt, mask_t)
        h = self.stack(self.memory.tokens(state.summary), self.memory.places, self.memory.at(x), x)
        return self.head(h, mask_t)
