"""Predictions for data in files: tables of points (CSV, Parquet) and arrays (NPZ)."""

import os
import re
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from pandas.api.types import is_numeric_dtype

from npexp.columns import Column, Columns, Place, check_names, read_csv
from npexp.errors import ConfigError, DataError, suggest
from npexp.predict import Predictor

KINDS = (".csv", ".parquet", ".npz")
KIND_NAMES = ".csv, .parquet or .npz"
TASKS_AT_ONCE = 64  # so that many tasks need no more memory than this many
FAR = 10  # standard deviations of a table's training inputs; what lies further out is not like anything seen


def read_table(path: str) -> pd.DataFrame:
    """The rows of a CSV or Parquet file.

    Raises:
        ConfigError: another kind of file, no such file, or Parquet without its package.
        DataError: the file cannot be read.
    """
    reader = {".csv": read_csv, ".parquet": pd.read_parquet}.get(Path(path).suffix)
    if reader is None:
        raise ConfigError(f"expected a {KIND_NAMES} file, got {path}")
    return _access(path, lambda: reader(path))


def write_table(path: str, table: pd.DataFrame) -> None:
    """Writes a CSV or Parquet file, whole or not at all.

    Raises:
        ConfigError: the file cannot be written, or Parquet without its package.
    """
    writer = table.to_parquet if Path(path).suffix == ".parquet" else table.to_csv
    _replace(path, lambda temporary: writer(temporary, index=False))


def check_output(path: str) -> None:
    """Raises `ConfigError` unless a result can be written there."""
    if Path(path).suffix not in KINDS:
        raise ConfigError(f"expected --out to be a {KIND_NAMES} file, got {path}")
    if Path(path).is_dir():
        raise ConfigError(f"expected --out to be a file, {path} is a folder")
    _replace(path, lambda temporary: Path(temporary).touch(), keep=False)


def read_arrays(path: str) -> dict[str, np.ndarray]:
    """The arrays of an NPZ file."""

    def load() -> dict[str, np.ndarray]:
        with np.load(path) as file:
            return dict(file)

    return _access(path, load)


