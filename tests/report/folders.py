"""Run folders made by hand, a handful of numbers each."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from npexp.callbacks.examples import pack
from npexp.callbacks.figures import Panel
from npexp.run_files import write_arrays

LEVELS = np.arange(1, 20) / 20
SIZES = (4, 2, 3, 4, 1)  # tasks of each test batch


def tasks(seed: int, shift: float = 0.0, data_seed: int = 0) -> dict[str, np.ndarray]:
    """The tasks of a test set: what they are depends on `data_seed`, their scores on `seed` and `shift`."""
    data, noise = np.random.default_rng(data_seed), np.random.default_rng([seed, 1])
    batch = np.repeat(np.arange(len(SIZES)), SIZES)
    n = len(batch)
    nc, nt = data.integers(1, 30, len(SIZES))[batch], data.integers(1, 9, len(SIZES))[batch]
    oracle, level = data.normal(2, 0.5, n), data.normal(1, 0.5, n)
    found = {
        "batch": batch.astype(float),
        "task": np.concatenate([np.arange(size) for size in SIZES]).astype(float),
        "num_context": nc.astype(float),
        "num_target": nt.astype(float),
        "y_mean": data.normal(size=n),
        "loglik_marginal": level + shift + noise.normal(0, 0.1, n),
    }
    found["loglik_joint"] = found["loglik_marginal"].copy()
    for law in ("joint", "marginal"):
        found[f"oracle_gap_{law}"] = oracle - found[f"loglik_{law}"]
    for name in ("mse", "mae", "crps", "energy_score"):
        found[name] = noise.uniform(0.1, 1.0, n)
    found["coverage"] = np.sort(noise.uniform(size=(n, len(LEVELS))), axis=1)
    found["coverage_95"] = found["coverage"][:, -1]
    return found


def metrics(table: dict[str, np.ndarray], dy: int) -> dict[str, float]:
    """Means as the metric has them, with errors that tests can tell."""
    n = table["num_target"]
    batches = [table["batch"] == i for i in range(len(SIZES))]
    found = {k: v.mean() for k, v in table.items() if k.startswith(("loglik", "oracle", "mae", "crps", "energy"))}
    found["rmse"] = np.sqrt(table["mse"].mean())
    found["coverage_95"] = table["coverage_95"].mean()
    found["calibration_error"] = np.abs(table["coverage"].mean(0) - LEVELS).mean()
    found["loglik_pooled"] = dy * np.mean([(table["loglik_marginal"] * n)[b].sum() / n[b].sum() for b in batches])
    return {k: float(v) for k, v in found.items()} | {f"{k}_sem": 0.01 for k in found}


def examples() -> list[Panel]:
    """Two curves."""
    rng = np.random.default_rng(0)
    x, known = np.linspace(-2, 2, 30)[:, None], rng.uniform(size=(2, 5, 1))
    panel = Panel(*known, x, np.sin(x), np.cos(x), np.full_like(x, 0.3), truth=np.sin(x), exact_mean=np.sin(x))
    return [panel, panel._replace(exact_mean=None)]


def make(folder: Path, model: str = "cnp", seed: int = 0, shift: float = 0.0, **settings: Any) -> Path:
    """Writes a run folder.

    Args:
        folder: of the run.
        model: its name.
        seed: of its training.
        shift: how much better its log-likelihoods are.
        **settings: "data", "likelihood", "dy", "data_seed", "rate" in tasks per second, "facts" and "config" to add,
            the latter with dotted keys, and entries of its model.
    """
    data, dy = settings.pop("data", "gp_rbf"), settings.pop("dy", 1)
    likelihood, data_seed = settings.pop("likelihood", "factorised"), settings.pop("data_seed", 0)
    rate, more, changed = settings.pop("rate", 100.0), settings.pop("facts", {}), settings.pop("config", {})
    folder.mkdir(parents=True)
    table = tasks(seed, shift, data_seed)
    facts = {"model": model, "data": data, "seed": seed, "likelihood": likelihood, "dy": dy, "steps": 100}
    found = {f"test/{k}": v for k, v in metrics(table, dy).items()}
    (folder / "test_metrics.json").write_text(json.dumps(found | facts | {"parameters": 1234, "revision": None} | more))
    write_arrays(folder / "test_tasks.npz", {"levels": LEVELS} | {f"test/{k}": v for k, v in table.items()})
    write_arrays(folder / "test_examples.npz", pack(examples()))
    config = {"name": folder.parent.name, "seed_everything": seed, "model": {"net": {"init_args": settings}}}
    config |= {"data": {"init_args": {"batch_size": 16}}, "trainer": {"devices": 1}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config | changed))
    (folder / "metrics.csv").write_text(
        f"step,perf/peak_memory_mb,perf/tasks_per_second\n49,300.0,{rate}\n99,310.5,{rate}\n"
    )
    return folder
