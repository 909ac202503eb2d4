"""The baselines of results/real against loops over single targets."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from npexp.batch import TaskBatch

REAL = runpy.run_path(str(Path(__file__).parents[1] / "results/real/baselines.py"))


def tasks(b=20, nc=30, nt=25):
    """Ragged contexts in time, the first whole, the second empty."""
    g = torch.Generator().manual_seed(0)
    xc, xt = (4 * torch.rand(b, n, 1, generator=g) - 2 for n in (nc, nt))
    yc, yt = (torch.randn(b, n, 2, generator=g) for n in (nc, nt))
    num = torch.randint(1, nc, (b,), generator=g)
    num[:2] = torch.tensor([nc, 0])
    mask = torch.arange(nc) < num[:, None]
    return TaskBatch(xc * mask[..., None], yc * mask[..., None], xt, yt, mask)


def last(x, y, t):
    past = x <= t
    return y[past][x[past].argmax()] if past.any() else y[x.argmin()]


LOOPS = {
    "climatology": (REAL["climatology"], lambda x, y, t: y.mean(0)),
    "neighbours": (REAL["neighbours"](4), lambda x, y, t: y[abs(x - t).argsort()[:4]].mean(0)),
    "last": (REAL["last"], last),
    "line": (REAL["line"], lambda x, y, t: [np.interp(t, x[x.argsort()], v[x.argsort()]) for v in y.T]),
}


@pytest.mark.parametrize("name", LOOPS)
def test_centres_are_those_of_a_loop(name):
    centre, loop = LOOPS[name]
    batch = tasks()
    for task, found in enumerate(centre(batch).numpy()):
        x, y = batch.xc[task, batch.mask_c[task], 0].numpy(), batch.yc[task, batch.mask_c[task]].numpy()
        expected = [loop(x, y, t) if len(x) else [0, 0] for t in batch.xt[task, :, 0].numpy()]
        np.testing.assert_allclose(found, expected, atol=1e-4)
    nothing = TaskBatch(batch.xc[:, :0], batch.yc[:, :0], batch.xt, batch.yt)
    assert not centre(nothing).any()


def test_spread_is_the_error_at_each_distance():
    batch = tasks()
    law = REAL["Calibrated"](REAL["line"], [batch])
    spread, gaps = law(batch).stddev, REAL["nearest"](batch)
    assert (gaps[1] == torch.inf).all() and len(spread[..., 0].unique()) == 10
    for part in spread.flatten(0, 1).unique(dim=0):
        chosen = (spread == part).all(-1)
        error = (batch.yt - REAL["line"](batch))[chosen]
        torch.testing.assert_close(error.square().mean(0).sqrt(), part)
        assert chosen.sum() in (47, 48, 48 + 25)  # a tenth of those with a context; the farthest bin has the others too
