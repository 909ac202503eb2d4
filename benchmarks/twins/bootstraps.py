"""BNP and BANP (Lee et al. 2020, arXiv 2008.02956): every bootstrap of the context is encoded for every target."""

from abc import abstractmethod

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from benchmarks.twins.attentive import Cross, Pooled
from benchmarks.twins.base import Twin, linear
from benchmarks.twins.deepsets import TRAIN_SAMPLES, Mean, copies, everything, log_mean_exp, to_targets
from npexp.batch import TaskBatch
from npexp.models import BANP as OurBANP
from npexp.models import BNP as OurBNP
from npexp.models.bootstrap import BootstrapNeuralProcess


class BootstrapTwin(Twin):
    """Resamples points, then standardised residuals; a prediction mixes over the contexts that this gives."""

    def __init__(self, model: BootstrapNeuralProcess):
        super().__init__(model)
        self.num_samples = model.num_samples
        self.enter, self.inject = linear(model.enter), linear(model.inject)

    @abstractmethod
    def encode(self, xc: Tensor, yc: Tensor, xt: Tensor) -> Tensor:
        """The context as each target sees it, `[..., nt, e]`."""

    def forward(self, xc: Tensor, yc: Tensor, xt: Tensor) -> Normal:
        """The laws under bootstraps, `[s, b, nt, dy]`."""
        return self._mixture(self.encode(xc, yc, xt), xc, yc, xt, self.num_samples)

    def loss(self, batch: TaskBatch) -> Tensor:
        """Minus the log-likelihoods of the base and of the mixture, of context and targets, per point."""
        x, y = everything(batch)
        encoded = self.encode(batch.xc, batch.yc, x)
        mixture = self._mixture(encoded, batch.xc, batch.yc, x, TRAIN_SAMPLES)
        scores = log_mean_exp(mixture.log_prob(copies(y, TRAIN_SAMPLES)).sum(-1))
        return -self._decode(encoded, x).log_prob(y).sum(-1).mean() - scores.mean()

    def _mixture(self, encoded: Tensor, xc: Tensor, yc: Tensor, xt: Tensor, s: int) -> Normal:
        with torch.no_grad():
            y = self._resample(xc, yc, s)
        targets = copies(xt, s)
        return self._decode(copies(encoded, s), targets, self.encode(copies(xc, s), y, targets))

    def _resample(self, xc: Tensor, yc: Tensor, s: int) -> Tensor:
        """Outputs of the residual bootstrap at the inputs of the context, `[s, b, nc, dy]`."""
        b, n = xc.shape[:2]
        index = (torch.rand(n, 2, s, b, dtype=torch.float64) * n).long().movedim(0, -1)[..., None]
        paired, residual = index  # [s, b, nc, 1] each
        x, y = copies(xc, s), copies(yc, s)
        law = self._decode(self.encode(_rows(x, paired), _rows(y, paired), x), x)
        residuals = _rows((y - law.mean) / law.stddev, residual)
        return law.mean + law.stddev * (residuals - residuals.mean(-2, keepdim=True))

    def _decode(self, encoded: Tensor, xt: Tensor, bootstrap: Tensor | None = None) -> Normal:
        h = self.enter(torch.cat([encoded, xt], -1))
        return self.law((h if bootstrap is None else h + self.inject(bootstrap)).relu())


class BNP(BootstrapTwin):
    """Over the encoders of a CNP."""

    def __init__(self, model: OurBNP):
        super().__init__(model)
        self.encoders = nn.ModuleList(Mean(encoder) for encoder in model.encoders)

    def encode(self, xc: Tensor, yc: Tensor, xt: Tensor) -> Tensor:
        """The same for every target."""
        return to_targets(torch.cat([encoder(xc, yc) for encoder in self.encoders], -1), xt)


class BANP(BootstrapTwin):
    """Over the encoders of a CANP."""

    def __init__(self, model: OurBANP):
        super().__init__(model)
        self.cross, self.pooled = Cross(model.paths.attentive), Pooled(model.paths.pooled)

    def encode(self, xc: Tensor, yc: Tensor, xt: Tensor) -> Tensor:
        """Each target's own view, and the common one."""
        return torch.cat([self.cross(xc, yc, xt), to_targets(self.pooled(xc, yc), xt)], -1)


def _rows(values: Tensor, index: Tensor) -> Tensor:
    return values.gather(-2, index.expand_as(values))
