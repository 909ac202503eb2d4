"""Bayesian optimisation with neural processes as surrogates, beside Gaussian processes and random search.

    python results/bo/run.py [--methods rmnp tnp ...] [--objectives rbf matern52 periodic ackley_2d ...]

The experiments of the TNP paper (Nguyen & Grover 2022, arXiv 2207.04179), with a shorter training of the surrogates.
In 1-D: functions drawn from three priors on 1,000 points of [-2, 2], one point to begin with, expected improvement on
the grid; all tasks are one batch. In 2-D and 3-D: test functions on the box clipped to [-2, 2], an upper confidence
bound with beta 0.1, maximised by `optimize_acqf` with 50 restarts from 100 raw samples. Surrogates are trained on
Gaussian processes with an RBF covariance, never on an objective, and are not fitted to one either.

Writes regret.csv, the simple regret (the best so far less the true minimum) after some numbers of evaluations: mean and
standard error over tasks. Finished methods are skipped, so a run that was stopped goes on where it was.
"""

import argparse
import math
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import npexp
from datamodules import RBF, GPData
from datamodules.kernels import Kernel
from npexp.botorch import NPModel
from npexp.likelihoods import DiagonalGaussian
from npexp.models.base import NeuralProcess, Points, State

from botorch.acquisition import LogExpectedImprovement, UpperConfidenceBound  # isort: skip
from botorch.exceptions import BotorchWarning
from botorch.fit import fit_gpytorch_mll
from botorch.models import SingleTaskGP
from botorch.models.model import Model
from botorch.models.transforms import Normalize
from botorch.optim import optimize_acqf
from botorch.test_functions import Ackley, DropWave, Michalewicz, Rastrigin
from gpytorch.mlls import ExactMarginalLogLikelihood

sys.path.append(str(Path(__file__).parents[1]))
from shared import Table, fit

HERE = Path(__file__).parent
COLUMNS = ["objective", "method", "evaluations", "regret", "regret_sem", "tasks", "steps", "seconds_per_evaluation"]
NEURAL = {"rmnp": 1e-3, "tnp": 5e-4}  # and learning rates, of conf/experiment
STEPS = {1: {"rmnp": 5000, "tnp": 5000}, 2: {"rmnp": 3000, "tnp": 1500}, 3: {"rmnp": 2000, "tnp": 600}}
METHODS = (*NEURAL, "gp", "oracle", "random")
PRIORS = {"rbf": "test", "matern52": "test_matern52", "periodic": "test_periodic"}  # splits of conf/data/gp_rbf.yaml
GRID = torch.linspace(-2, 2, 1000, dtype=torch.float64)[:, None]
JITTER = 1e-6  # of the variance: the functions' own noise, without which their covariances cannot be factorised
BETA, RESTARTS, RAW_SAMPLES, MAX_STEPS = 0.1, 50, 100, 50
Function = Callable[[Tensor], Tensor]


def cosine(x: Tensor) -> Tensor:
    """The cosine mixture of Breiman & Cutler 1993, to be minimised."""
    return x.square().sum(-1) - 0.1 * (5 * math.pi * x).cos().sum(-1)


def lowest_michalewicz(dim: int, high: float) -> float:
    """Its minimum on [0, high]^dim: it is a sum over coordinates."""
    x, i = torch.linspace(0, high, 2**18, dtype=torch.float64), torch.arange(1, dim + 1)[:, None]
    return -float((x.sin() * (i * x.square() / math.pi).sin() ** 20).amax(-1).sum())


# dimensions, function, box, true minimum
FUNCTIONS: dict[str, tuple[int, Function, tuple[float, float], float]] = {
    "ackley_2d": (2, Ackley(dim=2, dtype=torch.float64), (-2.0, 2.0), 0.0),
    "dropwave_2d": (2, DropWave(dtype=torch.float64), (-2.0, 2.0), -1.0),
    "michalewicz_2d": (2, Michalewicz(dim=2, dtype=torch.float64), (0.0, 2.0), lowest_michalewicz(2, 2.0)),
    "ackley_3d": (3, Ackley(dim=3, dtype=torch.float64), (-2.0, 2.0), 0.0),
    "cosine_3d": (3, cosine, (-1.0, 1.0), -0.3),
    "rastrigin_3d": (3, Rastrigin(dim=3, dtype=torch.float64), (-2.0, 2.0), 0.0),
}