def write_arrays(path: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes an NPZ file, whole or not at all."""
    _replace(path, lambda temporary: np.savez(temporary, **arrays))


def predict_arrays(
    predictor: Predictor, arrays: Mapping[str, np.ndarray], levels: Sequence[float]
) -> dict[str, np.ndarray]:
    """Predictions for arrays.

    Args:
        predictor: the model.
        arrays: xc, yc and xt, `[n, d]` or `[b, n, d]`.
        levels: quantile levels.

    Returns:
        xt, mean and stddev `[b, nt, dy]`, quantiles `[q, b, nt, dy]` and their levels; without `b` as the input.

    Raises:
        ConfigError: the model was trained on a table whose rows are not points as they stand.
        DataError: arrays are missing, or their shapes do not fit.
    """
    if predictor.columns is not None and not predictor.columns.are_numbers:
        names = ", ".join(c.name for c in predictor.columns.x)
        raise ConfigError(f"this model was trained on a table with the inputs {names}: give a .csv or .parquet file")
    missing = [name for name in ("xc", "yc", "xt") if name not in arrays]
    if missing:
        found = ", ".join(arrays) or "none"
        raise DataError(f"expected arrays xc, yc and xt, found {found}: {', '.join(missing)} missing")
    xc, yc, xt = (arrays[name] for name in ("xc", "yc", "xt"))
    if not xc.ndim == yc.ndim == xt.ndim or xc.ndim not in (2, 3):
        shapes = ", ".join(f"{name} {list(arrays[name].shape)}" for name in ("xc", "yc", "xt"))
        raise DataError(f"expected all of xc, yc and xt to be [n, d], or all [b, n, d], got {shapes}")
    single = xc.ndim == 2
    if single:
        xc, yc, xt = xc[None], yc[None], xt[None]
    if not len(xc) == len(yc) == len(xt):
        raise DataError(f"expected as many tasks in xc, yc and xt, got {len(xc)}, {len(yc)} and {len(xt)}")
    if len(xc) == 0:
        raise DataError("expected at least one task in xc, yc and xt, got none")
    parts = []
    for i in _progress(range(0, len(xc), TASKS_AT_ONCE)):
        now = slice(i, i + TASKS_AT_ONCE)
        parts.append(_predict(predictor, xc[now], yc[now], xt[now], levels))
    mean, stddev, quantiles = (
        np.concatenate(p, axis) for p, axis in zip(zip(*parts, strict=True), (0, 0, 1), strict=True)
    )
    if single:
        mean, stddev, quantiles = mean[0], stddev[0], quantiles[:, 0]
    return {"xt": arrays["xt"], "mean": mean, "stddev": stddev, "quantiles": quantiles, "levels": np.array(levels)}


def predict_table(
    predictor: Predictor,
    context: pd.DataFrame,
    targets: pd.DataFrame | None,
    x: Sequence[str] | None,
    y: Sequence[str] | None,
    levels: Sequence[float],
) -> pd.DataFrame:
    """Predictions for tables, one row per target in the order they came.

    Args:
        predictor: the model. One that was trained on a table knows its columns, task, dates and categories.
        context: observed points, and without `targets` also the rows to predict, which miss their outputs.
        targets: the rows to predict.
        x: input columns; None finds those of the training table, else x, or x0, x1, ...
        y: output columns; None finds those of the training table, else y, or y0, y1, ...
        levels: quantile levels.

    Returns:
        The target rows' task and inputs, and per output y columns such as `y_mean`, `y_stddev` and `y_q0.025`.
        A task that has no context gets the model's prediction without any.

    Raises:
        DataError: columns are missing, a row names no task, a value is bad, or there is nothing to predict.
    """
    if predictor.columns is None:
        x, y = _columns(context, x, "x", predictor.model.dx), _columns(context, y, "y", predictor.model.dy)
        columns = Columns("task", tuple(Column(name, "number") for name in x), tuple(y))
    else:
        columns = predictor.columns.renamed(x, y)
    _check_tasks(context, targets, columns.task)
    places = {"context": Place("--context"), "targets": Place("--targets")}
    if targets is None:
        check_names(context.columns, columns.y, "--context")
        absent = context[list(columns.y)].isna().all(axis=1).to_numpy()
        numbers = np.arange(1, len(context) + 1)
        places = {"context": Place("--context", numbers[~absent]), "targets": Place("--context", numbers[absent])}
        context, targets = context[~absent], context[absent]
    wanted = columns.inputs(targets, places["targets"])
    if targets.empty:
        raise DataError("found nothing to predict: give --targets, or rows whose outputs are empty")
    seen, outputs = columns.inputs(context, places["context"]), columns.outputs(context, places["context"])
    columns.observed(outputs, places["context"])
    several = columns.task in targets.columns
    rows_of = [
        t.groupby(columns.task, sort=False).indices if several else {None: np.arange(len(t))}
        for t in (context, targets)
    ]
    mean, stddev = np.empty((2, len(targets), len(columns.y)))
    quantiles = np.empty((len(levels), *mean.shape))
    far = np.zeros(len(targets), dtype=bool)
    for name, rows in _progress(list(rows_of[1].items())):
        known = rows_of[0].get(name, np.arange(0))
        xc, yc, _ = columns.points(seen[known], outputs[known])
        xt = columns.targets(wanted[rows])
        if columns.relative:
            if not len(xc):
                raise DataError(
                    f"task '{name}' has no context: this model measures '{columns.x[0].name}' from the latest of it"
                )
            xc, xt = (np.concatenate([part[:, :1] - xc[:, 0].max(), part[:, 1:]], 1) for part in (xc, xt))
        if predictor.columns is not None and predictor.scaling is not None:
            out = np.abs(xt - predictor.scaling.x_shift) > FAR * np.array(predictor.scaling.x_scale)
            far[rows] = out.reshape(len(rows), -1).any(1)
        found = _predict(predictor, xc, yc, xt, levels)
        mean[rows], stddev[rows] = columns.values(found[0])[0], columns.values(found[1], spread=True)[0]
        quantiles[:, rows] = columns.values(found[2])[:, 0]
    if far.any():
        print(
            f"npexp: warning: {far.sum()} of {len(far)} rows to predict lie more than {FAR} standard deviations "
            f"from the training inputs, first {places['targets'].row(far)}: do not trust what is predicted there",
            file=sys.stderr,
        )
    table = targets[[*([columns.task] if several else []), *(c.name for c in columns.x)]].copy()
    for i, output in enumerate(columns.y):
        table[f"{output}_mean"], table[f"{output}_stddev"] = mean[:, i], stddev[:, i]
        for level, values in zip(levels, quantiles, strict=True):
            table[f"{output}_q{level:g}"] = values[:, i]
    return table


def _check_tasks(context: pd.DataFrame, targets: pd.DataFrame | None, task: str | None) -> None:
    """Raises `DataError` unless each row names its task, or none does."""
    tables = {"--context": context} if targets is None else {"--context": context, "--targets": targets}
    having = [table[task] for table in tables.values() if task in table.columns]
    if having and len(having) < len(tables):
        raise DataError(f"expected a column '{task}' in both tables or in neither")
    for option, tasks in zip(tables, having, strict=False):
        absent = np.flatnonzero(tasks.isna())
        if len(absent):
            raise DataError(
                f"row {absent[0] + 1} of {option} has no task: fill in the column '{task}', or leave it out"
            )
    # Numbers and words never match, so each task would look as if it had no context.
    if len({is_numeric_dtype(tasks) for tasks in having if len(tasks)}) > 1:
        raise DataError(f"the column '{task}' holds numbers in one table and words in the other: use the same in both")


def _predict(
    predictor: Predictor, xc: np.ndarray, yc: np.ndarray, xt: np.ndarray, levels: Sequence[float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and standard deviation `[b, nt, dy]` and quantiles `[q, b, nt, dy]`."""
    predictive = predictor.predict(predictor.condition(xc, yc), xt)
    mean, stddev = predictive.mean, predictive.stddev
    quantiles = predictive.quantile(torch.tensor(levels).to(mean)) if levels else mean.new_zeros(0, *mean.shape)
    return tuple(values.cpu().numpy() for values in (mean, stddev, quantiles))


def _columns(table: pd.DataFrame, names: Sequence[str] | None, letter: str, size: int) -> list[str]:
    """The columns that hold inputs or outputs, checked against the model's size."""
    if names is None:
        numbered = [name for name in map(str, table.columns) if re.fullmatch(rf"{letter}\d+", name)]
        # Both kinds together are more than one of them: the check of their number then says so.
        names = [letter] * (letter in table.columns) + sorted(numbered, key=lambda name: int(name[1:]))
    missing = [name for name in names if name not in table.columns]
    if missing:
        raise DataError(f"there is no column '{missing[0]}'; {suggest(missing[0], map(str, table.columns))}")
    if len(names) != size:
        found = ", ".join(names) or "none"
        kind = "inputs" if letter == "x" else "outputs"
        raise DataError(f"the model has {size} {kind}, found columns {found}: name them with --{letter}")
    return list(names)


def _access(path: str, read: Callable[[], Any]) -> Any:
    if not Path(path).is_file():
        raise ConfigError(f"there is no file {path}")
    try:
        return read()
    except ImportError as error:
        raise ConfigError(f"{Path(path).suffix} files need pyarrow: pip install 'npexp[parquet]'") from error
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"cannot read {path}: {reason}") from error


def _replace(path: str, write: Callable[[str], Any], keep: bool = True) -> None:
    """Writes a temporary file and puts it in place; without `keep` only tries to."""
    target = Path(path)
    temporary = target.with_name(f".{target.stem}.{os.getpid()}{target.suffix}")  # the suffix decides the format
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write(str(temporary))
        if keep:
            temporary.replace(target)
    except ImportError as error:
        raise ConfigError(f"{target.suffix} files need pyarrow: pip install 'npexp[parquet]'") from error
    except OSError as error:
        raise ConfigError(f"cannot write --out {path} ({error.strerror or error}): give another file") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def _progress(items: Sequence[Any]) -> Iterator[Any]:
    """The items, with a bar when they are many."""
    if len(items) < 4:
        return iter(items)
    from rich.progress import track

    return iter(track(items, description="predict"))
