"""CNP and NP (Garnelo et al. 2018) as Lee et al. 2020 (arXiv 2008.02956) and the TNP suite compare them."""

from abc import abstractmethod

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from benchmarks.twins.base import Twin, mlp
from npexp.batch import TaskBatch
from npexp.layers.deepset import DeepSet
from npexp.models import CNP as OurCNP
from npexp.models import NP as OurNP
from npexp.models.latent import LatentNeuralProcess

TRAIN_SAMPLES = 4


class Mean(nn.Module):
    """A network, the mean over points, a network."""

    def __init__(self, ours: DeepSet):
        super().__init__()
        self.before, self.after = mlp(ours.phi), mlp(ours.rho)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """One vector per task, `[..., e]`."""
        return self.after(self.before(torch.cat([x, y], -1)).mean(-2))


class CNP(Twin):
    """Some means side by side, copied to every target."""

    def __init__(self, model: OurCNP):
        super().__init__(model)
        self.encoders = nn.ModuleList(Mean(encoder) for encoder in model.encoders)

    def forward(self, xc: Tensor, yc: Tensor, xt: Tensor) -> Normal:
        """The law of each target alone."""
        r = torch.cat([encoder(xc, yc) for encoder in self.encoders], -1)
        return self.law(torch.cat([to_targets(r, xt), xt], -1))

    def loss(self, batch: TaskBatch) -> Tensor:
        """Of context and targets."""
        x, y = everything(batch)
        return -self(batch.xc, batch.yc, x).log_prob(y).sum(-1).mean()


class LatentTwin(Twin):
    """What NP and ANP share: a law of z from a set of points, and a loss by importance weights (Le et al. 2018)."""

    def __init__(self, model: LatentNeuralProcess):
        super().__init__(model)
        self.num_samples = len(model.noise)

    @abstractmethod
    def latent(self, x: Tensor, y: Tensor) -> Tensor:
        """Mean and raw scale of z, `[b, 2 dl]`."""

    @abstractmethod
    def deterministic(self, xc: Tensor, yc: Tensor, xt: Tensor) -> Tensor:
        """The context as each target sees it, `[b, nt, dz]`."""

    def forward(self, xc: Tensor, yc: Tensor, xt: Tensor) -> Normal:
        """The laws under draws of z from the prior, `[s, b, nt, dy]`."""
        return self._decode(self._z(xc, yc).rsample((self.num_samples,)), xc, yc, xt)

    def loss(self, batch: TaskBatch) -> Tensor:
        """Minus the importance-weighted bound of context and targets, per point."""
        x, y = everything(batch)
        prior, posterior = self._z(batch.xc, batch.yc), self._z(x, y)
        z = posterior.rsample((TRAIN_SAMPLES,))
        log_prob = self._decode(z, batch.xc, batch.yc, x).log_prob(copies(y, TRAIN_SAMPLES)).sum(-1)
        weights = log_prob.sum(-1) + prior.log_prob(z).sum(-1) - posterior.log_prob(z).sum(-1)
        return -log_mean_exp(weights).mean() / y.shape[1]

    def _z(self, x: Tensor, y: Tensor) -> Normal:
        mean, raw = self.latent(x, y).chunk(2, -1)
        return Normal(mean, 0.1 + 0.9 * raw.sigmoid())

    def _decode(self, z: Tensor, xc: Tensor, yc: Tensor, xt: Tensor) -> Normal:
        s = len(z)
        r = copies(self.deterministic(xc, yc, xt), s)
        return self.law(torch.cat([r, to_targets(z, xt), copies(xt, s)], -1))


class NP(LatentTwin):
    """Two means: one for all targets, one for z."""

    def __init__(self, model: OurNP):
        super().__init__(model)
        self.encoder, self.latent_encoder = Mean(model.deterministic), Mean(model.latent_encoder)

    def latent(self, x: Tensor, y: Tensor) -> Tensor:
        """Mean and raw scale of z."""
        return self.latent_encoder(x, y)

    def deterministic(self, xc: Tensor, yc: Tensor, xt: Tensor) -> Tensor:
        """The same for every target."""
        return to_targets(self.encoder(xc, yc), xt)


def everything(batch: TaskBatch) -> tuple[Tensor, Tensor]:
    """Context and targets."""
    return torch.cat([batch.xc, batch.xt], 1), torch.cat([batch.yc, batch.yt], 1)


def copies(rows: Tensor, s: int) -> Tensor:
    """`[s, ...]`."""
    return torch.stack([rows] * s)


def to_targets(r: Tensor, xt: Tensor) -> Tensor:
    """A copy for every target, `[..., nt, e]`."""
    return torch.stack([r] * xt.shape[-2], -2)


def log_mean_exp(values: Tensor) -> Tensor:
    """Over the first axis."""
    return values.logsumexp(0) - torch.tensor(len(values)).log()
