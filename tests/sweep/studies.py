"""Studies as npexp sweep leaves them, of numbers that are known beforehand."""

import math
from datetime import datetime, timedelta
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

NUM_LATENTS, LR, MIXER = "model.net.init_args.num_latents", "model.optimizer.init_args.lr", "model.net.init_args.mixer"
SECONDS, MEMORY = "perf/train_seconds", "perf/peak_memory_mb"
SPACE = {
    NUM_LATENTS: IntDistribution(4, 128, log=True),
    LR: FloatDistribution(1e-4, 1e-2, log=True),
    MIXER: CategoricalDistribution(["dense", "linear"]),
}
SWEEP = {
    "name": "toy",
    "configs": ["experiment/gp_rbf_cnp", "trainer/quiet"],
    "overrides": {"trainer.max_steps": 30, "data.init_args.num_context": [3, 20]},
    "metrics": ["val/loglik_joint"],
    "directions": ["maximize"],
    "enqueue": [{NUM_LATENTS: 64}],
}
BOUND = 900.0  # of MEMORY
START = datetime(2026, 1, 1)


def accuracy(m: int, lr: float) -> float:
    """More latents are better, with a best learning rate of 1e-3."""
    return 0.1 * math.log2(m) - 0.2 * math.log10(lr / 1e-3) ** 2


def costs(m: int) -> dict[str, float]:
    """What a trial of so many latents takes."""
    return {SECONDS: 10.0 + m, MEMORY: 500.0 + 4 * m}


def study(several: bool = False, num_trials: int = 14, storage: Any = None, **changed: Any) -> optuna.Study:
    """Trial 0 is the published setting, every fifth is pruned, the last has failed, those of more than 100 latents take
    more memory than allowed.

    Args:
        several: with time and memory as metrics too.
        num_trials: how many.
        storage: as Optuna takes it.
        **changed: of the sweep.
    """
    sweep = {**SWEEP, **changed}
    if several:
        sweep |= {"metrics": ["val/loglik_joint", SECONDS, MEMORY], "directions": ["maximize", "minimize", "minimize"]}
    made = optuna.create_study(study_name=sweep["name"], storage=storage, directions=sweep["directions"])
    made.set_user_attr("sweep", sweep)
    for i in range(num_trials):
        made.add_trial(trial(i, num_trials, sweep))
    return made


def trial(i: int, num_trials: int, sweep: dict[str, Any]) -> optuna.trial.FrozenTrial:
    """The trial of that number."""
    m, lr = 64 if i == 0 else 4 + 29 * i % 125, 1e-4 * 10 ** (2 * ((7 * i) % 11) / 10)
    params = {NUM_LATENTS: m, LR: lr, MIXER: "dense" if i % 2 else "linear"}
    failed, pruned = i == num_trials - 1, i > 0 and i % 5 == 0
    spent = {metric: 0.5 * cost if pruned else cost for metric, cost in costs(m).items()}
    numbers = {"val/loglik_joint": accuracy(m, lr) - (0.3 if pruned else 0.0), **spent}
    several = len(sweep["metrics"]) > 1
    attrs = {"folder": f"toy/trial_{i:04}", "worker": "here:7"}
    if failed:
        attrs |= {"why": "exit status 1: ValueError", "seconds": 2.0}
    else:
        attrs |= {"metrics": numbers, "seconds": spent[SECONDS] + 5, "peak_memory_mb": spent[MEMORY]}
    state = TrialState.FAIL if failed else TrialState.PRUNED if pruned else TrialState.COMPLETE
    valued = not failed and not (several and pruned)
    made = create_trial(
        state=state,
        values=[numbers[metric] for metric in sweep["metrics"]] if valued else None,
        params=params,
        distributions=SPACE,
        user_attrs=attrs,
        constraints={} if failed else {MEMORY: spent[MEMORY] - BOUND},
        intermediate_values={} if several or failed else {10: numbers["val/loglik_joint"] - 0.1},
    )
    made.datetime_start = START + timedelta(minutes=i)
    made.datetime_complete = made.datetime_start + timedelta(seconds=30)
    return made
