"""Laws of transformed outputs: any likelihood behind an increasing map, and predictions in other units."""

import math
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.special import ndtr

from npexp.errors import ConfigError, ShapeError
from npexp.layers.mlp import Features
from npexp.likelihoods.base import Head, Likelihood, Predictive, check_outputs
from npexp.likelihoods.bernoulli_gamma import BernoulliGamma
from npexp.likelihoods.discrete import Bernoulli, Categorical
from npexp.likelihoods.student import StudentT
from npexp.likelihoods.support import check_support
from npexp.likelihoods.transforms import Shift, Transform, make_transform

SCORES, STEP = 7.5, 0.125  # normal scores at which moments are integrated: what lies beyond has mass 1e-13


class TransformedLaw(Predictive):
    """The law of y = g(z) for a law of z with a density and an increasing map g.

    Densities, distribution function, quantiles and draws are exact. Mean and standard deviation integrate the quantile
    function over levels Phi(t), by the trapezoidal rule in t from -7.5 to 7.5 in float64: as good as exact unless y
    grows exponentially in z and the standard deviation of z is above about 2, or z has heavy tails (Student-t with
    few degrees of freedom), where the tail left out begins to count.

    Args:
        law: of z.
        transform: g.
    """

    def __init__(self, law: Predictive, transform: Transform):
        self.law, self.transform = law, transform

    @property
    def mean(self) -> Float[Tensor, "*s b nt dy"]:
        """Mean of each output."""
        return self._moments()[0]

    @property
    def stddev(self) -> Float[Tensor, "*s b nt dy"]:
        """Standard deviation of each output."""
        return self._moments()[1]

    def joint_log_prob(
        self, yt: Float[Tensor, "b nt dy"], mask_t: Bool[Tensor, "b nt"] | None = None
    ) -> Float[Tensor, "*s b"]:
        """The joint log density of z less the log slopes.

        Raises:
            DataError: a real target outside the map's range.
        """
        check_outputs(yt, self.law.mean, mask_t)
        ok = self._inside(yt)
        check_support(ok, yt, mask_t, f"strictly between {self.transform.low:g} and {self.transform.high:g}")
        z = self._inverse(yt, ok if mask_t is None else ok & mask_t[..., None])
        log_slope = self.transform.log_slope(z)
        if mask_t is not None:
            log_slope = torch.where(mask_t[..., None], log_slope, torch.zeros_like(log_slope))
        return self.law.joint_log_prob(z, mask_t) - log_slope.sum((-2, -1))

    def marginal_log_prob(self, yt: Float[Tensor, "b nt dy"]) -> Float[Tensor, "*s b nt"]:
        """Log density of each target; -inf outside the map's range."""
        check_outputs(yt, self.law.mean)
        ok = self._inside(yt)
        z = self._inverse(yt, ok)
        log_prob = self.law.marginal_log_prob(z) - self.transform.log_slope(z).sum(-1)
        return torch.where(ok.all(-1), log_prob, torch.full_like(log_prob, -torch.inf))

    def sample(self, n: int, seed: int | None = None) -> Float[Tensor, "n *s b nt dy"]:
        """Transformed draws; one that rounds to an end of the range is moved to the nearest number inside."""
        draws = self.transform.forward(self.law.sample(n, seed))
        low, high = (draws.new_tensor(end) for end in (self.transform.low, self.transform.high))
        return draws.clamp(torch.nextafter(low, high), torch.nextafter(high, low))

    def cdf(self, y: Float[Tensor, "... b nt dy"]) -> Float[Tensor, "... b nt dy"]:
        """That of z at the inverse; 0 below the map's range and 1 above."""
        ok = self._inside(y)
        outside = (y > self.transform.low).to(y.dtype)
        return torch.where(ok, self.law.cdf(self._inverse(y, ok)), outside)

    def icdf(self, level: Float[Tensor, "... b nt dy"]) -> Float[Tensor, "... b nt dy"]:
        """Transformed quantiles."""
        return self.transform.forward(self.law.icdf(level))

    def _inside(self, y: Tensor) -> Tensor:
        return (y > self.transform.low) & (y < self.transform.high)

    def _inverse(self, y: Tensor, ok: Tensor) -> Tensor:
        """z where ok; elsewhere y is replaced first, so that nothing but finite numbers is computed with."""
        return self.transform.inverse(torch.where(ok, y, self.transform.forward(torch.zeros_like(y))))

    def _moments(self) -> tuple[Tensor, Tensor]:
        like = self.law.mean
        t = torch.arange(-SCORES, SCORES + STEP, STEP, dtype=torch.float64)
        if like.device.type == "mps":  # without float64, levels beyond 5 round to 1
            t = t[t.abs() <= 5].float()
        t = t.to(like.device)
        weight = (-0.5 * t.square()).exp()
        t, weight = (v.view(-1, *[1] * like.ndim) for v in (t, weight / weight.sum()))
        y = self.icdf(ndtr(t).expand(-1, *like.shape))
        mean = (weight * y).sum(0)
        variance = torch.where(mean.isfinite(), (weight * (y - mean).square()).sum(0), torch.inf)
        return mean.to(like.dtype), variance.sqrt().to(like.dtype)


