"""BoTorch on neural processes: against GPs of BoTorch where the law is one, and on real models."""

import importlib
import sys

import pytest
import torch
from torch import Tensor

pytest.importorskip("botorch")

import npexp
from npexp.botorch import NPModel
from npexp.errors import ConfigError, DataError, ShapeError, UnsupportedError
from npexp.likelihoods import CholeskyGaussian, DiagonalGaussian, NormalMixture, SetMixture, StudentT
from npexp.likelihoods.lowrank import LowRankGaussian
from npexp.likelihoods.pathwise import pathwise, regroup
from npexp.models.base import NeuralProcess, Points, State
from tests.contracts.checks import tiny

from botorch.acquisition import (  # isort: skip
    ExpectedImprovement,
    LogExpectedImprovement,
    UpperConfidenceBound,
    qExpectedImprovement,
    qKnowledgeGradient,
    qLogExpectedImprovement,
    qUpperConfidenceBound,
)
from botorch.models import SingleTaskGP
from botorch.optim import optimize_acqf
from botorch.posteriors import GPyTorchPosterior
from botorch.sampling import SobolQMCNormalSampler
from gpytorch.kernels import RBFKernel, ScaleKernel
from gpytorch.likelihoods import GaussianLikelihood
from gpytorch.means import ZeroMean

pytestmark = [  # about BoTorch's own GPs, and about EI without the logarithm
    pytest.mark.filterwarnings("ignore::botorch.exceptions.BotorchWarning"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning:botorch"),
]
F64 = torch.float64
LENGTHSCALE, SCALE, NOISE = 0.7, 1.3, 0.1  # of the GP, all but the first variances


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


X, Y = rand(6, 2), rand(6, 1, seed=1)
BEST = Y.max()


def kernel(a: Tensor, b: Tensor) -> Tensor:
    return SCALE * (-0.5 * (a[..., :, None, :] - b[..., None, :, :]).square().sum(-1) / LENGTHSCALE**2).exp()


class ExactGP(NeuralProcess):
    """A neural process by its interface, a GP by its law: of all targets together, or of each alone."""

    def __init__(self, joint: bool):
        super().__init__(2, 1)
        self.joint = joint
        self.nothing = torch.nn.Parameter(torch.zeros(()))

    def _encode(self, points: Points) -> tuple[Tensor, ...]:
        eye = NOISE * torch.eye(points.x.shape[1], dtype=points.x.dtype)
        return points.x, points.y, torch.linalg.cholesky(kernel(points.x, points.x) + eye)

    def _predict(self, state: State, xt: Tensor, mask_t: Tensor | None) -> DiagonalGaussian | CholeskyGaussian:
        x, y, factor = state.summary
        cross = kernel(xt, x)
        mean = cross @ torch.cholesky_solve(y, factor)
        eye = NOISE * torch.eye(xt.shape[1], dtype=xt.dtype)
        covariance = kernel(xt, xt) + eye - cross @ torch.cholesky_solve(cross.mT, factor)
        if self.joint:
            return CholeskyGaussian(mean, torch.linalg.cholesky(covariance)[..., None, :])
        return DiagonalGaussian(mean, covariance.diagonal(dim1=-2, dim2=-1).sqrt()[..., None])


class ObservedGP(SingleTaskGP):
    """BoTorch's GP, predicting observations as neural processes do."""

    def posterior(self, X: Tensor, **kwargs) -> GPyTorchPosterior:
        return super().posterior(X, **{**kwargs, "observation_noise": True})


def reference() -> SingleTaskGP:
    gp = ObservedGP(
        X,
        Y,
        likelihood=GaussianLikelihood(),
        covar_module=ScaleKernel(RBFKernel()),
        mean_module=ZeroMean(),
        outcome_transform=None,
    ).to(F64)
    gp.likelihood.noise, gp.covar_module.outputscale = NOISE, SCALE
    gp.covar_module.base_kernel.lengthscale = LENGTHSCALE
    return gp.eval()


def sampler(n: int = 32) -> SobolQMCNormalSampler:
    return SobolQMCNormalSampler(torch.Size([n]), seed=3)


ACQUISITIONS = {
    "ei": (1, lambda m: ExpectedImprovement(m, BEST)),
    "logei": (1, lambda m: LogExpectedImprovement(m, BEST)),
    "ucb": (1, lambda m: UpperConfidenceBound(m, 0.1)),
    "qei": (3, lambda m: qExpectedImprovement(m, BEST, sampler())),
    "qlogei": (3, lambda m: qLogExpectedImprovement(m, BEST, sampler())),
    "qucb": (3, lambda m: qUpperConfidenceBound(m, 0.1, sampler())),
    "kg": (2 + 4, lambda m: qKnowledgeGradient(m, num_fantasies=4, sampler=sampler(4))),
}


@pytest.mark.parametrize("name", ACQUISITIONS)
def test_values_and_gradients_are_those_of_a_gp_where_the_law_is(name):
    q, make = ACQUISITIONS[name]
    found = []
    for model in (NPModel(ExactGP(joint=True), X, Y), reference()):
        x = rand(5, q, 2, seed=2).requires_grad_()
        values = make(model)(x)
        found.append((values, *torch.autograd.grad(values.sum(), x)))
    assert found[0][0].shape == (5,) and bool(found[0][1].abs().sum() > 0)
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-7)


