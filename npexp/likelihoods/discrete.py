"""Outputs that are one of few numbers: yes or no, or a class."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from npexp.errors import at_least
from npexp.likelihoods.base import Likelihood
from npexp.likelihoods.noise import uniform
from npexp.likelihoods.support import Restricted


class IndependentBernoulli(Restricted):
    """Independent outputs that are 0 or 1.

    Args:
        logits: log odds of 1, `[*s, b, nt, dy]`.
    """

    support = "that are 0 or 1"

    def __init__(self, logits: Float[Tensor, "*s b nt dy"]):
        self.logits = logits

    @property
    def probabilities(self) -> Float[Tensor, "*s b nt dy"]:
        """P(Y = 1) of each output."""
        return torch.sigmoid(self.logits)

    def collapsed(self) -> "IndependentBernoulli":
        """The mean probability's law."""
        log_p, log_q = (logsigmoid(v).logsumexp(0) for v in (self.logits, -self.logits))
        return IndependentBernoulli(log_p - log_q)

    @property
    def mean(self) -> Float[Tensor, "*s b nt dy"]:
        """P(Y = 1)."""
        return self.probabilities

    @property
    def stddev(self) -> Float[Tensor, "*s b nt dy"]:
        """sqrt(p (1 - p)), positive even where p rounds to 1."""
        return (0.5 * (logsigmoid(self.logits) + logsigmoid(-self.logits))).exp()

    def contains(self, y: Float[Tensor, "... b nt dy"]) -> Bool[Tensor, "... b nt dy"]:
        """0 or 1."""
        return (y == 0) | (y == 1)

    def inside(self) -> Float[Tensor, "*s b nt dy"]:
        """0."""
        return torch.zeros_like(self.logits)

    def log_density_inside(self, y: Float[Tensor, "... b nt dy"]) -> Float[Tensor, "... b nt dy"]:
        """Log mass."""
        return logsigmoid(torch.where(y == 1, self.logits, -self.logits))

    def sample(self, n: int, seed: int | None = None) -> Float[Tensor, "n *s b nt dy"]:
        """Independent draws."""
        return self.icdf(uniform(n, self.logits, seed))

    def cdf(self, y: Float[Tensor, "... b nt dy"]) -> Float[Tensor, "... b nt dy"]:
        """A step of 1 - p at 0 and one of p at 1."""
        return torch.where(y < 0, 0.0, torch.where(y < 1, torch.sigmoid(-self.logits), 1.0))

    def icdf(self, level: Float[Tensor, "... b nt dy"]) -> Float[Tensor, "... b nt dy"]:
        """0 up to the level 1 - p, then 1."""
        return (level > torch.sigmoid(-self.logits)).to(level.dtype)

    def crps(self, y: Float[Tensor, "b nt dy"]) -> Float[Tensor, "b nt dy"]:
        """The Brier score (y - p)^2."""
        return (y - self.probabilities).square()


class Bernoulli(Likelihood):
    """Outputs that are 0 or 1: binary classification, one logit per target and output."""

    def __init__(self):  # a signature without the catch-all arguments of nn.Module
        super().__init__()

    def num_features(self, dy: int) -> int:
        """A logit of each output: dy."""
        return dy

    def forward(self, features: Float[Tensor, "*s b nt f"]) -> IndependentBernoulli:
        """Logits `[*s, b, nt, dy]` to independent Bernoulli laws."""
        return IndependentBernoulli(features)


class IndependentCategorical(Restricted):
    """Independent outputs that are class indices 0, ..., K - 1, as numbers.

    Mean, standard deviation, distribution function and CRPS are those of the index: they mean something where classes
    are ordered.

    Args:
        log_probabilities: `[*s, b, nt, dy, K]`, log-normalised over K.
    """

    def __init__(self, log_probabilities: Float[Tensor, "*s b nt dy k"]):
        self.log_probabilities = log_probabilities
        self.support = f"that are class indices 0, ..., {self.num_classes - 1}"

    @property
    def num_classes(self) -> int:
        """K."""
        return self.log_probabilities.shape[-1]

    @property
    def probabilities(self) -> Float[Tensor, "*s b nt dy k"]:
        """P(Y = k) of each class, `[*s, b, nt, dy, K]`."""
        return self.log_probabilities.exp()

    def collapsed(self) -> "IndependentCategorical":
        """The mean probabilities' law."""
        return IndependentCategorical(self.log_probabilities.logsumexp(0).log_softmax(-1))

    @property
    def mean(self) -> Float[Tensor, "*s b nt dy"]:
        """Mean of the class index."""
        return (self.probabilities * self._classes()).sum(-1)

    @property
    def stddev(self) -> Float[Tensor, "*s b nt dy"]:
        """Standard deviation of the class index."""
        gap = self._classes() - self.mean[..., None]
        return (self.probabilities * gap.square()).sum(-1).sqrt()

    def contains(self, y: Float[Tensor, "... b nt dy"]) -> Bool[Tensor, "... b nt dy"]:
        """A whole number from 0 to K - 1."""
        return (y >= 0) & (y < self.num_classes) & (y == y.floor())

    def inside(self) -> Float[Tensor, "*s b nt dy"]:
        """Class 0."""
        return torch.zeros_like(self.log_probabilities[..., 0])

    def log_density_inside(self, y: Float[Tensor, "... b nt dy"]) -> Float[Tensor, "... b nt dy"]:
        """Log mass."""
        shape = torch.broadcast_shapes(y.shape, self.log_probabilities.shape[:-1])
        index = y.long().expand(shape)[..., None]
        return self.log_probabilities.expand(*shape, -1).gather(-1, index)[..., 0]

    def sample(self, n: int, seed: int | None = None) -> Float[Tensor, "n *s b nt dy"]:
        """Independent draws."""
        return self.icdf(uniform(n, self.mean, seed))

    def cdf(self, y: Float[Tensor, "... b nt dy"]) -> Float[Tensor, "... b nt dy"]:
        """Sum of the masses up to y."""
        return (self.probabilities * (self._classes() <= y[..., None])).sum(-1)

    def icdf(self, level: Float[Tensor, "... b nt dy"]) -> Float[Tensor, "... b nt dy"]:
        """Number of classes that lie wholly below the level."""
        passed = (level[..., None] > self.probabilities.cumsum(-1)).sum(-1)
        return passed.clamp_max(self.num_classes - 1).to(level.dtype)  # masses may sum to less than level

    def crps(self, y: Float[Tensor, "b nt dy"]) -> Float[Tensor, "b nt dy"]:
        """The ranked probability score: the sum over classes of (F(k) - 1[y <= k])^2."""
        step = (y[..., None] <= self._classes()).to(y.dtype)
        return (self.probabilities.cumsum(-1) - step)[..., :-1].square().sum(-1)

    def _classes(self) -> Tensor:
        return torch.arange(self.num_classes, device=self.log_probabilities.device).to(self.log_probabilities.dtype)


class Categorical(Likelihood):
    """Outputs that are class indices 0, ..., K - 1, given as numbers: one logit per class, target and output.

    Args:
        num_classes: K, the same for every output.
    """

    def __init__(self, num_classes: int):
        super().__init__()
        self.num_classes = at_least("num_classes", num_classes, 2)

    def num_features(self, dy: int) -> int:
        """A logit of each class: K dy."""
        return self.num_classes * dy

    def forward(self, features: Float[Tensor, "*s b nt f"]) -> IndependentCategorical:
        """Logits `[*s, b, nt, K dy]` to independent categorical laws."""
        return IndependentCategorical(torch.log_softmax(features.unflatten(-1, (-1, self.num_classes)), -1))
