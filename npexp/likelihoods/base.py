"""The interfaces of this package: `Predictive` laws, and the `Likelihood`s whose heads make them.

A law's tensors start with the axes `[*s, b, nt]`. Without leading axes it is what a model predicts; with one, `s` laws
side by side, which `SetMixture` turns into a mixture over whole sets.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from copy import copy
from functools import cache

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from npexp.errors import ConfigError, ShapeError
from npexp.layers.mlp import Features, mlp

BISECTIONS = 48
CRPS_NODES = 24


class Predictive(ABC):
    """A distribution over the outputs of `b` tasks at `nt` targets each.

    *Joint* numbers treat a task's targets as one random vector; *marginal* ones treat each target alone. The two agree
    for a factorised law and must never be ranked against each other.
    """

    @property
    @abstractmethod
    def mean(self) -> Float[Tensor, "*s b nt dy"]:
        """Mean of each output."""

    @property
    @abstractmethod
    def stddev(self) -> Float[Tensor, "*s b nt dy"]:
        """Standard deviation of each output."""

    @abstractmethod
    def joint_log_prob(
        self, yt: Float[Tensor, "b nt dy"], mask_t: Bool[Tensor, "b nt"] | None = None
    ) -> Float[Tensor, "*s b"]:
        """log p(y_1, ..., y_nt) over the real targets, in nats; padded slots of yt may hold anything."""

    @abstractmethod
    def marginal_log_prob(self, yt: Float[Tensor, "b nt dy"]) -> Float[Tensor, "*s b nt"]:
        """log p(y_i) of each target alone, its outputs together, in nats."""

    @abstractmethod
    def sample(self, n: int, seed: int | None = None) -> Float[Tensor, "n *s b nt dy"]:
        """Draws, coherent across targets where the law is joint.

        Args:
            n: number of draws.
            seed: None draws from PyTorch's global generator, independently for every task. A number gives common
                random numbers: the same standard noise for every task, whatever the batch or the padding.
        """

    @abstractmethod
    def cdf(self, y: Float[Tensor, "... b nt dy"]) -> Float[Tensor, "... b nt dy"]:
        """P(Y <= y) of each output alone; leading axes broadcast."""

    def icdf(self, level: Float[Tensor, "... b nt dy"]) -> Float[Tensor, "... b nt dy"]:
        """Smallest y with P(Y <= y) >= level, 0 < level < 1; leading axes broadcast.

        By default bisection of `cdf` between Cantelli's bounds mean - stddev sqrt((1 - p) / p) and
        mean + stddev sqrt(p / (1 - p)), which hold for every law with a variance.
        """
        mean, stddev, odds = self.mean, self.stddev, (level / (1 - level)).sqrt()
        low, high = mean - 1.01 * stddev / odds, mean + 1.01 * stddev * odds
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            below = self.cdf(middle) < level
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return high

    def quantile(self, levels: Float[Tensor, " q"] | Sequence[float]) -> Float[Tensor, "q b nt dy"]:
        """Values below which each output falls with the given probabilities, 0 < level < 1."""
        mean = self.mean
        levels = torch.as_tensor(levels).to(mean)
        if levels.ndim != 1 or not bool(((levels > 0) & (levels < 1)).all()):
            raise ConfigError(f"expected a list of levels between 0 and 1, got {levels.tolist()}: correct them")
        return self.icdf(levels[:, None, None, None].expand(-1, *mean.shape))

    def crps(self, y: Float[Tensor, "b nt dy"]) -> Float[Tensor, "b nt dy"]:
        """Continuous ranked probability score of each output alone (Gneiting & Raftery 2007), in units of y.

        By default twice the quantile loss, integrated over levels by Gauss-Legendre quadrature on either side of F(y):
        exact to about 1e-3 of a standard deviation for laws with a density.
        """
        at_y = self.cdf(y)
        nodes, weights = (torch.as_tensor(v).to(at_y)[:, None, None, None] for v in _gauss_legendre())
        low, high = at_y * nodes, at_y + (1 - at_y) * nodes
        tiny = torch.finfo(at_y.dtype).eps
        below = (low * (y - self.icdf(low.clamp(tiny, 1 - tiny))) * weights).sum(0) * at_y
        above = ((1 - high) * (self.icdf(high.clamp(tiny, 1 - tiny)) - y) * weights).sum(0) * (1 - at_y)
        return 2 * (below + above)

    def collapsed(self) -> "Predictive | None":
        """The law of each output alone under an equal mixture over the first axis, where it is of the same family."""
        return None

    def pick(self, *index: Tensor) -> "Predictive":
        """The laws at these indices of the leading axes: every tensor, indexed."""
        law = copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(law, name, value[index])
            elif isinstance(value, Predictive):
                setattr(law, name, value.pick(*index))
        return law


class Factorised(Predictive):
    """A law under which all outputs are independent: a density of each is all it takes."""

    @abstractmethod
    def log_density(self, y: Float[Tensor, "... b nt dy"]) -> Float[Tensor, "... b nt dy"]:
        """Log density, or log mass, of each output."""

    def joint_log_prob(
        self, yt: Float[Tensor, "b nt dy"], mask_t: Bool[Tensor, "b nt"] | None = None
    ) -> Float[Tensor, "*s b"]:
        """The sum of the marginals, O(nt)."""
        check_outputs(yt, self.mean, mask_t)
        # NaN in a padded slot must reach neither values nor gradients, and every law allows one of its own outputs
        log_prob = self.log_density(hide_padding(yt, self.inside(), mask_t)).sum(-1)
        if mask_t is not None:
            log_prob = torch.where(mask_t, log_prob, torch.zeros_like(log_prob))
        return log_prob.sum(-1)

    def marginal_log_prob(self, yt: Float[Tensor, "b nt dy"]) -> Float[Tensor, "*s b nt"]:
        """Log density of each target, summed over outputs."""
        check_outputs(yt, self.mean)
        return self.log_density(yt).sum(-1)

    def inside(self) -> Float[Tensor, "*s b nt dy"]:
        """Some outputs where the density is finite; the mean, unless a law says otherwise."""
        return self.mean.detach()


class Likelihood(nn.Module, ABC):
    """The family of laws that a model predicts with, and its settings.

    A model asks for a `head` once, giving the width of its features; the head does the rest. Most families read each
    target's features alone. A family that lets targets see each other overrides `head`.

    Attributes:
        joint: whether targets of one draw depend on each other.
        consistent: whether the law of a target is the same whichever other targets are asked for.
    """

    joint: bool = False
    consistent: bool = True

    @abstractmethod
    def num_features(self, dy: int) -> int:
        """How many numbers per target the law wants, for outputs of size dy."""

    @abstractmethod
    def forward(self, features: Float[Tensor, "*s b nt f"]) -> Predictive:
        """Features of each target to a law; with an axis in front of `b`, to as many laws side by side."""

    def head(self, dim_in: int, dim_hidden: int, dy: int, depth: int) -> "Head":
        """A network from a target's features to its law.

        Args:
            dim_in: width of what the model computed for each target.
            dim_hidden: width of the hidden layers.
            dy: output size.
            depth: linear layers.
        """
        return Head(self, mlp(dim_in, dim_hidden, self.num_features(dy), depth))


class Head(nn.Module):
    """What stands at the end of every model: a network over targets, then the law.

    Args:
        likelihood: the family.
        network: `[*s, b, nt, dim_in]` to `[*s, b, nt, f]`.
    """

    def __init__(self, likelihood: Likelihood, network: nn.Module):
        super().__init__()
        self.likelihood, self.network = likelihood, network

    def forward(self, h: Features, mask_t: Bool[Tensor, "b nt"] | None = None) -> Predictive:
        """The law at the targets, of features `[*s, b, nt, dim_in]`; padded ones are of no consequence for the others.

        Numbers are float32 or better from here on, whatever autocast says.
        """
        features = self.network(h)
        return self.likelihood(features.to(torch.promote_types(features.dtype, torch.float32)))


def standard_normal(n: int, like: Float[Tensor, "*s b nt dy"], seed: int | None) -> Float[Tensor, "n *s b nt dy"]:
    """Noise for `Predictive.sample`, `[n, *s, b, nt, dy]`; with a seed the same for every task and every padding."""
    if seed is None:
        return torch.randn(n, *like.shape, dtype=like.dtype, device=like.device)
    *s, _, nt, dy = like.shape
    # NumPy fills in order, so the noise of the first targets does not depend on how many follow
    noise = np.random.default_rng(seed).standard_normal((nt, dy, n, *s))
    return torch.as_tensor(noise).to(like).movedim((0, 1), (-2, -1)).unsqueeze(-3).expand(n, *like.shape)


def check_outputs(yt: Tensor, like: Tensor, mask_t: Tensor | None = None) -> None:
    """Raises `ShapeError` unless yt `[b, nt, dy]` and the mask `[b, nt]` fit the predicted outputs `like`."""
    if yt.shape != like.shape[-3:]:
        raise ShapeError(f"expected outputs {list(like.shape[-3:])} as predicted, got {list(yt.shape)}")
    if mask_t is not None and (mask_t.dtype != torch.bool or mask_t.shape != yt.shape[:2]):
        raise ShapeError(f"expected a boolean mask {list(yt.shape[:2])}, got {mask_t.dtype} {list(mask_t.shape)}")


def hide_padding(
    yt: Float[Tensor, "b nt dy"], fill: Float[Tensor, "*s b nt dy"], mask_t: Bool[Tensor, "b nt"] | None
) -> Float[Tensor, "*s b nt dy"]:
    """yt with its padded slots replaced by `fill`, so that NaN there reaches neither values nor gradients."""
    return yt.expand_as(fill) if mask_t is None else torch.where(mask_t[..., None], yt, fill)


@cache
def _gauss_legendre() -> tuple[np.ndarray, np.ndarray]:
    nodes, weights = np.polynomial.legendre.leggauss(CRPS_NODES)
    return (nodes + 1) / 2, weights / 2