class Oracle(NeuralProcess):
    """The GP that the functions were drawn from, with the hyperparameters of each.

    Args:
        kernel: the family of functions.
        u: what the hyperparameters of each task are made from.
    """

    def __init__(self, kernel: Kernel, u: Tensor):
        super().__init__(1, 1)
        self.kernel, self.u = kernel, u
        self.device_of = torch.nn.Parameter(torch.zeros(()))

    def __deepcopy__(self, memo: dict[int, Any]) -> "Oracle":
        return self  # GPyTorch's kernels hold what cannot be copied

    def _encode(self, points: Points) -> tuple[Tensor, ...]:
        variance = self.kernel.covariance(self.u, GRID[None, :1], GRID[None, :1])
        noise = JITTER * variance * torch.eye(points.x.shape[1], dtype=torch.float64)
        factor = torch.linalg.cholesky(self.kernel.covariance(self.u, points.x, points.x) + noise)
        return points.x, torch.cholesky_solve(points.y, factor), factor, variance[..., 0]

    def _predict(self, state: State, xt: Tensor, mask_t: Tensor | None) -> DiagonalGaussian:
        x, solved, factor, variance = state.summary
        cross = self.kernel.covariance(self.u, xt, x)
        known = torch.linalg.solve_triangular(factor, cross.mT, upper=False).square().sum(1)
        return DiagonalGaussian(cross @ solved, (variance - known).clamp_min(1e-12).sqrt()[..., None])


def functions_on_grid(prior: str, tasks: int) -> tuple[Tensor, Oracle]:
    """Functions `[tasks, 1000]` of a prior of the published data, and what they were drawn from."""
    kernel = npexp.build_data("gp_rbf").kernel_of(PRIORS[prior])
    g = torch.Generator().manual_seed(list(PRIORS).index(prior))
    u = torch.rand(tasks, kernel.num_hyper, generator=g, dtype=torch.float64)
    values = []
    for i in range(tasks):
        covariance = kernel.covariance(u[i : i + 1], GRID[None], GRID[None])[0]
        covariance.diagonal().mul_(1 + JITTER)
        values.append(torch.linalg.cholesky(covariance) @ torch.randn(len(GRID), generator=g, dtype=torch.float64))
    return torch.stack(values), Oracle(kernel, u)


def fitted_gp(x: Tensor, y: Tensor, box: tuple[float, float]) -> SingleTaskGP:
    """BoTorch's GP as it comes: RBF, outputs standardised, the hyperparameters of highest posterior density."""
    bounds = torch.tensor([box], dtype=torch.float64).T.expand(2, x.shape[-1])
    gp = SingleTaskGP(x, y, input_transform=Normalize(x.shape[-1], bounds=bounds))
    fit_gpytorch_mll(ExactMarginalLogLikelihood(gp.likelihood, gp))
    return gp


@torch.no_grad()
def log_improvement(model: Model, best: Tensor) -> Tensor:
    """Log expected improvement at each point of the grid, `[tasks, 1000]`; tasks are the model's batch."""
    x = GRID.view(-1, *[1] * len(model.batch_shape), 1, 1).expand(-1, *model.batch_shape, 1, 1)
    return LogExpectedImprovement(model, best[..., None], maximize=False)(x).reshape(len(GRID), -1).mT


def on_grid(method: str, net: NeuralProcess | None, values: Tensor, evaluations: int) -> Tensor:
    """The best value after each evaluation, `[tasks, evaluations]`; no point is evaluated twice."""
    tasks, g = torch.arange(len(values)), torch.Generator().manual_seed(1)
    chosen = torch.randint(len(GRID), (len(values), 1), generator=g)
    model = None
    while chosen.shape[1] < evaluations:
        x, y = GRID[chosen], values.gather(1, chosen)[..., None]
        best = y.amin((1, 2))
        if method == "random":
            scores = torch.rand(values.shape, generator=g)
        elif net is None:
            with torch.enable_grad():
                models = [fitted_gp(x[i], y[i], (-2.0, 2.0)) for i in tasks]
            scores = torch.cat([log_improvement(m, b) for m, b in zip(models, best, strict=True)])
        else:
            new = x[:, -1:], y[:, -1:]
            model = NPModel(net, x, y) if model is None else model.condition_on_observations(*new)
            scores = log_improvement(model, best)
        scores = scores.scatter(1, chosen, -torch.inf)
        chosen = torch.cat([chosen, scores.argmax(1, keepdim=True)], 1)
    return values.gather(1, chosen).cummin(1).values


def in_box(method: str, net: NeuralProcess | None, name: str, evaluations: int, repeat: int) -> Tensor:
    """The best value after each evaluation, `[evaluations]`."""
    dim, function, (low, high), _ = FUNCTIONS[name]
    g = torch.Generator().manual_seed(repeat)
    bounds = torch.tensor([[low] * dim, [high] * dim], dtype=torch.float64)
    x = low + (high - low) * torch.rand(1, dim, generator=g, dtype=torch.float64)
    torch.manual_seed(repeat)  # of the restarts
    while len(x) < evaluations:
        y = function(x)[:, None]
        if method == "random":
            new = low + (high - low) * torch.rand(1, dim, generator=g, dtype=torch.float64)
        else:
            model = fitted_gp(x, y, (low, high)) if net is None else NPModel(in_units(net, y, low, high), x, y)
            acquisition = UpperConfidenceBound(model, BETA, maximize=False)
            settings = {"num_restarts": RESTARTS, "raw_samples": RAW_SAMPLES, "options": {"maxiter": MAX_STEPS}}
            new, _ = optimize_acqf(acquisition, bounds, q=1, **settings)
        x = torch.cat([x, new])
    return function(x).cummin(0).values