def test_laws_of_single_targets_agree_with_the_joint_one():
    """Targets of a model that does not make them depend on each other are asked for all at once."""
    x = rand(4, 3, 1, 2, seed=2)
    joint, alone = (ExpectedImprovement(NPModel(ExactGP(j), X, Y), BEST)(x) for j in (True, False))
    assert joint.shape == (4, 3)
    torch.testing.assert_close(joint, alone)


def model_of(name: str, **settings) -> NPModel:
    return NPModel(tiny(name, **settings), X, rand(6, 2, seed=1))


@pytest.mark.parametrize("name", ["rmnp_joint", "np", "tnpnd", "tnpa"])
def test_gradients_against_differences(name):
    """Of moments and of draws, in the places asked for; in what fantasies were told."""
    model, noise = model_of(name), rand(3, 1, 2, 2, seed=4)

    def numbers(x: Tensor) -> tuple[Tensor, ...]:
        posterior = model.posterior(x)
        return posterior.mean, posterior.variance, posterior.rsample_from_base_samples(torch.Size([3]), noise)

    assert torch.autograd.gradcheck(numbers, rand(1, 2, 2, seed=2).requires_grad_(), fast_mode=True)

    def told(x: Tensor, y: Tensor) -> Tensor:
        return model.condition_on_observations(x, y).posterior(X[:2]).mean

    points = rand(1, 2, seed=5).requires_grad_(), rand(1, 2, seed=6).requires_grad_()
    assert torch.autograd.gradcheck(told, points, fast_mode=True)


