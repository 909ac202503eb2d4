"""Gridded Transformer neural process."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

from jaxtyping import Bool, Float
from torch import Tensor

from npexp.errors import UnknownNameError, at_least
from npexp.layers.attention import check_heads
from npexp.layers.gridding import CellAttention, KernelInterpolation, NearestRead
from npexp.layers.processor import Processor
from npexp.layers.product_lattice import ProductLattice, per_axis
from npexp.likelihoods import Likelihood, Predictive
from npexp.models.base import NeuralProcess, Points, State

Encoder = Literal["attention", "kernel"]


class GriddedSummary(NamedTuple):
    """What targets read.

    Args:
        pool: what each lattice point has gathered from the data; merges exactly.
        tokens: pseudo-tokens after the processor, `[b, m, dz]`; follow from the pool. None between chunks of points.
    """

    pool: Any
    tokens: Tensor | None


class GriddedTNP(NeuralProcess):
    """Points are gathered on a lattice of pseudo-tokens, a Transformer mixes these, targets read the nearest ones.

    Ashman et al. 2024 (arXiv 2410.06731): ViT-TNP and Swin-TNP, with the pseudo-token or the kernel-interpolation grid
    encoder. Time O(nc + m w^dx + nt k^dx) for m lattice points, windows of w and k neighbours; without windows O(m^2).
    The lattice is fixed by the settings, not by the data, so that states are of constant size and points can be added
    exactly: O(new) and one pass of the processor.

    Use it for many points in one to three dimensions, such as images, stations, fields over space and time. Inputs must
    lie in `domain`. Use a Transformer on the points themselves where inputs have no bounds or more dimensions.

    Differs from the release: pseudo-tokens are read once, after the last layer; all start from one learned token and
    attend to themselves too; points and targets are embedded relative to their nearest lattice point.

    Args:
        dx: input size, 1 to 3.
        dy: output size.
        domain: (low, high) of the inputs, or one such pair per axis.
        points_per_unit: lattice points per unit of x, or one such number per axis.
        periodic: whether the axes close, such as longitude; one value or one per axis.
        dz: width of the tokens.
        num_layers: layers of the processor.
        num_heads: attention heads.
        dim_feedforward: hidden width of the feed-forward networks.
        encoder: "attention" lets each lattice point attend to its points, "kernel" spreads points by a kernel, which
            can be undone: points can be removed.
        patch: lattice points per token of the processor, one value or one per axis.
        window: patches per window of a Swin processor, one value or one per axis; None for a ViT.
        num_neighbours: k, lattice points that a target reads, and that the kernel reaches, along each axis.
        dim_head: hidden width of the network in front of the likelihood.
        likelihood: the head; None is a Gaussian with floor 0.01.

    Raises:
        ConfigError: settings that contradict each other.
    """

    update_rule = "exact"
    constant_state = True
    foldable = True

    def __init__(
        self,
        dx: int,
        dy: int,
        domain: Sequence[float] | Sequence[Sequence[float]] = (-2.0, 2.0),
        points_per_unit: float | Sequence[float] = 16.0,
        periodic: bool | Sequence[bool] = False,
        dz: int = 64,
        num_layers: int = 4,
        num_heads: int = 4,
        dim_feedforward: int = 128,
        encoder: Encoder = "attention",
        patch: int | Sequence[int] = 1,
        window: int | Sequence[int] | None = 8,
        num_neighbours: int = 3,
        dim_head: int = 64,
        likelihood: Likelihood | None = None,
    ):
        super().__init__(dx, dy)
        at_least("num_neighbours", num_neighbours, 1)
        check_heads(dz, num_heads)
        if encoder not in get_args(Encoder):
            raise UnknownNameError("encoder", encoder, get_args(Encoder))
        patches = tuple(at_least("patch", p, 1) for p in per_axis("patch", patch, dx))
        windows = None if window is None else per_axis("window", window, dx)
        self.lattice = ProductLattice.dense(dx, domain, points_per_unit, periodic, patches)
        if encoder == "kernel":
            self.encoder = KernelInterpolation(self.lattice, dy, dz, num_neighbours)
        else:
            self.encoder = CellAttention(self.lattice, dy, dz, num_heads, dim_feedforward)
        self.processor = Processor(
            self.lattice.shape, self.lattice.periodic, dz, num_layers, num_heads, dim_feedforward, patches, windows
        )
        self.decoder = NearestRead(self.lattice, dz, num_heads, dim_feedforward, num_neighbours)
        self._use_head(likelihood, dz, dim_head, 2)
        self.remove_rule = "exact" if self.encoder.removable else "none"
        self.cost = "nc + m^2 + nt k^dx" if window is None else "nc + m w^dx + nt k^dx"

    def encode(
        self,
        xc: Float[Tensor, "b nc dx"],
        yc: Float[Tensor, "b nc dy"],
        mask_c: Bool[Tensor, "b nc"] | None = None,
    ) -> State:
        """Conditions on a context; the processor runs once, however many chunks the points come in."""
        return self._processed(super().encode(xc, yc, mask_c))

    def update(
        self,
        state: State,
        x: Float[Tensor, "b n dx"],
        y: Float[Tensor, "b n dy"],
        mask: Bool[Tensor, "b n"] | None = None,
    ) -> State:
        """A state that has seen the new points too: O(n) and one pass of the processor."""
        return self._processed(super().update(state, x, y, mask))

    def remove(
        self,
        state: State,
        x: Float[Tensor, "b n dx"],
        y: Float[Tensor, "b n dy"],
        mask: Bool[Tensor, "b n"] | None = None,
    ) -> State:
        """A state that has not seen these points, with the kernel encoder: O(n) and one pass of the processor."""
        return self._processed(super().remove(state, x, y, mask))

    def _processed(self, state: State) -> State:
        pool = state.summary.pool
        return state._replace(summary=GriddedSummary(pool, self.processor(self.encoder.tokens(pool))))

    def _encode(self, points: Points) -> GriddedSummary:
        self.lattice.check("context", points.x, points.mask)
        return GriddedSummary(self.encoder.pool(*points), None)

    def _extend(self, summary: GriddedSummary, points: Points) -> GriddedSummary:
        return GriddedSummary(self.encoder.merge(summary.pool, self._encode(points).pool), None)

    def _retract(self, summary: GriddedSummary, points: Points) -> GriddedSummary:
        return GriddedSummary(self.encoder.without(summary.pool, self._encode(points).pool), None)

    def _predict(self, state: State, xt: Tensor, mask_t: Tensor | None) -> Predictive:
        self.lattice.check("target", xt, mask_t)
        return self.head(self.decoder(xt, state.summary.tokens), mask_t)
