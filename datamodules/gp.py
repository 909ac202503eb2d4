"""Functions drawn from Gaussian processes, with the exact log-likelihood of every task for free.

The published protocols are settings of one class, written down as YAML:

* `tnp_suite` (Lee et al. 2020, Nguyen and Grover 2022, Feng et al. 2022 and 2023): `conf/data/gp_rbf.yaml`, and with
  Matérn-5/2 functions `conf/data/gp_matern.yaml`;
* `cambridge` (the group of Ashman et al. 2024, arXiv 2406.12409): `conf/data/gp_cambridge.yaml`;
* `conf/data/gp_mixed.yaml`: every family of functions, and another context size for each task;
* `conf/data/gp_rbf_2d.yaml`, `gp_rbf_3d.yaml`, `gp_rbf_2out.yaml` and `gp_lmc.yaml`: more inputs, more outputs;
* `conf/data/gp_student_t.yaml` and `gp_heteroscedastic.yaml`: noise with heavy tails, and of another size elsewhere;
* `conf/data/gp_gibbs.yaml` and `gp_change_point.yaml`: functions that change their character;
* `conf/data/gp_shift.yaml`: tests on inputs that were moved or stretched;
* `conf/data/far_fact.yaml` and `lookup.yaml`: what models fail on that see their neighbours only, or keep too little.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from datamodules.base import PlotTask, progress
from datamodules.kernels import Kernel
from datamodules.loader import generator, one_thread
from datamodules.noise import Noise, as_noise
from datamodules.oracle import bayes_oracle, factor, gp_predictive, of_outputs, scores, times
from datamodules.sampled import SampledTasks, assemble
from datamodules.settings import interval
from npexp.batch import TaskBatch
from npexp.errors import ConfigError, at_least

PLOT_POINTS = {1: 200, 2: 32}  # grid points per dimension of a figure


class Estimate(NamedTuple):
    """A mean over batches and its standard error, in nats per target."""

    mean: float
    sem: float


class Ceiling(NamedTuple):
    """Scores of exact Bayesian prediction with unknown hyperparameters, pooled as published.

    The pooled value is the mean over batches of each batch's mean per target.

    Args:
        joint: log-likelihood of all targets of a task together, the ceiling of a joint model.
        marginal: of each target alone, the ceiling of a factorised model.
        joint_gap: what knowing the hyperparameters would add to `joint`, on the same tasks.
        marginal_gap: the same for `marginal`.
        joint_error: integration error of `joint`, an upper bound of one standard error, in nats per target.
        marginal_error: the same for `marginal`.
    """

    joint: Estimate
    marginal: Estimate
    joint_gap: Estimate
    marginal_gap: Estimate
    joint_error: float
    marginal_error: float


class GPData(SampledTasks):
    """Functions from a Gaussian process, observed at random points, with exact log-likelihoods where noise is Gaussian.

    Use it to measure how much of what can be known a model learns: `oracle_joint` and `oracle_marginal` are the scores
    of the exact posterior under each task's own hyperparameters; noise that is not Gaussian leaves none. A batch is one
    float64 Cholesky factorisation; its tensors are float32. The defaults are the protocol `tnp_suite`.

    Args:
        kernel: the family of functions; each task draws its hyperparameters from it. It says how many outputs there
            are: one, or those of `Coregionalised` and `LMC`.
        dx: input size; every dimension has the same range.
        noise: standard deviation of the noise on context and target outputs alike, or a law of it.
        context_range: where context inputs lie, uniformly.
        target_range: where target inputs lie; None for the same.
        num_context: smallest and largest context, drawn once per batch.
        num_target: smallest and largest number of targets, drawn once per batch.
        max_points: cap on context and targets together: the largest number of targets becomes this less the context.
        ragged: draw both numbers for each task alone; the batch is padded with zeros and has masks.
        batch_size: tasks per batch.
        steps_per_epoch: training steps per epoch.
        num_val_batches: validation batches.
        num_test_batches: batches in each test set.
        test_kernels: further test sets, name to family: `matern52` becomes the test set `test_matern52`.
        test_ranges: further test sets, name to [low, high] of all their inputs: `shift` becomes `test_shift`.
        seed: names the stream of tasks.
        num_workers: processes that prepare training batches.
        cache_dir: where evaluation sets are kept; None for `$XDG_CACHE_HOME/npexp` or `~/.cache/npexp`.

    Raises:
        ConfigError: a setting is out of range or contradicts another.
    """

    def __init__(
        self,
        kernel: Kernel,
        dx: int = 1,
        noise: float | Noise = 0.02,
        context_range: Sequence[float] = (-2.0, 2.0),
        target_range: Sequence[float] | None = None,
        num_context: Sequence[int] = (3, 46),
        num_target: Sequence[int] = (3, 46),
        max_points: int | None = 49,
        ragged: bool = False,
        batch_size: int = 16,
        steps_per_epoch: int = 1000,
        num_val_batches: int = 64,
        num_test_batches: int = 188,
        test_kernels: dict[str, Kernel] | None = None,
        test_ranges: dict[str, Sequence[float]] | None = None,
        seed: int = 0,
        num_workers: int = 0,
        cache_dir: str | None = None,
    ):
        names = [*(test_kernels or {}), *(test_ranges or {})]
        check_names(names)
        for name, family in (test_kernels or {}).items():
            if family.num_outputs != kernel.num_outputs:
                raise ConfigError(
                    f"expected test kernel '{name}' to have {kernel.num_outputs} outputs as the kernel does, got "
                    f"{family.num_outputs}: give both as many"
                )
        super().__init__(
            dx=dx,
            dy=kernel.num_outputs,
            num_context=num_context,
            num_target=num_target,
            max_points=max_points,
            ragged=ragged,
            batch_size=batch_size,
            steps_per_epoch=steps_per_epoch,
            num_val_batches=num_val_batches,
            num_test_batches=num_test_batches,
            seed=seed,
            num_workers=num_workers,
            cache_dir=cache_dir,
            test_names=("test", *(f"test_{name}" for name in names)),
        )
        self.kernel, self.test_kernels = kernel, test_kernels
        self.noise, self._noise = noise, as_noise(noise)
        self.oracle = self._noise.gaussian
        self.context_range = interval("context_range", context_range)
        self.target_range = None if target_range is None else interval("target_range", target_range)
        self.test_ranges = test_ranges
        self._ranges = {f"test_{k}": interval(f"test_ranges.{k}", ends) for k, ends in (test_ranges or {}).items()}

    def kernel_of(self, split: str) -> Kernel:
        """The family of functions in a split."""
        return (self.test_kernels or {}).get(split.removeprefix("test_"), self.kernel)

    def ranges_of(self, split: str) -> tuple[tuple[float, float], tuple[float, float]]:
        """Where context and targets lie in a split."""
        targets = self.context_range if self.target_range is None else self.target_range
        return (self._ranges[split],) * 2 if split in self._ranges else (self.context_range, targets)

    @one_thread()
    def make_batch(self, split: str, index: int) -> TaskBatch:
        self.check_index(split, index)
        rng, kernel, b = generator(self.seed, split, index=index), self.kernel_of(split), self.batch_size
        nc, nt, mask = self.draw_sizes(rng)
        x = self._inputs(rng, split, nc, nt)
        u = torch.from_numpy(rng.random((b, kernel.num_hyper)))
        z = torch.from_numpy(rng.standard_normal((b, (nc + nt) * self.dy)))
        if mask is not None:
            x, z = x.masked_fill(~mask[..., None], 0.0), z.masked_fill(~of_outputs(mask, self.dy), 0.0)
        exact_x = x.double()
        noise = self._noise.stddev(torch.from_numpy(rng.random((b, self._noise.num_hyper))), exact_x)
        chol = factor(kernel, u, exact_x, noise, mask)
        y = times(chol, z).view(b, nc + nt, self.dy)
        if not self._noise.gaussian:
            return assemble(x, (y + self._noise.added(rng, tuple(y.shape))).float(), nc, mask)
        y = y.float()
        exact = scores(chol, z, nc, mask, self.dy)
        return assemble(x, y, nc, mask, exact.joint.float(), exact.marginal.float())

    def plot_tasks(self, num: int) -> list[PlotTask]:
        """`num` functions on a dense grid, with context sizes spread over their range.

        Beyond two inputs, or with two inputs and two outputs, which are no picture, validation tasks.
        """
        if self.dx not in PLOT_POINTS or (self.dx == 2 and self.dy == 2):
            return super().plot_tasks(num)
        return [self._plot_task(number, nc) for number, nc in enumerate(self.plot_contexts(num))]

    def bayes_oracle(
        self, split: str = "test", num_batches: int = 16, num_draws: int = 1024, num_scrambles: int = 4, seed: int = 0
    ) -> Ceiling:
        """The best score a model can reach on the first batches of a split, knowing the law but no hyperparameter.

        Args:
            split: which tasks; the prior is the law of that split's own family.
            num_batches: how many batches of it, at least 2.
            num_draws: draws of hyperparameters per scramble.
            num_scrambles: independent repetitions of the integration.
            seed: of the integration.
        """
        at_least("num_batches", num_batches, 2)
        rows, errors = [], []
        for index in progress(num_batches, "exact prediction"):
            batch = self.make_batch(split, index)
            best = bayes_oracle(self.kernel_of(split), batch, self._noise, num_draws, num_scrambles, seed)
            joint, marginal = best.joint.sum(), best.marginal.sum()
            known_joint, known_marginal = batch.oracle_joint.double().sum(), batch.oracle_marginal.double().sum()
            count = batch.num_target.sum()
            rows.append(torch.stack([joint, marginal, known_joint - joint, known_marginal - marginal]) / count)
            errors.append(torch.stack([best.joint_sem.sum(), best.marginal_sem.sum()]) / count)
        table = torch.stack(rows)
        sems = table.std(0) / num_batches**0.5
        estimates = [Estimate(float(mean), float(sem)) for mean, sem in zip(table.mean(0), sems, strict=True)]
        # All tasks share the scrambles, so their errors may all point the same way: they are added, not averaged out.
        return Ceiling(*estimates, *torch.stack(errors).mean(0).tolist())

    def _inputs(self, rng: np.random.Generator, split: str, nc: int, nt: int) -> Float[Tensor, "b n dx"]:
        """Uniform inputs, already rounded to what is delivered: the oracle must see the same numbers as a model."""
        sizes = [(self.batch_size, num, self.dx) for num in (nc, nt)]
        x = [rng.uniform(*ends, size) for ends, size in zip(self.ranges_of(split), sizes, strict=True)]
        return torch.from_numpy(np.concatenate(x, 1, dtype=np.float32))

    def _plot_task(self, number: int, nc: int) -> PlotTask:
        rng = generator(self.seed, "plot", index=number)
        ends = self.ranges_of("plot")
        low, high = min(low for low, _ in ends), max(high for _, high in ends)
        axis = torch.linspace(low, high, PLOT_POINTS[self.dx])
        grid = torch.cartesian_prod(*[axis] * self.dx).reshape(1, -1, self.dx)
        xc = torch.from_numpy(rng.uniform(*self.context_range, (1, nc, self.dx)).astype(np.float32))
        u = torch.from_numpy(rng.random((1, self.kernel.num_hyper)))
        normal = torch.from_numpy(rng.standard_normal((2, (nc + grid.shape[1]) * self.dy, 1)))
        x = torch.cat([xc, grid], 1).double()
        chol = factor(self.kernel, u, x, noise=0.0)
        function, normal = (v.view(1, -1, self.dy) for v in (chol @ normal[:1], normal[1:]))
        noise = self._noise.stddev(torch.from_numpy(rng.random((1, self._noise.num_hyper))), x)
        size = noise[..., None] if isinstance(noise, Tensor) else noise
        y = (function + size * normal + self._noise.added(rng, tuple(function.shape))).float()
        mean = stddev = None
        if self._noise.gaussian:
            exact = gp_predictive(self.kernel, u, xc, y[:, :nc], grid, noise)
            mean, stddev = (v.float() for v in exact)
        return PlotTask(
            batch=TaskBatch(xc, y[:, :nc], grid, y[:, nc:]),
            kind="curve" if self.dx == 1 else "image",
            image_shape=None if self.dx == 1 else (len(axis), len(axis)),
            truth=function[:, nc:].float(),
            mean=mean,
            stddev=stddev,
        )


def check_names(names: Sequence[str]) -> None:
    """Raises `ConfigError` unless names of test sets can be those of metrics and differ."""
    for number, name in enumerate(names):
        if not re.fullmatch("[a-z0-9_]+", name):
            raise ConfigError(f"expected names of test sets in a-z, 0-9 and _, got '{name}': rename it")
        if name in names[:number]:
            raise ConfigError(f"expected each test set to have a name of its own, got '{name}' twice: rename one")
