"""Random tasks of many sizes with a miscalibrated prediction each, and how to put some of them into one batch."""

import math

import numpy as np
import pytest
import torch

from npexp.batch import TaskBatch, pad_points
from npexp.likelihoods import DiagonalGaussian

DY = 2


def _task(rng: np.random.Generator, oracle: bool):
    nc, nt = int(rng.integers(0, 20)), int(rng.integers(1, 9))
    tensor = lambda *shape: torch.from_numpy(rng.normal(size=shape))  # noqa: E731
    law = DiagonalGaussian(tensor(1, nt, DY), tensor(1, nt, DY).exp())
    yt = law.mean + law.stddev * tensor(1, nt, DY)
    pred = DiagonalGaussian(law.mean + 0.3, law.stddev * 0.7)
    known = (law.joint_log_prob(yt), law.marginal_log_prob(yt)) if oracle else (None, None)
    return pred, TaskBatch(tensor(1, nc, 1), tensor(1, nc, DY), tensor(1, nt, 1), yt, None, None, *known)


@pytest.fixture
def make_tasks():
    """`make_tasks(n, seed, oracle)` gives n pairs of prediction and one-task batch, unpadded, in float64."""

    def make(n: int, seed: int = 0, oracle: bool = True):
        rng = np.random.default_rng(seed)
        return [_task(rng, oracle) for _ in range(n)]

    return make


@pytest.fixture
def collate():
    """`collate(tasks)` gives one prediction and one batch, every padded slot poisoned with NaN."""

    def padded(tensors: list[torch.Tensor], size: int):
        rows, _ = pad_points([*(t[0] for t in tensors), torch.zeros(size, tensors[0].shape[2], dtype=torch.float64)])
        sizes = torch.tensor([t.shape[1] for t in tensors])
        mask = torch.arange(size) < sizes[:, None]
        return torch.where(mask[..., None], rows[:-1], math.nan), mask

    def join(tasks, extra: int = 1):
        preds, batches = zip(*tasks, strict=True)
        nc, nt = (max(getattr(b, x).shape[1] for b in batches) + extra for x in ("xc", "xt"))
        xc, mask_c = padded([b.xc for b in batches], nc)
        xt, mask_t = padded([b.xt for b in batches], nt)
        yc, yt = padded([b.yc for b in batches], nc)[0], padded([b.yt for b in batches], nt)[0]
        joint = marginal = None
        if batches[0].oracle_joint is not None:
            joint = torch.cat([b.oracle_joint for b in batches])
            marginal = padded([b.oracle_marginal[..., None] for b in batches], nt)[0][..., 0]
        pred = DiagonalGaussian(padded([p.mean for p in preds], nt)[0], padded([p.stddev for p in preds], nt)[0])
        return pred, TaskBatch(xc, yc, xt, yt, mask_c, mask_t, joint, marginal)

    return join
