"""Laws of the noise: heavy tails against SciPy's law, noise that depends on the input against exact scores of SciPy."""

import numpy as np
import pytest
import torch
from scipy import stats

from datamodules import RBF, Coregionalised, Gaussian, GPData, Heteroscedastic, StudentT
from datamodules.loader import generator
from datamodules.oracle import bayes_oracle, factor, gp_predictive, scores, whiten
from datamodules.waves import wave
from npexp.errors import ConfigError, UnsupportedError

FIXED = RBF((0.5, 0.5), (0.8, 0.8))
SIZES = {"num_context": (8, 8), "num_target": (4, 4), "max_points": None}


def test_a_number_is_the_same_noise_everywhere():
    plain, law = (GPData(FIXED, noise=n).make_batch("train", 1) for n in (0.1, Gaussian(0.1)))
    assert torch.equal(plain.yt, law.yt) and torch.equal(plain.oracle_joint, law.oracle_joint)
    assert GPData(FIXED, noise=0.1).cache_file("test") != GPData(FIXED, noise=Gaussian(0.1)).cache_file("test")


def test_waves_lie_between_values_of_their_range():
    u, x = torch.rand(500, 4, dtype=torch.float64), torch.linspace(-5, 5, 400, dtype=torch.float64)[None, :, None]
    values = wave(u, x, (0.1, 2.0), (1.0, 4.0))
    assert values.shape == (500, 400) and values.min() >= 0.1 and values.max() <= 2.0
    ends = torch.stack([values.amin(1), values.amax(1)], 1)
    expected = (0.1 * 20 ** u[:, :2]).sort(1).values
    torch.testing.assert_close(ends, expected, rtol=0.02, atol=0)  # every period fits the interval
    one = wave(u[:1], x, (0.1, 2.0), (1.0, 4.0))[0].log()
    period = 4 ** u[0, 2]
    sine = torch.sin(2 * torch.pi * (x[0, :, 0] / period + u[0, 3]))
    a, b = (0.1 * 20 ** u[0, :2]).log()
    torch.testing.assert_close(one, a + (b - a) * (1 + sine) / 2)


def test_waves_of_two_inputs_repeat_in_each():
    u = torch.rand(3, 4, dtype=torch.float64)
    x, period = torch.rand(3, 6, 2, dtype=torch.float64), 2.0
    moved = x + torch.tensor([period, -period])
    torch.testing.assert_close(wave(u, x, (0.1, 1.0), (2.0, 2.0)), wave(u, moved, (0.1, 1.0), (2.0, 2.0)))


@pytest.mark.parametrize("dx", [1, 2])
@pytest.mark.parametrize("ragged", [False, True])
def test_oracle_of_heteroscedastic_noise_is_that_of_scipy(ragged, dx):
    noise = Heteroscedastic((0.05, 0.5), (1.0, 3.0))
    sizes = {"num_context": (3, 8), "num_target": (2, 4), "max_points": None}
    dm = GPData(FIXED, dx=dx, noise=noise, ragged=ragged, **sizes)
    batch = dm.make_batch("train", 0).check()
    assert dm.traits["oracle"] is True
    rng = generator(0, "train", index=0)  # the stream again: sizes, inputs, functions, then the noise's own numbers
    nc, nt, _ = dm.draw_sizes(rng)
    rng.uniform(size=(16, nc + nt, dx)), rng.random((16, 2)), rng.standard_normal((16, nc + nt))
    u = torch.from_numpy(rng.random((16, 4)))
    for task in range(5):
        c, t = int(batch.num_context[task]), int(batch.num_target[task])
        x = torch.cat([batch.xc[task, :c], batch.xt[task, :t]]).double()
        y = torch.cat([batch.yc[task, :c], batch.yt[task, :t]])[:, 0].double().numpy()
        stddev = noise.stddev(u[task : task + 1], x[None])[0].numpy()
        full = 0.64 * np.exp(-2 * torch.cdist(x, x).numpy() ** 2) + np.diag(stddev**2)

        def log_density(rows, y=y, full=full):
            return stats.multivariate_normal.logpdf(y[rows], np.zeros(len(rows)), full[np.ix_(rows, rows)])

        context = list(range(c))
        evidence = log_density(context)
        joint = log_density(list(range(c + t))) - evidence
        assert batch.oracle_joint[task].item() == pytest.approx(joint, abs=1e-4)
        each = [log_density([*context, c + i]) - evidence for i in range(t)]
        np.testing.assert_allclose(batch.oracle_marginal[task, :t], each, atol=1e-4)


def test_noise_of_each_point_reaches_every_output():
    kernel = Coregionalised(FIXED, (0.5, 0.5))
    x, size = torch.rand(2, 3, 1, dtype=torch.float64), torch.rand(2, 3, dtype=torch.float64)
    u = torch.rand(2, 3, dtype=torch.float64)
    chol = factor(kernel, u, x, size)
    added = (chol @ chol.mT - kernel.covariance(u, x, x)).diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(added.unflatten(1, (3, 2)), size.square()[..., None].expand(2, 3, 2))
    y = torch.rand(2, 2, 2, dtype=torch.float64)
    stddev = gp_predictive(kernel, u, x[:, :2], y, x[:, 2:], size)[1]
    assert (stddev[:, 0] > size[:, 2:]).all()


