"""Sweeps over `fake_fit`, and workers of them in this process."""

import json
import sys
from pathlib import Path
from typing import Any

from npexp.sweep.study import enqueue, open_study, parse
from npexp.sweep.worker import Task, Worker

FAKE = (sys.executable, str(Path(__file__).with_name("fake_fit.py")))


def content(**changes: Any) -> dict[str, Any]:
    """A sweep over `x` as its YAML file would hold it."""
    return {
        "name": "fake",
        "configs": ["base"],
        "metrics": ["val/score"],
        "directions": ["maximize"],
        "space": {"x": {"class_path": "FloatDistribution", "init_args": {"low": -5.0, "high": 5.0}}},
        "overrides": {},
        "trials": 3,
        **changes,
    }


def queue(*values: float) -> list[dict[str, float]]:
    """Settings of `x`, tried in this order."""
    return [{"x": value} for value in values]


def worker(folder: Path, url: str | None = None, **changes: Any) -> Worker:
    """A worker in this process on the study of such a sweep, which is made or gone on with."""
    data = content(**changes)
    url = url or f"journal:{folder / 'study.journal'}"  # the fastest
    study, new = open_study("fake", url, data)
    enqueue(study, parse(data, "sweep"))
    return Worker(Task("fake", url, str(folder / "runs"), data["trials"], new, (), FAKE, poll=0.02))


def attempts(folder: Path, number: int) -> list[tuple[int, dict[str, str]]]:
    """Process number and arguments of each attempt at a trial."""
    path = folder / f"runs/fake/trial_{number:04d}/attempts.jsonl"
    return [tuple(json.loads(line)) for line in path.read_text().splitlines()]
