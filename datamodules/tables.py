"""Raw tables in pieces whose rows are ordered by task: one piece for what is in memory, row groups for a stream."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from npexp.columns import Place, check_names, read_csv
from npexp.errors import ConfigError, DataError

SUFFIXES = (".csv", ".parquet")


class Piece(NamedTuple):
    """Some rows.

    Args:
        table: a DataFrame of the columns in use.
        place: where its rows stand, for messages.
        codes: the task of each row, `[n]`, ascending from 0 in the order of appearance.
        names: of these tasks.
    """

    table: Any
    place: Place
    codes: np.ndarray
    names: list[str]


class Loaded:
    """A table in memory, a single piece; its rows may come in any order.

    Args:
        table: a DataFrame.
        file: what messages call it.
        task: the column with the name of the task; None where there is one only.
        columns: those in use.
    """

    num_pieces = 1

    def __init__(self, table: Any, file: str, task: str | None, columns: Sequence[str]):
        table = table.rename(columns=str)
        check_names(table.columns, columns, file)
        if not len(table):
            raise DataError(f"expected rows, got an empty table in {file}: use another file")
        codes, names = task_codes(table, task, Place(file))
        order = codes.argsort(kind="stable")
        self._piece = Piece(table[list(columns)].iloc[order], Place(file, order + 1), codes[order], names)
        self.sizes = [len(table)]

    def piece(self, number: int) -> Piece:
        """The whole table."""
        return self._piece

    def rows(self, number: int, columns: Sequence[str]) -> tuple[Any, Place]:
        """Its rows, and where they stand."""
        return self._piece.table, self._piece.place


class Streamed:
    """A Parquet file of which a row group at a time is read; the rows of a task must follow one another.

    Args:
        path: of the file.
        task: the column with the name of the task; None where there is one only.
        columns: those in use.

    Attributes:
        sizes: rows of each piece.
        reads: row groups that were read.
    """

    def __init__(self, path: str, task: str | None, columns: Sequence[str]):
        self.path, self.task, self.columns = path, task, list(columns)
        self._file: Any = None
        file = self._open()
        check_names(file.schema_arrow.names, columns, path)
        self.num_pieces = file.num_row_groups
        self.sizes = [file.metadata.row_group(i).num_rows for i in range(self.num_pieces)]
        self._first = np.cumsum([0, *self.sizes])
        self.reads = 0
        if not sum(self.sizes):
            raise DataError(f"expected rows, got an empty table in {path}: use another file")

    def piece(self, number: int) -> Piece:
        """Row group `number`, read from the file."""
        table, place = self.rows(number, self.columns)
        codes, names = task_codes(table, self.task, place)
        if (back := np.diff(codes, prepend=0) < 0).any():
            self.refuse_order(names[codes[back][0]], place.row(back))
        return Piece(table, place, codes, names)

    def rows(self, number: int, columns: Sequence[str]) -> tuple[Any, Place]:
        """These columns of a row group, and where its rows stand."""
        try:
            table = self._open().read_row_group(number, list(columns)).to_pandas(ignore_metadata=True)
        except (OSError, ValueError) as error:
            raise unreadable(self.path, error) from error
        self.reads += 1
        return table, Place(self.path, self._first[number] + 1 + np.arange(len(table)))

    def refuse_order(self, task: str, row: str) -> None:
        """Raises the error for a task whose rows are scattered."""
        raise DataError(
            f"expected the rows of a task to follow one another, got '{task}' again in {row}: sort a file that is too "
            "large to be loaded (max_rows) by task"
        )

    def _open(self) -> Any:
        if self._file is None or self._opened_by != os.getpid():  # each process opens the file for itself
            import pyarrow.parquet as pq

            self._file, self._opened_by = pq.ParquetFile(self.path), os.getpid()
        return self._file

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}


def open_table(path: Any, task: str | None, columns: Sequence[str], max_rows: int) -> Loaded | Streamed:
    """The rows of a table, loaded where they are few enough.

    Args:
        path: a CSV or Parquet file, or a DataFrame.
        task: the column with the name of the task.
        columns: those in use.
        max_rows: a Parquet file with more rows than these is read in pieces, each of these rows at most.

    Raises:
        ConfigError: no file, or Parquet without its package.
        DataError: the file is of another format, damaged or empty, or misses a column.
    """
    import pandas as pd

    if isinstance(path, pd.DataFrame):
        return Loaded(path, "the DataFrame", task, columns)
    kind = Path(path).suffix.lower()
    if kind not in SUFFIXES:
        raise DataError(f"expected a file in the format {' or '.join(SUFFIXES)}, got {path}: convert it")
    if not Path(path).is_file():
        raise ConfigError(f"there is no file {path}: correct path")
    try:
        if kind == ".csv":
            return Loaded(read_csv(path), path, task, columns)
        import pyarrow.parquet as pq

        file = pq.ParquetFile(path)
        if file.metadata.num_rows <= max_rows:
            check_names(file.schema_arrow.names, columns, path)
            return Loaded(file.read(list(columns)).to_pandas(ignore_metadata=True), path, task, columns)
        streamed = Streamed(path, task, columns)
    except ImportError as error:
        raise ConfigError("Parquet files need pyarrow: pip install 'npexp[parquet]'") from error
    except DataError:
        raise
    except (OSError, ValueError) as error:  # what pandas and pyarrow raise for bad files derives from these
        raise unreadable(path, error) from error
    if max(streamed.sizes) > max_rows:
        raise DataError(
            f"expected row groups of {max_rows} rows at most in {path}, got {max(streamed.sizes)}: write it with "
            "row_group_size=100000, or raise max_rows"
        )
    return streamed


def task_codes(table: Any, task: str | None, place: Place) -> tuple[np.ndarray, list[str]]:
    """The task of each row `[n]`, from 0 in the order of appearance, and the names of the tasks."""
    import pandas as pd

    if task is None:
        return np.zeros(len(table), dtype=np.int64), ["the whole table"]
    values = table[task]
    if (absent := values.isna().to_numpy()).any():
        raise DataError(f"{place.row(absent)} names no task: fill in the column '{task}'")
    codes, names = pd.factorize(values.astype(str))
    return codes, list(names)


def unreadable(path: str, error: Exception) -> DataError:
    """What to raise for a file that is not what its name says."""
    reason = " ".join(str(error).split())
    return DataError(f"expected a readable {Path(path).suffix} file, got {path} ({reason}): use another one")
