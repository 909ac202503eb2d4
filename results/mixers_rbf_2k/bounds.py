"""Exact predictions from a part of the context, which no model can exceed that sees, or keeps, no more.

The covariance of the tasks must be known, that is without hyperparameters that differ from task to task.
"""

from typing import Any

import torch

from datamodules import GPData
from datamodules.oracle import gp_predictive
from npexp.batch import TaskBatch
from npexp.likelihoods.gaussian import DiagonalGaussian
from npexp.metrics import Evaluation


def exact(data: GPData) -> dict[str, Any]:
    """Scores from the whole context."""
    return _scores(data, lambda batch: _law(data, batch.xc, batch.yc, batch.xt))


def nearest(data: GPData, k: int) -> dict[str, Any]:
    """Scores when each target sees its k nearest context points only; 0 for none."""

    def predict(batch: TaskBatch) -> DiagonalGaussian:
        chosen = torch.cdist(batch.xt, batch.xc).topk(k, -1, largest=False).indices  # [b, nt, k]
        b, nt = chosen.shape[:2]
        x, y = (v.gather(1, chosen.view(b, nt * k, 1)).view(b * nt, k, 1) for v in (batch.xc, batch.yc))
        law = _law(data, x, y, batch.xt.view(b * nt, 1, 1))
        return DiagonalGaussian(law.mean.view(b, nt, 1), law.stddev.view(b, nt, 1))

    return _scores(data, predict)


def spread(data: GPData, m: int) -> dict[str, Any]:
    """Scores from m context points, evenly spread over the order of their inputs."""

    def predict(batch: TaskBatch) -> DiagonalGaussian:
        order = batch.xc[..., 0].argsort(1)
        kept = order[:, torch.linspace(0, order.shape[1] - 1, m).round().long(), None]
        return _law(data, batch.xc.gather(1, kept), batch.yc.gather(1, kept), batch.xt)

    return _scores(data, predict)


def _law(data: GPData, xc: torch.Tensor, yc: torch.Tensor, xt: torch.Tensor) -> DiagonalGaussian:
    u = xc.new_zeros(xc.shape[0], data.kernel.num_hyper)
    return DiagonalGaussian(*gp_predictive(data.kernel, u, xc, yc, xt, data.noise))


def _scores(data: GPData, predict: Any) -> dict[str, Any]:
    scores = Evaluation(energy=False)
    for batch in data.eval_batches("test"):
        scores.update(predict(batch), batch)
    return scores.compute()
