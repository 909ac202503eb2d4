"""CSV files of numbers that a source reads whole: those that ship, and those of a user."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datamodules.grids import one_line
from npexp.columns import Place, check_names, numbers, read_csv
from npexp.errors import DataError


def csv_file(path: str, shipped: Sequence[str]) -> Path:
    """Where a file is: beside this one where the path is a name of what ships."""
    return Path(__file__).with_name(f"{path}.csv") if path in shipped else Path(path)


def read_columns(file: Path, names: Sequence[str]) -> np.ndarray:
    """Columns of numbers, `[n, len(names)]`, float64, in the order of the file; comments come after #.

    Raises:
        DataError: the file cannot be read, is empty, misses a column, or has a value that is no finite number.
    """
    try:
        table = read_csv(str(file), comment="#")
    except DataError:
        raise
    except (OSError, ValueError) as error:  # what pandas raises for bad tables derives from ValueError
        raise DataError(
            f"expected a CSV file, got {file} ({one_line(error)}): correct the path, or the file"
        ) from error
    check_names(table.columns, names, str(file))
    if not len(table):
        raise DataError(f"expected rows, got an empty table in {file}: use another file")
    return np.stack([numbers(table[name], Place(str(file))) for name in names], 1)
