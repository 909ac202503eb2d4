"""The files of results in a run folder, for whoever writes and whoever reads them; no PyTorch needed."""

import csv
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from npexp.errors import DataError
from npexp.files import whole_file

METRICS = "metrics.csv"  # scalars by training step
RESULTS = "test_metrics.json"  # means over the test sets, and facts of the run
TASKS = "test_tasks.npz"  # the scores of each test task, arrays "<test set>/<column>"
EXAMPLES = "test_examples.npz"  # predictions for a few tasks, see `npexp.callbacks.examples`
FIGURES = "figures"  # a folder: what the board shows, as of the last validation


def read_rows(path: str | Path) -> dict[int, dict[str, Any]]:
    """The rows of a metrics file by step, without empty cells.

    Raises:
        DataError: the file is damaged.
    """
    with Path(path).open(newline="") as file:
        reader = csv.DictReader(file)
        try:
            return {
                int(row.pop("step")): {k: int(v) if k == "epoch" else float(v) for k, v in row.items() if v}
                for row in reader
            }
        except (KeyError, TypeError, ValueError, csv.Error) as error:
            raise DataError(
                f"{path} is damaged near line {reader.line_num} ({error}): move it away, and the history of the run "
                "starts anew"
            ) from error


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON file whole or not at all; NaN and infinities become null, which JSON has a word for.

    Args:
        path: the file.
        content: a flat mapping.
    """
    plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in content.items()}
    with whole_file(path) as file:
        file.write(json.dumps(plain, indent=2, allow_nan=False) + "\n")


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Writes arrays as a compressed NPZ file, whole or not at all."""
    with whole_file(path, "wb") as file:
        np.savez_compressed(file, **arrays)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an NPZ file by name."""
    with path.open("rb") as file, np.load(file) as content:  # closed even where it is no such file
        return dict(content)