class Affine(Predictive):
    """The law of y = shift + scale z: a prediction in other units, with everything exact.

    Args:
        law: of z, which has a density.
        shift: `[dy]`, or a number, in units of y; a float64 tensor makes everything in units of y float64.
        scale: `[dy]`, or a number, positive, in units of y.

    Raises:
        ShapeError: a shift or scale of another size.
        ConfigError: a scale that is not positive.
    """

    def __init__(self, law: Predictive, shift: Tensor | float, scale: Tensor | float):
        like = law.mean
        dtype = like.dtype
        for value in (shift, scale):
            dtype = torch.promote_types(dtype, value.dtype) if isinstance(value, Tensor) else dtype
        shift, scale = (torch.as_tensor(v).to(like.device, dtype) for v in (shift, scale))
        for name, value in (("shift", shift), ("scale", scale)):
            if value.ndim and value.shape != like.shape[-1:]:
                raise ShapeError(f"expected {name} [{like.shape[-1]}], one per output, got {list(value.shape)}")
        if not bool((scale > 0).all() & scale.isfinite().all() & shift.isfinite().all()):
            raise ConfigError(f"expected a finite shift and a scale > 0, got {shift.tolist()} and {scale.tolist()}")
        self.law, self.shift, self.scale = law, shift.expand(like.shape), scale.expand(like.shape)

    @property
    def mean(self) -> Float[Tensor, "*s b nt dy"]:
        """Mean of each output."""
        return self.shift + self.scale * self.law.mean

    @property
    def stddev(self) -> Float[Tensor, "*s b nt dy"]:
        """Standard deviation of each output."""
        return self.scale * self.law.stddev

    def joint_log_prob(
        self, yt: Float[Tensor, "b nt dy"], mask_t: Bool[Tensor, "b nt"] | None = None
    ) -> Float[Tensor, "*s b"]:
        """The joint log density of z less log scale for each real output."""
        check_outputs(yt, self.shift, mask_t)
        log_scale = self.scale.log()
        if mask_t is not None:
            log_scale = torch.where(mask_t[..., None], log_scale, torch.zeros_like(log_scale))
        return self.law.joint_log_prob(self._to_law(yt), mask_t) - log_scale.sum((-2, -1))

    def marginal_log_prob(self, yt: Float[Tensor, "b nt dy"]) -> Float[Tensor, "*s b nt"]:
        """Log density of each target."""
        check_outputs(yt, self.shift)
        return self.law.marginal_log_prob(self._to_law(yt)) - self.scale.log().sum(-1)

    def sample(self, n: int, seed: int | None = None) -> Float[Tensor, "n *s b nt dy"]:
        """Draws of z in the new units."""
        return self.shift + self.scale * self.law.sample(n, seed)

    def cdf(self, y: Float[Tensor, "... b nt dy"]) -> Float[Tensor, "... b nt dy"]:
        """That of z."""
        return self.law.cdf(self._to_law(y))

    def icdf(self, level: Float[Tensor, "... b nt dy"]) -> Float[Tensor, "... b nt dy"]:
        """Quantiles of z in the new units."""
        return self.shift + self.scale * self.law.icdf(level)

    def crps(self, y: Float[Tensor, "b nt dy"]) -> Float[Tensor, "b nt dy"]:
        """That of z, in the new units."""
        return self.scale * self.law.crps(self._to_law(y))

    def _to_law(self, y: Tensor) -> Tensor:
        one = (0,) * (self.shift.ndim - 3)  # shift and scale are the same along leading axes
        return ((y - self.shift[one]) / self.scale[one]).to(self.law.mean.dtype)


class Transformed(Likelihood):
    """Any likelihood with a density, for outputs that follow it after a transform.

    Args:
        likelihood: the law of z, the transformed output.
        transform: "log" (z = log y, y > 0), "softplus" (y = log(1 + exp z), y > 0), "logit" (between `low` and `high`),
            "asinh" (z = asinh(y / scale)) or "affine" (y = shift + scale z).
        transform_args: settings of the transform's own: low, high; scale; shift, scale.

    Raises:
        ConfigError: point masses, which have no density to transform, or heavy tails under an exponential map, which
            would leave y without a mean.
    """

    def __init__(self, likelihood: Likelihood, transform: str, transform_args: dict[str, Any] | None = None):
        super().__init__()
        self.transform = make_transform(transform, transform_args)
        if isinstance(likelihood, Bernoulli | Categorical | BernoulliGamma):
            raise ConfigError(
                f"expected a likelihood with a density, got {type(likelihood).__name__}: use it as it is, untransformed"
            )
        if self.transform.explosive and _heavy(likelihood):
            raise ConfigError(
                f"under '{transform}' Student's t has no mean: use Gaussian or GaussianMixture, or another transform"
            )
        self.likelihood = likelihood
        self.joint, self.consistent = likelihood.joint, likelihood.consistent

    def num_features(self, dy: int) -> int:
        """As many as the likelihood wants."""
        return self.likelihood.num_features(dy)

    def forward(self, features: Float[Tensor, "*s b nt f"]) -> TransformedLaw | Affine:
        """Features to the law of z to the law of y."""
        return self.wrap(self.likelihood(features))

    def wrap(self, law: Predictive) -> TransformedLaw | Affine:
        """The law of y that belongs to a law of z."""
        if isinstance(self.transform, Shift):
            return Affine(law, self.transform.shift, self.transform.scale)
        return TransformedLaw(law, self.transform)

    def head(self, dim_in: int, dim_hidden: int, dy: int, depth: int) -> "TransformedHead":
        """The likelihood's own head, and the transform after it."""
        return TransformedHead(self, self.likelihood.head(dim_in, dim_hidden, dy, depth))


class TransformedHead(Head):
    """Another head, whose law is transformed."""

    def forward(self, h: Features, mask_t: Bool[Tensor, "b nt"] | None = None) -> TransformedLaw | Affine:
        """The law of y at the targets."""
        return self.likelihood.wrap(self.network(h, mask_t))


def _heavy(likelihood: Likelihood) -> bool:
    """Whether the law of z has polynomial tails."""
    if isinstance(likelihood, Transformed):
        return _heavy(likelihood.likelihood) and math.isinf(likelihood.transform.high)
    return isinstance(likelihood, StudentT)
