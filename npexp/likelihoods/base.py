"""The two interfaces of this package: `Predictive` distributions and the `Likelihood` heads that make them."""

from abc import ABC, abstractmethod

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from npexp.errors import ShapeError


class Predictive(ABC):
    """A distribution over the outputs of `b` tasks at `nt` targets each.

    *Joint* numbers treat a task's targets as one random vector; *marginal* ones treat each target alone. The two agree
    for a factorised law and must never be ranked against each other.
    """

    @property
    @abstractmethod
    def mean(self) -> Float[Tensor, "b nt dy"]:
        """Mean of each output."""

    @property
    @abstractmethod
    def stddev(self) -> Float[Tensor, "b nt dy"]:
        """Standard deviation of each output."""

    @abstractmethod
    def joint_log_prob(
        self, yt: Float[Tensor, "b nt dy"], mask_t: Bool[Tensor, "b nt"] | None = None
    ) -> Float[Tensor, " b"]:
        """log p(y_1, ..., y_nt) over the real targets, in nats; padded slots of yt may hold anything."""

    @abstractmethod
    def marginal_log_prob(self, yt: Float[Tensor, "b nt dy"]) -> Float[Tensor, "b nt"]:
        """log p(y_i) of each target alone, summed over its outputs, in nats."""

    @abstractmethod
    def sample(self, n: int, seed: int | None = None) -> Float[Tensor, "n b nt dy"]:
        """Draws, coherent across targets where the law is joint.

        Args:
            n: number of draws.
            seed: None draws from PyTorch's global generator, independently for every task. A number gives common
                random numbers: the same standard noise for every task, whatever the batch or the padding.
        """

    @abstractmethod
    def cdf(self, y: Float[Tensor, "... b nt dy"]) -> Float[Tensor, "... b nt dy"]:
        """P(Y <= y) of each output alone; leading axes broadcast."""

    @abstractmethod
    def crps(self, y: Float[Tensor, "b nt dy"]) -> Float[Tensor, "b nt dy"]:
        """Continuous ranked probability score of each output alone (Gneiting & Raftery 2007), in units of y."""

    @abstractmethod
    def quantile(self, levels: Float[Tensor, " q"]) -> Float[Tensor, "q b nt dy"]:
        """Values below which each output falls with the given probabilities, 0 < level < 1."""


class Likelihood(nn.Module, ABC):
    """A head: turns what the model computed for each target into a `Predictive`. It has no say in the trunk's size."""

    @abstractmethod
    def num_features(self, dy: int) -> int:
        """How many numbers per target the head wants, for outputs of size dy."""

    @abstractmethod
    def forward(self, features: Float[Tensor, "*s b nt f"]) -> Predictive:
        """Features of each target to a distribution; an axis in front of `b` makes a mixture over whole sets."""


def standard_normal(n: int, like: Float[Tensor, "b nt dy"], seed: int | None) -> Float[Tensor, "n b nt dy"]:
    """Noise for `Predictive.sample`, `[n, b, nt, dy]`; with a seed the same for every task and every padding."""
    if seed is None:
        return torch.randn(n, *like.shape, dtype=like.dtype, device=like.device)
    # NumPy fills in order, so the noise of the first targets does not depend on how many follow
    noise = np.random.default_rng(seed).standard_normal((like.shape[1], like.shape[2], n))
    return torch.as_tensor(noise).to(like).permute(2, 0, 1)[:, None].expand(n, *like.shape)


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
