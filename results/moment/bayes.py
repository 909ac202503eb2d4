"""What no model can exceed on average on 1-D RBF: hyperparameters integrated out by importance sampling.

    OMP_NUM_THREADS=1 python results/moment/bayes.py

Writes bayes.csv beside this file: log-likelihoods per target, and gaps to the exact GP that knows the hyperparameters
on the same tasks. A row without draws is that GP itself, whose scores ride along with each batch. Five minutes; rows
that are there are kept.
"""

import torch
from train import HERE, Table

import npexp
from datamodules import GPData

KEY = ("split", "tasks", "draws")
SCORES = ("loglik_marginal", "oracle_gap_marginal", "loglik_joint", "oracle_gap_joint")
ROWS = [("train", 48_000, 16, 0), ("test", 3_008, 16, 512), ("train", 1_600, 4, 256), ("test_matern52", 384, 4, 512)]
SCRAMBLES = 2


def known(data: GPData, split: str, num_batches: int) -> dict[str, float]:
    """The exact GP: means over batches of each batch's mean per target, and standard errors."""
    found = []
    for batch in (data.make_batch(split, i) for i in range(num_batches)):
        sums = torch.stack([v.double().sum() for v in (batch.oracle_marginal, batch.oracle_joint)])
        found.append(sums / batch.num_target.sum())
    table = torch.stack(found)
    estimates = zip(SCORES[::2], table.mean(0), table.std(0) / num_batches**0.5, strict=True)
    return {f"{key}{end}": float(v) for key, *both in estimates for end, v in zip(("", "_sem"), both, strict=True)}


def inferred(data: GPData, split: str, num_batches: int, draws: int) -> dict[str, float]:
    """Who knows the prior of the hyperparameters only."""
    best = data.bayes_oracle(split, num_batches, num_draws=draws, num_scrambles=SCRAMBLES)
    estimates = zip(SCORES, (best.marginal, best.marginal_gap, best.joint, best.joint_gap), strict=True)
    return {f"{key}{end}": v for key, both in estimates for end, v in zip(("", "_sem"), both, strict=True)}


def main() -> None:
    """Fills the table."""
    torch.set_num_threads(1)
    columns = [*KEY, *(f"{key}{end}" for key in SCORES for end in ("", "_sem"))]
    table = Table(HERE / "bayes.csv", columns, KEY)
    for split, tasks, batch_size, draws in ROWS:
        facts = {"split": split, "tasks": tasks, "draws": draws}
        if not table.has(**facts):
            data, num = npexp.build_data("gp_rbf", batch_size=batch_size), tasks // batch_size
            table.add(facts | (inferred(data, split, num, draws) if draws else known(data, split, num)))


if __name__ == "__main__":
    main()
