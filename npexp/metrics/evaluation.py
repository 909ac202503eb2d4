"""One metric for validation and test: means over tasks, each with its standard error."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from npexp.batch import TaskBatch
from npexp.errors import DataError
from npexp.likelihoods.base import Predictive
from npexp.metrics.scores import LEVELS, NO_FLOAT64, mean_output, pooled_loglik, task_scores

AVERAGED = (
    "loglik_joint",
    "loglik_marginal",
    "loglik_pooled",
    "oracle_gap_joint",
    "oracle_gap_marginal",
    "mse",
    "mae",
    "crps",
    "energy_score",
    "coverage_95",
)
"""What is averaged, one row of the state each; `mse` is reported as its root."""

TASK_SCORES = tuple(name for name in AVERAGED if name != "loglik_pooled")
"""What each task has by itself."""

TASK_FACTS = ("batch", "task", "num_context", "num_target", "y_mean")
"""What is kept of each task beside its scores: its place in the test set, its sizes and the mean of all its outputs."""

EDGES = (0, *(2**k for k in range(17)))
"""Smallest context size of each bin; the last bin is open."""


class Evaluation(Metric):
    """Every reported score of a model on a set of tasks.

    `compute` returns `<name>` and `<name>_sem` as floats:

    * `loglik_joint`, `loglik_marginal`, `oracle_gap_joint`, `oracle_gap_marginal`, `mae`, `crps`, `energy_score`,
      `coverage_95`: mean over tasks, see `npexp.metrics.scores`. Every task weighs the same, whatever its size.
      `mae` judges the predicted mean.
    * `rmse`: root of the mean over tasks of each task's mean squared error.
    * `calibration_error`: mean over nominal levels of |share of targets inside - nominal|, the share taken over all
      tasks first. Zero is out of reach: a calibrated model on few tasks scores about the size of its error bar.
    * `loglik_pooled`: mean over the generator's batches of each batch's marginal log-likelihood per target, summed
      over output channels. This is the one number to hold against published tables of factorised and latent-variable
      models, and it is by definition about batches. Tables give the joint score for models with a joint likelihood:
      hold `dy * loglik_joint` against those.
    * `loglik_nc/00008-00015` (without `_sem`): mean `loglik_joint` of the tasks with that many context points.

    A name is absent when no task could give it: gaps without an oracle, a context size that never came, the energy
    score when it is switched off.

    The independent draws are the generator's batches, not the tasks, which mostly share their sizes within a
    batch. Every `_sem` is therefore cluster-robust: a mean over tasks is a ratio of sums over batches, total score to
    number of tasks, and its error that of a ratio (Cochran 1977, Sampling Techniques, chapter 6), NaN for a single
    batch; `rmse` and `calibration_error` pass it on by the delta method.

    The states are float64 sums over batches, equal in shape everywhere. Batches go to processes whole, so no number
    depends on how many processes there are. How tasks are grouped into batches moves error bars and `loglik_pooled`,
    never another mean. A variance from raw sums loses what lies below 1e-8 of the mean: no error bar is read that
    finely, and a shift would need processes to agree on it.

    Args:
        energy: also the energy score. It needs 64 samples of every task: leave it out where that is too slow.
        keep_tasks: also keeps the scores of every task, some 300 bytes each, for `task_table`.
    """

    is_differentiable = False
    full_state_update = False

    moments: Tensor
    coverage: Tensor
    by_context: Tensor
    rows: list[Tensor]

    def __init__(self, energy: bool = True, keep_tasks: bool = False):
        super().__init__()
        self.energy, self.keep_tasks = energy, keep_tasks
        for name, shape in {
            "moments": (len(AVERAGED), 3, 3),  # `_cross_sums` of each score
            "coverage": (2 + len(LEVELS), 2 + len(LEVELS)),  # `_cross_sums` of the shares inside at each level
            "by_context": (len(EDGES), 2),  # count, sum
        }.items():
            self.add_state(name, torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")
        if keep_tasks:
            self.add_state("rows", [], dist_reduce_fx="cat")

    def update(self, pred: Predictive, batch: TaskBatch, number: int = 0) -> None:
        """Adds one batch of the task generator.

        Args:
            pred: the prediction at `batch.xt`.
            batch: the tasks.
            number: of the batch, counted over all processes; for `task_table`.
        """
        scores = {k: v.to(self.moments) for k, v in task_scores(pred, batch, energy=self.energy).items()}
        num_context, num_target = batch.num_context.to(self.device), batch.num_target.to(self.device)
        loglik = scores["loglik_joint"]
        scores["loglik_pooled"] = pooled_loglik(scores["loglik_marginal"], num_target, batch.yt.shape[2])[None]
        absent = loglik.new_zeros(0)
        bins = torch.bucketize(num_context, num_context.new_tensor(EDGES), right=True) - 1
        # Out of place: a state born under inference_mode cannot be changed in place outside it.
        self.moments = self.moments + torch.stack([_cross_sums(scores.get(name, absent)) for name in AVERAGED])
        self.coverage = self.coverage + _cross_sums(scores["pit_coverage"])
        self.by_context = self.by_context.index_add(0, bins, torch.stack([torch.ones_like(loglik), loglik], dim=1))
        if self.keep_tasks:
            places = [torch.full_like(loglik, number), torch.arange(len(loglik)), num_context, num_target]
            unknown = torch.full_like(loglik, torch.nan)
            columns = [*places, mean_output(batch), *(scores.get(name, unknown) for name in TASK_SCORES)]
            columns = [column.to(loglik) for column in columns]
            self.rows.append(torch.cat([torch.stack(columns, dim=1), scores["pit_coverage"]], dim=1))

    def compute(self) -> dict[str, float]:
        """Means and standard errors over everything seen by all processes.

        Raises:
            DataError: no process has seen a task.
        """
        moments, coverage, by_context = self.moments.cpu(), self.coverage.cpu(), self.by_context.cpu()
        if coverage[0, 0] == 0:
            raise DataError("expected at least one task, got none: call update before compute")
        results = {
            name: _mean_and_sem(sums) for name, sums in zip(AVERAGED, moments.unbind(), strict=True) if sums[0, 0] > 0
        }
        results["rmse"] = _root(*results.pop("mse"))
        results["calibration_error"] = _calibration_error(coverage)
        flat = {}
        for name, (mean, sem) in results.items():
            flat |= {name: float(mean), f"{name}_sem": float(sem)}
        bins = {_bin_name(i): float(total / count) for i, (count, total) in enumerate(by_context) if count > 0}
        return flat | bins

    def task_table(self) -> dict[str, np.ndarray]:
        """Every task that the processes have seen, in the order of the test set: all processes must call it together.

        Returns:
            `[n]` float64 for each of `TASK_FACTS` and `TASK_SCORES`, NaN where a score is unknown; and "coverage",
            `[n, k]`, the share of targets inside the central interval of each of `npexp.metrics.scores.LEVELS`.
        """
        with self.sync_context():
            rows = dim_zero_cat(self.rows).cpu().numpy()
        rows = rows[np.lexsort((rows[:, 1], rows[:, 0]))]
        names = (*TASK_FACTS, *TASK_SCORES)
        return {name: rows[:, i] for i, name in enumerate(names)} | {"coverage": rows[:, len(names) :]}

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> "Evaluation":
        # Half-precision training casts whole modules: sums follow to a new device, but never to another dtype.
        def move(state: Tensor) -> Tensor:
            device = fn(torch.zeros(1, device=state.device)).device
            return state if device.type in NO_FLOAT64 else state.to(device)

        return super()._apply(move, exclude_state)


def _cross_sums(values: Tensor) -> Tensor:
    """One batch's v v', v = (1, number of tasks, total of each score), of `values` `[b]` or `[b, k]`; 0 without tasks.

    Summed over batches, it holds all that a ratio of sums and its error need.
    """
    counts = values.new_tensor([len(values) > 0, len(values)])
    v = torch.cat([counts, values.sum(0).reshape(-1)])
    return torch.outer(v, v)


def _mean_and_sem(sums: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over tasks of a score with these `_cross_sums`; its error is the spread of the batches' total - mean * n."""
    batches, tasks, total = sums[0]
    mean = total / tasks
    if batches == 1:
        return mean, torch.full_like(mean, torch.nan)
    squares = sums[2, 2] - 2 * mean * sums[1, 2] + mean.square() * sums[1, 1]
    return mean, (squares.clamp(min=0) * batches / (batches - 1)).sqrt() / tasks


def _root(mean: Tensor, sem: Tensor) -> tuple[Tensor, Tensor]:
    """Delta method: d sqrt(m) = dm / (2 sqrt(m)); a mean square of zero has no error to pass on."""
    root = mean.sqrt()
    return root, sem if root == 0 else sem / (2 * root)


def _calibration_error(coverage: Tensor) -> tuple[Tensor, Tensor]:
    """Mean absolute gap between empirical and nominal coverage, from the `_cross_sums` of the shares.

    Delta method: to first order the error is a linear function g of the K shares, with g = sign(gap) / K, so its
    error bar is that of the per-task number g'share, whose cross sums are a linear map of theirs.
    """
    gap = coverage[0, 2:] / coverage[0, 1] - torch.tensor(LEVELS, dtype=torch.float64)
    linear = torch.block_diag(torch.eye(2, dtype=torch.float64), gap.sign()[:, None] / len(LEVELS))
    _, sem = _mean_and_sem(linear.T @ coverage @ linear)
    return gap.abs().mean(), sem


def _bin_name(index: int) -> str:
    last = f"{EDGES[index + 1] - 1:05d}" if index + 1 < len(EDGES) else "more"
    return f"loglik_nc/{EDGES[index]:05d}-{last}"
