"""The units in which a table trains, from its training rows alone."""

import numpy as np

from datamodules.census import Census
from npexp.columns import Columns
from npexp.errors import ConfigError, DataError

SMALLEST = 1e-13  # a standard deviation, as a share of the mean: less is rounding


def fit_units(columns: Columns, census: Census, tasks: np.ndarray, file: str) -> tuple[Columns, dict[str, list[float]]]:
    """The columns with the categories and units of the training rows, and the scaling of `NPDataModule`.

    The first input of relative columns stays as it is: its units are those of differences, which are not known here.

    Args:
        columns: without categories and units.
        census: of the table.
        tasks: those that train, with their points in the first part of time.
        file: what messages call the table.

    Raises:
        ConfigError: no row trains.
        DataError: a category occurs in no training row, or a column is constant in all of them.
    """
    keys = 3 * tasks
    if not np.isin(keys, census.stats[0]).any():
        raise ConfigError(f"the split leaves no training rows of {file}: change split_at or the fractions")
    for name, levels in census.levels.items():
        for level, found in levels.items():
            if not np.isin(found, keys).any():
                raise DataError(
                    f"category '{level}' of column '{name}' in {file} occurs in no training row: leave the column or "
                    "these rows out, or split otherwise"
                )
    names = [*(c.name for c in columns.x if c.kind != "category"), *columns.y]
    units = dict(zip(names, zip(*pooled(census, keys), strict=True), strict=True))
    if columns.relative:
        units[columns.x[0].name] = (0.0, 1.0)
    for name, (mean, stddev) in units.items():
        if not stddev > SMALLEST * abs(mean):
            raise DataError(f"column '{name}' of {file} has one value only in the training rows: leave it out")
    x = [c._replace(levels=tuple(sorted(census.levels.get(c.name, ())))) for c in columns.x]
    inputs = [units[c.name] if c.kind != "category" else (0.0, 1.0) for c in x for _ in range(c.width)]
    outputs = [units[name] for name in columns.y]
    fitted = columns._replace(x=tuple(x))
    if columns.separate is not None:
        fitted, outputs = fitted._replace(separate=tuple(zip(*outputs, strict=True))), [(0.0, 1.0)]
    inputs += (fitted.dx - len(inputs)) * [(0.0, 1.0)]
    lists = (list(values) for pairs in (inputs, outputs) for values in zip(*pairs, strict=True))
    return fitted, dict(zip(("x_shift", "x_scale", "y_shift", "y_scale"), lists, strict=True))


def pooled(census: Census, keys: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each number column over the given tasks and parts."""
    chosen = np.isin(census.stats[0], keys)
    n, mean, squares = (values[chosen] for values in census.stats[1:])
    total = n.sum(0).clip(1)
    overall = (n * mean).sum(0) / total
    return overall.tolist(), np.sqrt((squares + n * (mean - overall) ** 2).sum(0) / total).tolist()