def test_samples_have_the_noise_of_their_place():
    law = Heteroscedastic((0.01, 1.0), (3.0, 3.0))
    dm = GPData(RBF((0.5, 0.5), (1e-3, 1e-3)), noise=law, batch_size=4000, **SIZES)
    batch = dm.make_batch("train", 0)
    rng = generator(0, "train", index=0)
    dm.draw_sizes(rng), rng.uniform(size=(4000, 12, 1)), rng.random((4000, 2)), rng.standard_normal((4000, 12))
    size = law.stddev(torch.from_numpy(rng.random((4000, 4))), torch.cat([batch.xc, batch.xt], 1).double())
    ratio = torch.cat([batch.yc, batch.yt], 1)[..., 0] / size
    assert abs(ratio.std() - 1) < 0.02 and stats.kstest(ratio.flatten()[::7], "norm").pvalue > 1e-3


def test_ceiling_integrates_over_the_noise_too():
    """Against a grid over the four numbers that the noise is made from; the function's own are fixed."""
    law = Heteroscedastic((0.05, 0.5), (2.0, 4.0))
    batch = GPData(FIXED, noise=law, num_context=(5, 5), num_target=(2, 2), max_points=None, batch_size=2).make_batch(
        "train", 0
    )
    best = bayes_oracle(FIXED, batch, law, num_draws=512)
    grid = (torch.arange(9, dtype=torch.float64) + 0.5) / 9
    u = torch.cartesian_prod(grid, grid, grid, grid)
    x = torch.cat([batch.xc, batch.xt], 1).double()
    y = torch.cat([batch.yc, batch.yt], 1)[..., 0].double()
    for task in range(2):
        size = law.stddev(u, x[task : task + 1])
        chol = factor(FIXED, torch.zeros(len(u), 2, dtype=torch.float64), x[task : task + 1], size)
        each = scores(chol, whiten(chol, y[task : task + 1]), 5)
        total = each.evidence.logsumexp(0)
        joint = (each.evidence + each.joint).logsumexp(0) - total
        assert best.joint[task].item() == pytest.approx(joint.item(), abs=0.05)
        marginal = (each.evidence[:, None] + each.marginal).logsumexp(0) - total
        torch.testing.assert_close(best.marginal[task], marginal, atol=0.05, rtol=0)


def test_heavy_tails_are_those_of_scipy():
    """Student-t times a uniform number, besides normal noise: tail probabilities by quadrature over both."""
    dm = GPData(RBF((0.5, 0.5), (1e-4, 1e-4)), noise=StudentT(), batch_size=5000, **SIZES)
    batch = dm.make_batch("train", 0).check()
    y = torch.cat([batch.yc, batch.yt], 1).flatten().numpy()
    normal = 0.02 * stats.norm.ppf((np.arange(150) + 0.5) / 150)
    factors = 0.15 * (np.arange(150) + 0.5) / 150
    for limit in (0.01, 0.05, 0.2, 1.0):
        above, below = (stats.t.sf((limit + sign * normal) / factors[:, None], 2.1).mean() for sign in (-1, 1))
        tail = above + below
        assert (np.abs(y) > limit).mean() == pytest.approx(tail, abs=4 * (tail / len(y)) ** 0.5 + 1e-4)


def test_heavy_tails_have_no_oracle():
    dm = GPData(RBF(), noise=StudentT(), ragged=True)
    batch = dm.make_batch("train", 0).check()
    assert batch.oracle_joint is None and batch.oracle_marginal is None and dm.traits["oracle"] is False
    assert (batch.yc[~batch.mask_c] == 0).all() and (batch.yt[~batch.mask_t] == 0).all()
    task = dm.plot_tasks(1)[0]
    assert task.truth is not None and task.mean is None and task.stddev is None
    with pytest.raises(UnsupportedError, match="expected Gaussian noise for exact prediction, got StudentT"):
        dm.bayes_oracle("train", num_batches=2)


def test_plot_tasks_know_the_noise_of_each_place():
    (task,) = GPData(RBF(), noise=Heteroscedastic((0.02, 1.0), (2.0, 2.0))).plot_tasks(1)
    assert task.stddev.std() > 0.01
    assert ((task.batch.yt - task.mean) / task.stddev).square().mean() == pytest.approx(1, abs=0.5)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Gaussian(-0.1), "noise to be a number, at least 0.0, got -0.1"),
        (lambda: Gaussian(float("nan")), "noise to be a number"),
        (lambda: Heteroscedastic(scale=(0.0, 0.1)), r"scale as \[low, high\] with 0 <"),
        (lambda: Heteroscedastic(scale=(0.5, 0.1)), "scale as"),
        (lambda: Heteroscedastic(period=(0.0, 1.0)), "period as"),
        (lambda: StudentT(dof=0.0), "dof > 0"),
        (lambda: StudentT(scale=(-0.1, 0.1)), "scale as"),
        (lambda: StudentT(normal=-1.0), "normal to be"),
    ],
)
def test_bad_settings_are_typed_errors(make, message):
    with pytest.raises(ConfigError, match=f"expected {message}"):
        make()
