"""From points to tokens."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from npexp.errors import ConfigError
from npexp.layers.mlp import FourierFeatures, mlp


class PointEmbedding(nn.Module):
    """Embeds context points (x, y) and target inputs x as tokens.

    Args:
        dx: input size.
        dy: output size.
        dz: width of the tokens.
        depth: linear layers of each network.
        shared: one network for both, with y = 0 at targets (TNP); otherwise targets have a network of x alone.
        flag: with `shared`, a further input that is 1 at targets: without it a target and a context point with y = 0
            look alike.
        num_frequencies: learned Fourier features of x, 0 for none.
        absolute: whether tokens carry x. False leaves it to the mixer to see where points are; targets then all come
            in as one learned token, so that one network does for both.

    Raises:
        ConfigError: Fourier features of x in tokens that do not carry it.
    """

    def __init__(
        self,
        dx: int,
        dy: int,
        dz: int,
        depth: int = 4,
        shared: bool = False,
        flag: bool = False,
        num_frequencies: int = 0,
        absolute: bool = True,
    ):
        super().__init__()
        if num_frequencies and not absolute:
            raise ConfigError(
                f"expected num_frequencies=0 where tokens do not carry x, got {num_frequencies}: set absolute=True"
            )
        self.dy, self.absolute = dy, absolute
        shared = shared or not absolute
        self.flag = shared and flag
        self.features = FourierFeatures(dx, num_frequencies)
        dim_x = self.features.dim_out if absolute else 0
        self.embed_context = mlp(dim_x + dy + self.flag, dz, dz, depth)
        self.embed_target = None if shared else mlp(dim_x, dz, dz, depth)

    def context(self, xc: Float[Tensor, "b nc dx"], yc: Float[Tensor, "b nc dy"]) -> Float[Tensor, "b nc dz"]:
        """Tokens of context points."""
        return self.embed_context(self._inputs(xc, yc, 0.0))

    def target(self, xt: Float[Tensor, "b nt dx"]) -> Float[Tensor, "b nt dz"]:
        """Tokens of target inputs."""
        if self.embed_target is not None:
            return self.embed_target(self.features(xt))
        return self.embed_context(self._unseen(xt))

    def both(
        self, xc: Float[Tensor, "b nc dx"], yc: Float[Tensor, "b nc dy"], xt: Float[Tensor, "b nt dx"]
    ) -> Float[Tensor, "b n dz"]:
        """Tokens of context points, then those of target inputs; in one pass where they share a network."""
        if self.embed_target is not None:
            return torch.cat([self.context(xc, yc), self.target(xt)], 1)
        return self.embed_context(torch.cat([self._inputs(xc, yc, 0.0), self._unseen(xt)], 1))

    def _inputs(self, x: Tensor, y: Tensor, flag: float) -> Tensor:
        parts = [self.features(x), y] if self.absolute else [y]
        if self.flag:
            parts.append(y.new_full((*y.shape[:2], 1), flag))
        return torch.cat(parts, -1)

    def _unseen(self, xt: Tensor) -> Tensor:
        return self._inputs(xt, xt.new_zeros(*xt.shape[:2], self.dy), 1.0)
