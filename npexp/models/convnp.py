"""Convolutional neural process with a latent function."""

from collections.abc import Sequence

from jaxtyping import Bool, Float
from torch import Tensor
from torch.distributions import Normal

from npexp.errors import at_least
from npexp.layers.grid import Lattice
from npexp.layers.setconv import FromLattice, LatticeSums, ToLattice, mean_and_density
from npexp.layers.unet import UNet
from npexp.likelihoods import Likelihood, SetMixture
from npexp.models.additive import AdditiveNeuralProcess
from npexp.models.base import Points, State
from npexp.models.latent import LatentNeuralProcess, latent_normal


class ConvNP(AdditiveNeuralProcess, LatentNeuralProcess):
    """A ConvCNP with a latent function on its lattice, so that draws are coherent (Foong et al. 2020).

    arXiv 2007.01332. The first U-Net gives independent normals z at every lattice point, the second one turns a draw of
    them into features; each draw is a smooth function of x. Use it for coherent samples and joint densities that are
    not Gaussian; where a Gaussian will do, ConvGNP is far cheaper. Train it with objective "loglik", as published: over
    so many latents the bound of "elbo" is loose.

    State, updates, removals and the domain are those of `ConvCNP`. Cost O((nc + nt) g) plus 1 + s U-Nets, on a lattice
    of g points.

    Args:
        dx: input size, 1 to 3.
        dy: output size.
        domain: (low, high) of the inputs on every axis; points outside are refused.
        points_per_unit: lattice points per unit of x.
        margin: how far the lattice reaches beyond the domain, in units of x.
        dz: channels of both U-Nets, and width of the network in front of the likelihood.
        dim_latent: size of z at each lattice point.
        num_levels: halvings of the resolution inside the U-Nets.
        kernel_size: width of the convolutions, odd.
        depth_decoder: linear layers from features to the likelihood.
        num_samples: draws of z that `predict` mixes over.
        likelihood: the head; None is a Gaussian with floor 0.01.
    """

    cost = "(nc + s nt) g + s unet(g)"

    def __init__(
        self,
        dx: int,
        dy: int,
        domain: Sequence[float] = (-2.0, 2.0),
        points_per_unit: float = 16.0,
        margin: float = 0.1,
        dz: int = 32,
        dim_latent: int = 8,
        num_levels: int = 4,
        kernel_size: int = 5,
        depth_decoder: int = 2,
        num_samples: int = 32,
        likelihood: Likelihood | None = None,
    ):
        at_least("num_levels", num_levels, 0)
        lattice = Lattice.dense(dx, domain, points_per_unit, margin, multiple=2**num_levels)
        super().__init__(dx, dy, at_least("dim_latent", dim_latent, 1) * lattice.num_points, num_samples)
        self.lattice = lattice
        self.encoder = ToLattice(lattice)
        self.to_latent = UNet(dx, 1 + dy, dz, 2 * dim_latent, num_levels, kernel_size)
        self.from_latent = UNet(dx, dim_latent, dz, dz, num_levels, kernel_size)
        self.decoder = FromLattice(lattice)
        self._use_head(likelihood, dz, dz, depth_decoder)

    def decode(
        self,
        state: State,
        z: Float[Tensor, "s b dl"],
        xt: Float[Tensor, "b nt dx"],
        mask_t: Bool[Tensor, "b nt"] | None = None,
    ) -> SetMixture:
        """The equal mixture over the given z of the laws p(y | z); z holds `dim_latent` channels over the lattice.

        Raises:
            DataError: a real target outside the domain.
        """
        self.lattice.check("target", xt, mask_t)
        return super().decode(state, z, xt, mask_t)

    def _encode(self, points: Points) -> LatticeSums:
        self.lattice.check("context", points.x, points.mask)
        return self.encoder(*points)

    def _mass(self, summary: LatticeSums) -> Tensor:
        return summary.count

    def _latent(self, summary: LatticeSums) -> Normal:
        channels = mean_and_density(summary).to(next(self.to_latent.parameters()).dtype)
        return latent_normal(self.to_latent(channels).flatten(1))

    def _decode(self, summary: LatticeSums, z: Tensor, xt: Tensor) -> Tensor:
        draws = z.flatten(0, 1).unflatten(-1, (-1, *self.lattice.shape))  # [s b, dim_latent, size, ..., size]
        grid = self.from_latent(draws).unflatten(0, z.shape[:2])
        return self.decoder(grid.flatten(3), xt)
