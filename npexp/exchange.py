"""What a trial of a sweep and its worker tell each other: files in the run folder, and how the one ends with the other.

Files work whatever the number of processes that a trial has, and outlive all of them. The trial writes `REPORTS`, one
line of JSON per validation, `RESULT` when it is done and `FAILURE` when it cannot go on; the worker makes `STOP`.
"""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from npexp.files import whole_file
from npexp.processes import end_with_parent

TRIAL = "NPEXP_TRIAL"  # environment variable that makes a training run a trial: the process number of its worker
REPORTS, STOP, RESULT, FAILURE = "reports.jsonl", "STOP", "result.json", "failure.json"


def reports(folder: Path) -> list[dict[str, Any]]:
    """All reports of a run, oldest first: `step`, `seconds` of training, `peak` memory in MiB and `metrics`.

    A line that is not complete yet, or never will be, is left out.
    """
    try:
        whole, _, _ = (folder / REPORTS).read_text().rpartition("\n")
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in whole.splitlines()]


def read(path: Path) -> dict[str, Any] | None:
    """A JSON file of the exchange; None when there is none."""
    return json.loads(path.read_text()) if path.is_file() else None


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON file whole or not at all."""
    with whole_file(path) as file:
        json.dump(content, file)


def end_with_worker() -> None:
    """Has this process end when the one that started it does: its worker's number is in `TRIAL`.

    One whose worker ended before this call ends now.
    """
    end_with_parent()
    if sys.platform == "linux" and os.getppid() != int(os.environ[TRIAL]):
        os._exit(1)