@pytest.mark.parametrize("name", ["rmnp_joint", "np", "tnpnd", "cmanp"])
def test_batches_are_what_their_entries_are_alone(name):
    """A batch of points against one data set, and of data sets against shared and own points."""
    model, x, y = model_of(name), rand(4, 3, 2, seed=2), rand(3, 6, 2, seed=3)
    sets = NPModel(tiny(name), X, y)
    assert sets.batch_shape == (3,) and sets.train_targets.shape == (3, 2, 6)
    noise = rand(2, 4, 3, 3, 2, seed=4)

    def numbers(model: NPModel, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        p = model.posterior(x)
        return p.mean, p.variance, p.rsample_from_base_samples(torch.Size([2]), noise)

    together, apart = numbers(model, x, noise[:, :, 0]), numbers(sets, x[:, None], noise)
    i, j = 1, 2
    alone = numbers(model, x[i], noise[:, i, 0])
    torch.testing.assert_close((together[0][i], together[1][i], together[2][:, i]), alone)
    alone = numbers(NPModel(tiny(name), X, y[j]), x[i], noise[:, i, j])
    torch.testing.assert_close((apart[0][i, j], apart[1][i, j], apart[2][:, i, j]), alone)


def laws() -> dict[str, NormalMixture | SetMixture]:
    """Two tasks of two targets with two outputs, far from normal."""
    means, stddevs = 2 * rand(3, 2, 2, 2), 0.3 + rand(3, 2, 2, 2, seed=1).abs()
    weights = rand(3, 2, seed=2).log_softmax(0)
    rows = rand(3, 2, 2, 2, 2, seed=3)
    return {
        "each": NormalMixture(rand(2, 2, 2, 3).log_softmax(-1), means.movedim(0, -1), stddevs.movedim(0, -1)),
        "set": SetMixture(DiagonalGaussian(means, stddevs), weights),
        "equal": SetMixture(DiagonalGaussian(means, stddevs)),
        "low_rank": SetMixture(LowRankGaussian(means, rows, stddevs), weights),
        "channels": SetMixture(LowRankGaussian(means, rows, stddevs, across=False), weights),
    }


@pytest.mark.parametrize("name", laws())
def test_smooth_draws_follow_the_law(name):
    """Their correlations are those of the law's own draws, their marginals uniform under its distribution functions."""
    law, n = laws()[name], 1500
    torch.manual_seed(0)
    own, smooth = law.sample(n), pathwise(law, torch.randn(n, 2, 2, 2, dtype=F64))
    for task in range(2):
        a, b = (v[:, task].flatten(1).T.corrcoef() for v in (own, smooth))
        assert (a - b).abs().max() < 0.15  # 4 standard errors of each difference
    levels = law.cdf(smooth).sort(0).values
    even = ((torch.arange(n) + 0.5) / n)[:, None, None, None]
    assert (levels - even).abs().max() < 2.5 / n**0.5  # Kolmogorov-Smirnov: once in 100,000 outputs
    assert (law.joint_log_prob(smooth[0]) > -50).all()


def test_regrouped_laws_keep_their_own_targets():
    law = laws()["low_rank"]
    parts, y = regroup(law, 2, 1), rand(4, 1, 2)
    torch.testing.assert_close(parts.mean, torch.cat([law.mean[:, :1], law.mean[:, 1:]]))
    order = torch.stack([torch.cat([y[:2], y[2:]], 1)])[0]  # copy after copy
    torch.testing.assert_close(parts.joint_log_prob(y), law.marginal_log_prob(order).mT.flatten())


@pytest.mark.parametrize("name", ["rmnp", "tnp"])
def test_told_later_is_told_at_once(name):
    y = rand(6, 2, seed=1)
    model = NPModel(tiny(name), X[:4], y[:4])
    later = model.condition_on_observations(X[4:], y[4:])
    torch.testing.assert_close(later.posterior(X).mean, model_of(name).posterior(X).mean)
    torch.testing.assert_close((later.train_inputs[0], later.train_targets), (X, y.mT))
    assert len(model.train_inputs[0]) == 4 and model.num_outputs == 2
    fantasies = model.fantasize(X[4:].expand(5, 2, 2), sampler(3))
    assert fantasies.batch_shape == (3, 5) and fantasies.posterior(X[:1]).mean.shape == (3, 5, 1, 2)


def test_nothing_seen():
    empty = NPModel(tiny("rmnp"), X[:0], rand(0, 2))
    seen = empty.condition_on_observations(X, rand(6, 2, seed=1))
    torch.testing.assert_close(seen.posterior(X).variance, model_of("rmnp").posterior(X).variance)


def test_raw_units():
    scaling = {"x_shift": [5.0, -3.0], "x_scale": [2.0, 0.5], "y_shift": [100.0], "y_scale": [30.0]}
    net = ExactGP(joint=True)
    raw = lambda x: x * torch.tensor([2.0, 0.5]) + torch.tensor([5.0, -3.0])  # noqa: E731
    standard, other = NPModel(net, X, Y), NPModel(npexp.Predictor(net, scaling=scaling), raw(X), 100 + 30 * Y)
    x = rand(3, 2, 2, seed=2)
    a, b = standard.posterior(x), other.posterior(raw(x))
    torch.testing.assert_close((b.mean, b.variance), (100 + 30 * a.mean, 900 * a.variance))
    torch.testing.assert_close(sampler()(b), 100 + 30 * sampler()(a))
    told = [m.condition_on_observations(*v).posterior(p).mean for m, v, p in (
        (standard, (x[0], Y[:2]), x[1]), (other, (raw(x[0]), 100 + 30 * Y[:2]), raw(x[1])))]  # fmt: skip
    torch.testing.assert_close(told[1], 100 + 30 * told[0])


def test_outputs_can_be_left_out():
    posterior, one = model_of("tnpnd").posterior(X), model_of("tnpnd").posterior(X, output_indices=[1])
    torch.testing.assert_close((one.mean, one.variance), (posterior.mean[..., 1:], posterior.variance[..., 1:]))
    torch.testing.assert_close(sampler()(one), sampler()(posterior)[..., 1:])
    assert one.rsample(torch.Size([4])).shape == (4, 6, 1)


def test_the_users_model_stays_as_it_is():
    net = tiny("rmnp").float()
    model = NPModel(net, X, rand(6, 2))
    model.float()  # as acquisition functions do that are given float32
    assert model.posterior(X.float()).mean.dtype == F64 and not list(model.parameters())
    assert all(p.dtype == torch.float32 and p.requires_grad for p in net.parameters())


@pytest.mark.parametrize(("name", "key", "q"), [("rmnp_joint", "qlogei", 2), ("tnp", "ucb", 1), ("cmanp", "kg", 1)])
def test_optimisation_of_real_models(name, key, q):
    """Finds better candidates than those it starts from, in the box."""
    torch.manual_seed(0)
    net = npexp.build(name, dx=2, dy=1, dz=16, num_layers=1)
    model = NPModel(net, X, Y)
    bounds = torch.tensor([[-2.0, -2.0], [2.0, 2.0]], dtype=F64)
    acquisition = ACQUISITIONS[key][1](model)
    rows = acquisition.get_augmented_q_batch_size(q) if key == "kg" else q
    start = 0.5 * rand(2, rows, 2, seed=5).clamp(-3, 3)
    with torch.no_grad():
        before = acquisition(start).max()
    candidate, value = optimize_acqf(
        acquisition, bounds, q=q, num_restarts=2, batch_initial_conditions=start, options={"maxiter": 4}
    )
    assert candidate.shape == (q, 2) and bool((candidate.abs() <= 2).all()) and value > before


NAN, FOUR = torch.full((1, 2), torch.nan, dtype=F64), rand(4, 1, 2)
GP = ExactGP(joint=True)
STUDENT = tiny("cnp", likelihood=StudentT())
MALFORMED = {
    "width": (ShapeError, r"X to be a tensor \[\*batch, n, 2\].*got \[3, 1\]", lambda m: m.posterior(rand(3, 1))),
    "one axis": (ShapeError, r"expected X to be a tensor.*got \[2\]", lambda m: m.posterior(X[0])),
    "no tensor": (ShapeError, "expected X to be a tensor.*got list", lambda m: m.posterior([[1.0, 2.0]])),
    "no points": (ShapeError, r"at least one point, got \[5, 0, 2\]", lambda m: m.posterior(rand(5, 0, 2))),
    "NaN": (DataError, "X holds NaN", lambda m: m.posterior(NAN)),
    "noise": (UnsupportedError, "noise they were trained with", lambda m: m.posterior(X, observation_noise=Y)),
    "outputs": (ShapeError, r"Y to be a tensor \[\*batch, n, 1\].*got \[6, 3\]", lambda m: NPModel(GP, X, rand(6, 3))),
    "flat outputs": (ShapeError, r"expected Y.*got \[6\]", lambda m: NPModel(GP, X, Y[:, 0])),
    "NaN output": (DataError, "Y holds NaN", lambda m: m.condition_on_observations(X[:1], NAN[:, :1])),
    "points": (ShapeError, r"points in X as in Y, got \[6, 2\] and \[5, 1\]", lambda m: NPModel(GP, X, Y[1:])),
    "batches": (
        ShapeError,
        r"broadcast, got \[4\] and \[3\]",
        lambda m: NPModel(GP, X, Y.expand(3, 6, 1)).posterior(FOUR),
    ),
    "no model": (
        ConfigError,
        "a NeuralProcess or Predictor, got Linear",
        lambda m: NPModel(torch.nn.Linear(2, 1), X, Y),
    ),
    "no draws": (
        UnsupportedError,
        "no differentiable draws of a IndependentStudentT",
        lambda m: sampler()(NPModel(STUDENT, X, rand(6, 2)).posterior(X)),
    ),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_input(case, untyped):
    error, message, call = MALFORMED[case]
    with pytest.raises(error, match=message):
        call(NPModel(ExactGP(joint=True), X, Y))


def test_analytic_acquisitions_need_no_draws():
    model = NPModel(npexp.build("cnp", dx=2, dy=1, likelihood=StudentT()), X, Y)
    x = rand(4, 1, 2, seed=2).requires_grad_()
    (gradient,) = torch.autograd.grad(UpperConfidenceBound(model, 0.1)(x).sum(), x)
    assert bool((gradient != 0).any())


def test_without_botorch(monkeypatch):
    monkeypatch.setitem(sys.modules, "botorch.acquisition.objective", None)
    monkeypatch.delitem(sys.modules, "npexp.botorch")
    with pytest.raises(ConfigError, match=r"not installed: pip install 'npexp\[botorch\]'"):
        importlib.import_module("npexp.botorch")
