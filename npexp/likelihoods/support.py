"""Laws that do not allow every number."""

from abc import abstractmethod

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from npexp.errors import DataError
from npexp.likelihoods.base import Factorised, check_outputs


class Restricted(Factorised):
    """A factorised law on part of the real line.

    `joint_log_prob`, which knows what is padding, refuses outputs that the law cannot make; `log_density` and
    `marginal_log_prob` give them -inf.

    Attributes:
        support: what outputs must be, in words.
    """

    support: str = ""

    @abstractmethod
    def contains(self, y: Float[Tensor, "... b nt dy"]) -> Bool[Tensor, "... b nt dy"]:
        """Whether the law can make these outputs."""

    @abstractmethod
    def log_density_inside(self, y: Float[Tensor, "... b nt dy"]) -> Float[Tensor, "... b nt dy"]:
        """Log density, or log mass, of outputs inside the support."""

    def log_density(self, y: Float[Tensor, "... b nt dy"]) -> Float[Tensor, "... b nt dy"]:
        """Log density, or log mass, of each output; -inf outside the support."""
        ok = self.contains(y)
        density = self.log_density_inside(torch.where(ok, y, self.inside()))
        return torch.where(ok, density, torch.full_like(density, -torch.inf))

    def joint_log_prob(
        self, yt: Float[Tensor, "b nt dy"], mask_t: Bool[Tensor, "b nt"] | None = None
    ) -> Float[Tensor, "*s b"]:
        """The sum of the marginals, O(nt).

        Raises:
            DataError: a real target outside the support.
        """
        check_outputs(yt, self.mean, mask_t)
        check_support(self.contains(yt), yt, mask_t, self.support)
        return super().joint_log_prob(yt, mask_t)


def check_support(
    ok: Bool[Tensor, "b nt dy"], yt: Float[Tensor, "b nt dy"], mask_t: Bool[Tensor, "b nt"] | None, support: str
) -> None:
    """Raises `DataError` where a real target is not ok, saying what it should be."""
    wrong = ~ok if mask_t is None else ~ok & mask_t[..., None]
    if bool(wrong.any()):
        raise DataError(
            f"expected outputs {support}, got {int(wrong.sum())} others, the first {yt[wrong][0].item():.6g}: "
            "rescale y, or choose a likelihood that allows them"
        )