def in_units(net: NeuralProcess, y: Tensor, low: float, high: float) -> npexp.Predictor:
    """The net, for outputs standardised by those seen and for a box that becomes the [-2, 2] it was trained on."""
    scale = float(y.std()) if len(y) > 1 and y.std() > 1e-9 else 1.0
    scaling = {"x_shift": [(low + high) / 2] * net.dx, "x_scale": [(high - low) / 4] * net.dx}
    return npexp.Predictor(net, scaling=scaling | {"y_shift": [float(y.mean())], "y_scale": [scale]})


def trained(method: str, dim: int, steps: int) -> NeuralProcess:
    """A surrogate: in 1-D on the published data, else on its law of functions, with contexts from one point on."""
    torch.manual_seed(0)
    net = npexp.build(method, dx=dim, dy=1)
    if dim == 1:
        data = npexp.build_data("gp_rbf")
    else:
        points = {2: 128, 3: 256}[dim]
        family = RBF(lengthscale=(0.1, 1.0), scale=(0.1, 1.0))
        sizes = {"num_context": (1, 3 * points // 4), "num_target": (points // 4, points), "max_points": points}
        data = GPData(family, dx=dim, **sizes)
    start = time.time()
    fit(net, data, steps, NEURAL[method])
    print(f"{method}, {dim} inputs: {steps} steps in {time.time() - start:.0f} s", flush=True)
    return net


def record(table: Table, objective: str, method: str, regret: Tensor, steps: int | str, seconds: float) -> None:
    """Rows at about twenty numbers of evaluations."""
    n = regret.shape[1]
    kept = sorted({*range(1, min(n, 10) + 1), *range(10, n + 1, 5 if n > 20 else 2), n})
    for i in kept:
        r = regret[:, i - 1]
        row = {
            "regret": float(r.mean()),
            "regret_sem": float(r.std(correction=min(1, len(r) - 1)) / len(r) ** 0.5),
            "tasks": len(r),
        }
        facts = {"steps": steps, "seconds_per_evaluation": seconds / n / len(r)}
        table.add({"objective": objective, "method": method, "evaluations": i} | row | facts)


def run(args: argparse.Namespace) -> None:
    """Every method on every objective, dimension by dimension, so that a surrogate is trained once for each."""
    table = Table(args.table, COLUMNS, ("objective", "method", "evaluations"))
    of_dim: dict[int, list[str]] = {1: [], 2: [], 3: []}
    for name in args.objectives:
        of_dim[1 if name in PRIORS else FUNCTIONS[name][0]].append(name)
    for dim, names in of_dim.items():
        for method in args.methods:
            left = [n for n in names if not table.has(objective=n, method=method, evaluations=args.evaluations)]
            if not left or (method == "oracle" and dim > 1):
                continue
            steps = (args.steps or STEPS[dim][method]) if method in NEURAL else ""
            net = trained(method, dim, steps) if steps else None
            for name in left:
                if dim == 1:
                    values, oracle = functions_on_grid(name, args.tasks)
                    values = values[: args.gp_tasks] if method == "gp" else values
                    start = time.time()
                    best = on_grid(method, oracle if method == "oracle" else net, values, args.evaluations)
                    regret = best - values.amin(1, keepdim=True)
                else:
                    start = time.time()
                    runs = [in_box(method, net, name, args.evaluations, r) for r in range(args.repeats)]
                    regret = torch.stack(runs) - FUNCTIONS[name][3]
                record(table, name, method, regret, steps, time.time() - start)


def main(words: Sequence[str] | None = None) -> None:
    """Reads the command line and runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    objectives = (*PRIORS, *FUNCTIONS)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--objectives", nargs="+", choices=objectives, default=objectives)
    parser.add_argument("--evaluations", type=int, default=50, help="of an objective, the first one included")
    parser.add_argument("--tasks", type=int, default=100, help="functions of each prior")
    parser.add_argument("--gp-tasks", type=int, default=20, help="of these for the fitted GP, whose fits take long")
    parser.add_argument("--repeats", type=int, default=10, help="of each test function, from different first points")
    parser.add_argument("--steps", type=int, default=None, help="training steps, in place of those above")
    parser.add_argument("--table", type=Path, default=HERE / "regret.csv")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BotorchWarning)  # on optimisers that stop early and on data of unit variance
        warnings.simplefilter("ignore", RuntimeWarning)
        run(parser.parse_args(words))


if __name__ == "__main__":
    main()
