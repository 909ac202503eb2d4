"""Per-task scores of a prediction, as pure functions.

Each score is one number per task, so that whoever averages them can also tell how sure the average is. Values are
masked where they live and summed in float64: padded slots may hold NaN, and are replaced before any arithmetic.
A NaN that the model itself makes at a real target reaches every score it touches.
"""

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from npexp.batch import TaskBatch, real
from npexp.likelihoods.base import Predictive

LEVELS = tuple(k / 20 for k in range(1, 20))
"""Nominal levels at which central coverage is measured, 0.05 to 0.95."""

ENERGY_DRAWS, ENERGY_SEED = 64, 0
"""Draws for the energy score. Fixed: a number must not depend on the memory or the generator at hand."""

NO_FLOAT64 = frozenset({"mps"})
"""Device types without float64, whose values are summed on the CPU."""


def task_scores(pred: Predictive, batch: TaskBatch, energy: bool = True) -> dict[str, Float64[Tensor, "b ..."]]:
    """Scores every task of a batch.

    Args:
        pred: the prediction at `batch.xt`.
        batch: the tasks. Values at padded targets are not looked at.
        energy: also the energy score, the one score that needs samples.

    Returns:
        `[b]` float64 each: `loglik_joint`, `loglik_marginal`, `mse`, `mae`, `crps`, `energy_score`, `coverage_95`,
        and where the batch knows its oracle `oracle_gap_joint`, `oracle_gap_marginal`;
        `pit_coverage` is `[b, k]`, one column for each of `LEVELS`.
    """
    mask = _target_mask(batch)
    yt = torch.where(mask, batch.yt, 0)
    error = pred.mean - yt
    coverage = pit_coverage(pred.cdf(yt), mask)
    scores = log_scores(pred, batch) | {
        "mse": mean_over_targets(error.square(), mask),
        "mae": mean_over_targets(error.abs(), mask),
        "crps": mean_over_targets(pred.crps(yt), mask),
        "coverage_95": coverage[:, LEVELS.index(0.95)],
        "pit_coverage": coverage,
    }
    return scores | {"energy_score": energy_score(pred, batch)} if energy else scores


def log_scores(pred: Predictive, batch: TaskBatch) -> dict[str, Float64[Tensor, " b"]]:
    """Log-likelihoods in nats per target and output channel, and how far they stay below the oracle's.

    The joint score rates the targets as one vector, the marginal one each target alone (Gneiting & Raftery 2007,
    section 4; https://doi.org/10.1198/016214506000001437). They agree for factorised predictions only, so never rank
    one against the other. A gap is oracle minus model: positive means room to improve, and a mean that is
    significantly negative means that the model has seen its targets.
    """
    mask, size = _target_mask(batch), _num_values(batch)
    yt = torch.where(mask, batch.yt, 0)

    def summed(marginal: Tensor) -> Tensor:
        return _to_float64(torch.where(mask[..., 0], marginal, 0)).sum(1)

    scores = {
        "loglik_joint": _to_float64(pred.joint_log_prob(yt, batch.mask_t)) / size,
        "loglik_marginal": summed(pred.marginal_log_prob(yt)) / size,
    }
    if batch.oracle_joint is not None:
        scores["oracle_gap_joint"] = _to_float64(batch.oracle_joint) / size - scores["loglik_joint"]
    if batch.oracle_marginal is not None:
        scores["oracle_gap_marginal"] = summed(batch.oracle_marginal) / size - scores["loglik_marginal"]
    return scores


def pooled_loglik(
    loglik_marginal: Float64[Tensor, " b"], num_target: Int[Tensor, " b"], dy: int
) -> Float64[Tensor, ""]:
    """One batch's marginal log-likelihood per target, summed over output channels: the TNP line's convention.

    Every target of the batch weighs the same, whichever task it is from (Nguyen & Grover 2022,
    https://arxiv.org/abs/2207.04179, released evaluation code).
    """
    weight = _to_float64(num_target)
    return dy * (loglik_marginal * weight).sum() / weight.sum()


def pit_coverage(pit: Float[Tensor, "b nt dy"], mask: Bool[Tensor, "b nt 1"]) -> Float64[Tensor, "b k"]:
    """Share of a task's values inside the central interval of each of `LEVELS`.

    A value lies in the central interval of level p when its probability integral transform u = F(y) satisfies
    |2u - 1| <= p; for a calibrated forecast the share is p at every level (Gneiting, Balabdaoui & Raftery 2007,
    https://doi.org/10.1111/j.1467-9868.2007.00587.x). Meant for continuous outputs.
    """
    distance = (2 * pit - 1).abs()
    inside = [torch.where(distance.isnan(), distance, (distance <= p).to(distance)) for p in LEVELS]
    return torch.stack([mean_over_targets(i, mask) for i in inside], dim=1)


def energy_score(pred: Predictive, batch: TaskBatch) -> Float64[Tensor, " b"]:
    """E|Y - y| - E|Y - Y'| / 2 over the vector of all targets, divided by sqrt(nt * dy); lower is better.

    The many-dimensional CRPS (Gneiting & Raftery 2007, section 4.3): proper for the joint law, in the units of y, and
    for a single value the CRPS itself. Each draw is paired with every other one but not with itself, which keeps the
    estimate unbiased however few the independent draws. All tasks share fixed noise, so models are compared on the
    same draws. Draws stay in the model's precision and only one task's at a time are in float64; memory and time are
    linear in `nt * dy`.
    """
    mask = _target_mask(batch)
    error = torch.where(mask, pred.sample(ENERGY_DRAWS, seed=ENERGY_SEED) - batch.yt, 0)

    def one(error: Tensor) -> Tensor:
        draws = _to_float64(error).flatten(1)  # [draws, nt * dy]
        return draws.norm(dim=1).mean() - torch.pdist(draws).mean() / 2

    return torch.stack([one(e) for e in error.unbind(1)]) / _num_values(batch).sqrt()


def mean_output(batch: TaskBatch) -> Float64[Tensor, " b"]:
    """Mean of each task's outputs, context and targets together: by it a task is known again."""
    masks = [real(batch.mask_c, batch.yc), real(batch.mask_t, batch.yt)]
    return mean_over_targets(torch.cat([batch.yc, batch.yt], dim=1), torch.cat(masks, dim=1)[..., None])


def mean_over_targets(values: Float[Tensor, "b nt dy"], mask: Bool[Tensor, "b nt 1"]) -> Float64[Tensor, " b"]:
    """Mean of each task's values over its real targets and all output channels."""
    count = _to_float64(mask.sum((1, 2))) * values.shape[2]
    return _to_float64(torch.where(mask, values, 0)).sum((1, 2)) / count


def _target_mask(batch: TaskBatch) -> Tensor:
    """Real targets, `[b, nt, 1]`."""
    mask = torch.ones_like(batch.yt[..., 0], dtype=torch.bool) if batch.mask_t is None else batch.mask_t
    return mask[..., None]


def _num_values(batch: TaskBatch) -> Tensor:
    """nt * dy of each task, `[b]` float64."""
    return _to_float64(batch.num_target) * batch.yt.shape[2]


def _to_float64(values: Tensor) -> Tensor:
    return values.to("cpu" if values.device.type in NO_FLOAT64 else values.device, torch.float64)
