"""How the columns of a raw table become numbers and back: plain data, which travel in checkpoints."""

import re
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from npexp.errors import ConfigError, DataError, suggest

if TYPE_CHECKING:
    import pandas as pd

KINDS = ("number", "date", "category")
ORIGIN = "1970-01-01T00:00:00+00:00"  # of dates, which are days since then
MOST_LEVELS = 100  # a text column with more is an identifier, or holds numbers that were spoilt
LIKE_DATE = r"\s*\d+[-./ ]+(\d+|[A-Za-z]{3,9})[-./, ]+\d{2,4}\b"  # 31.12.2024, 31-Dec-24
LIKE_NUMBER = r"\s*[-+]?\d[\d. ]*,\d+\s*$"  # 3,14


class Place(NamedTuple):
    """Where rows stand, for messages.

    Args:
        file: what the reader calls the table.
        rows: the numbers of its rows there, from 1, `[n]`; None where they are in order.
    """

    file: str
    rows: np.ndarray | None = None

    def row(self, bad: np.ndarray) -> str:
        """The first of the rows for which `bad` `[n]` holds, in words."""
        first = int(np.flatnonzero(bad)[0])
        return f"row {first + 1 if self.rows is None else self.rows[first]} of {self.file}"


class Column(NamedTuple):
    """An input column.

    Args:
        name: its heading.
        kind: "number"; "date", which becomes days since 1970 (UTC); or "category", which becomes a 0 or 1 per level.
        levels: of a category.
    """

    name: str
    kind: str
    levels: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """Numbers per row."""
        return len(self.levels) if self.kind == "category" else 1

    def read(self, table: "pd.DataFrame", place: Place, date_format: str | None = None) -> np.ndarray:
        """The column as numbers, `[n, width]`, float64.

        Raises:
            DataError: a value that is missing, of another kind, infinite, or no known level.
        """
        import pandas as pd

        values = table[self.name]
        if self.kind == "number":
            return numbers(values, place)[:, None]
        if self.kind == "date":
            return days(values, place, date_format)[:, None]
        found = words(values, place)
        codes = pd.Index(self.levels, dtype=object).get_indexer(found)
        if (unknown := codes < 0).any():
            raise DataError(
                f"unknown category '{found[unknown][0]}' in column '{self.name}', {place.row(unknown)}; "
                f"{suggest(found[unknown][0], self.levels)}"
            )
        return np.eye(len(self.levels))[codes]


class Columns(NamedTuple):
    """What the columns of a table mean to a model.

    Args:
        task: the column that names a row's task; None where the table is a single task.
        x: the input columns.
        y: the output columns, numbers.
        date_format: how dates are written, as `strptime` has it; None for 2024-12-31 and the like (ISO 8601).
        relative: whether the first input is measured from the latest one of the context.
        separate: None where each row is a point with all outputs. Else each observed output is a point of its own,
            whose inputs end in a 0 or 1 per output where there are several, and whose value has been scaled: shift
            and scale of each output.
    """

    task: str | None
    x: tuple[Column, ...]
    y: tuple[str, ...]
    date_format: str | None = None
    relative: bool = False
    separate: tuple[tuple[float, ...], tuple[float, ...]] | None = None

    @classmethod
    def make(cls, settings: Any) -> "Columns":
        """From plain data, as `plain` gives them and checkpoints hold them.

        Raises:
            ConfigError: anything else.
        """
        try:
            x = tuple(Column(c["name"], c["kind"], tuple(c["levels"])) for c in settings["x"])
            pair = settings["separate"] and tuple(tuple(map(float, values)) for values in settings["separate"])
            good = all(c.kind in KINDS for c in x) and set(settings) == set(cls._fields)
            names = [*(c.name for c in x), *settings["y"]]
            good = good and all(isinstance(name, str) for name in names)
            good = good and (pair is None or [len(v) for v in pair] == 2 * [len(settings["y"])])
        except (TypeError, KeyError, ValueError):
            good = False
        if not good:
            raise ConfigError(f"expected the description of a table's columns, got {settings!r}: train the run again")
        return cls(**{**settings, "x": x, "y": tuple(settings["y"]), "separate": pair})

    def plain(self) -> dict[str, Any]:
        """Lists, words and numbers only."""
        x = [{**column._asdict(), "levels": list(column.levels)} for column in self.x]
        pair = self.separate and [list(values) for values in self.separate]
        return {**self._asdict(), "x": x, "y": list(self.y), "separate": pair}

    def renamed(self, x: Sequence[str] | None, y: Sequence[str] | None) -> "Columns":
        """The same under other headings; None keeps them."""
        for kind, old, new in (("inputs", self.x, x), ("outputs", self.y, y)):
            if new is not None and len(new) != len(old):
                raise DataError(f"the model has {len(old)} columns of {kind}, got {len(new)}: {', '.join(new)}")
        columns = self.x if x is None else tuple(c._replace(name=n) for c, n in zip(self.x, x, strict=True))
        return self._replace(x=columns, y=self.y if y is None else tuple(y))

    @property
    def are_numbers(self) -> bool:
        """Whether a row is a point as it stands."""
        return not self.relative and self.separate is None and all(c.kind == "number" for c in self.x)

    @property
    def dx(self) -> int:
        """Input size of the model."""
        return sum(c.width for c in self.x) + self._codes

    @property
    def dy(self) -> int:
        """Output size of the model."""
        return len(self.y) if self.separate is None else 1

    @property
    def _codes(self) -> int:
        """Inputs that say which output a point is of."""
        return len(self.y) if self.separate is not None and len(self.y) > 1 else 0

    def inputs(self, table: "pd.DataFrame", place: Place) -> np.ndarray:
        """The input columns as numbers, `[n, d]`."""
        check_names(table.columns, [c.name for c in self.x], place.file)
        return np.concatenate([c.read(table, place, self.date_format) for c in self.x], 1)

    def outputs(self, table: "pd.DataFrame", place: Place) -> np.ndarray:
        """The output columns, NaN where a value is missing, `[n, k]`."""
        check_names(table.columns, self.y, place.file)
        return np.stack([numbers(table[name], place, gaps=True) for name in self.y], 1)

    def observed(self, y: np.ndarray, place: Place) -> np.ndarray:
        """Points that each row with the outputs `[n, k]` stands for, `[n]`.

        Raises:
            DataError: a row that is one point misses an output.
        """
        gaps = np.isnan(y)
        if self.separate is not None:
            return (~gaps).sum(1)
        if gaps.any():
            bad = gaps.any(1)
            name = self.y[int(gaps[bad][0].argmax())]
            raise DataError(
                f"{place.row(bad)} has no value in column '{name}': fill it in, leave the row out, or make each "
                "observed output a point of its own with outputs: separate"
            )
        return np.ones(len(y), dtype=np.int64)

    def points(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows with inputs `[n, d]` and outputs `[n, k]` as points `[p, dx]` and `[p, dy]`, and the row of each."""
        if self.separate is None:
            return x, y, np.arange(len(x))
        rows, which = np.nonzero(~np.isnan(y))
        shift, scale = np.array(self.separate)[:, which]
        return self._coded(x[rows], which), ((y[rows, which] - shift) / scale)[:, None], rows

    def targets(self, x: np.ndarray) -> np.ndarray:
        """Inputs at which all outputs of rows with inputs `[n, d]` are predicted, `[n, dx]` or `[n k, dx]`."""
        if self.separate is None:
            return x
        return self._coded(np.repeat(x, len(self.y), axis=0), np.tile(np.arange(len(self.y)), len(x)))

    def _coded(self, x: np.ndarray, which: np.ndarray) -> np.ndarray:
        return np.concatenate([x, np.eye(len(self.y))[which]], 1) if self._codes else x

    def split(self, x: np.ndarray, values: np.ndarray) -> dict[str, np.ndarray]:
        """Outputs of points `[p, dx]`, `[..., p, dy]`, by their columns in raw units, `[..., p]` or as many as have it.

        Args:
            x: the inputs; scaling them leaves as they are those that say which output a point is of.
            values: outputs, means or quantiles.
        """
        if self.separate is None:
            return {name: values[..., i] for i, name in enumerate(self.y)}
        which = x[:, -self._codes :].argmax(1) if self._codes else np.zeros(len(x), dtype=int)
        units = zip(self.y, *self.separate, strict=True)
        return {name: shift + scale * values[..., which == i, 0] for i, (name, shift, scale) in enumerate(units)}

    def values(self, predicted: np.ndarray, spread: bool = False) -> np.ndarray:
        """What was predicted at `targets`, `[..., nt, dy]`, as outputs of rows in raw units, `[..., n, k]`.

        Args:
            predicted: means or quantiles; or standard deviations.
            spread: whether these are standard deviations.
        """
        if self.separate is None:
            return predicted
        shift, scale = np.array(self.separate)
        rows = predicted.reshape(*predicted.shape[:-2], predicted.shape[-2] // len(self.y), len(self.y))
        return rows * scale + (0.0 if spread else shift)


def numbers(values: "pd.Series", place: Place, gaps: bool = False) -> np.ndarray:
    """A column of numbers, `[n]`, float64.

    Args:
        values: the column.
        place: where it stands.
        gaps: whether values may be missing; they become NaN.

    Raises:
        DataError: text, an infinity, or a missing value.
    """
    import pandas as pd

    if pd.api.types.is_datetime64_any_dtype(values):
        raise DataError(f"expected numbers in column '{values.name}' of {place.file}, got dates: name it among x")
    found = pd.to_numeric(values, errors="coerce")
    if (text := (found.isna() & values.notna()).to_numpy()).any():
        raise DataError(
            f"expected a number in column '{values.name}', {place.row(text)}, got '{values[text].iloc[0]}': correct it "
            "(numbers are written like 1234.5)"
        )
    found = found.to_numpy(np.float64, na_value=np.nan)
    _refuse_gaps(np.isnan(found) & (not gaps), values.name, place)
    if (infinite := np.isinf(found)).any():
        raise DataError(f"column '{values.name}' is infinite in {place.row(infinite)}: leave the value out")
    return found


def days(values: "pd.Series", place: Place, date_format: str | None = None) -> np.ndarray:
    """A column of dates as days since 1970, `[n]`, float64; dates without a zone are taken as UTC.

    Raises:
        DataError: no date, or a missing value.
    """
    import pandas as pd

    found = _parsed(values, date_format)
    if (bad := (found.isna() & values.notna()).to_numpy()).any():
        written = f"as {date_format}" if date_format else "such as 2024-12-31 or 2024-12-31 23:59"
        raise DataError(
            f"expected a date in column '{values.name}', {place.row(bad)}, {written}, got '{values[bad].iloc[0]}': "
            "correct it, give date_format, or name the column among categories"
        )
    _refuse_gaps(found.isna().to_numpy(), values.name, place)
    return ((found - pd.Timestamp(ORIGIN)) / pd.Timedelta(days=1)).to_numpy(np.float64)


def words(values: "pd.Series", place: Place) -> np.ndarray:
    """A column of names as text, `[n]`; whole numbers are written without a point.

    Raises:
        DataError: a missing value.
    """
    import pandas as pd

    _refuse_gaps(values.isna().to_numpy(), values.name, place)
    if pd.api.types.is_float_dtype(values) and (values % 1 == 0).all():
        values = values.astype(np.int64)
    return values.astype(str).to_numpy(dtype=object)


def kind_of(values: "pd.Series", date_format: str | None = None) -> str:
    """Whether a column holds numbers, dates or categories: what most of its values can be read as.

    Text that looks like a date or a number of another country is called one, so that reading it says what is wrong.
    """
    import pandas as pd

    if pd.api.types.is_datetime64_any_dtype(values):
        return "date"
    if isinstance(values.dtype, pd.CategoricalDtype):
        return "category"
    known = max(int(values.notna().sum()), 1)
    most = lambda good: 2 * int(good.sum()) > known  # noqa: E731
    if date_format is not None and most(_parsed(values, date_format).notna()):  # 20241231 is a number otherwise
        return "date"
    if pd.api.types.is_numeric_dtype(values) or most(pd.to_numeric(values, errors="coerce").notna()):
        return "number"
    text = values.astype(str).str
    if most(_parsed(values, None).notna()) or most(text.match(LIKE_DATE)):
        return "date"
    return "number" if most(text.match(LIKE_NUMBER)) else "category"


def read_csv(path: str, comment: str | None = None) -> "pd.DataFrame":
    """The rows of a CSV file; what follows `comment` in a line is none of it.

    Raises:
        DataError: its rows are longer than its heading.
        ValueError, OSError: what pandas raises for other bad files.
    """
    import pandas as pd

    try:
        with warnings.catch_warnings():  # pandas would shift the columns, or take the first ones for names of the rows
            warnings.simplefilter("error", pd.errors.ParserWarning)
            return pd.read_csv(path, comment=comment, index_col=False, skipinitialspace=True, low_memory=False)
    except pd.errors.ParserWarning as error:
        raise DataError(
            f"expected a heading for every value of a row, got rows with more values in {path}: name all columns"
        ) from error


def check_names(have: Iterable[Any], names: Iterable[str], file: str) -> None:
    """Raises `DataError` with the nearest names unless each of these columns is there once."""
    having = Counter(str(name) for name in have)
    for name in names:
        if name not in having:
            other = re.search(r"[;\t|]", next(iter(having))) if len(having) == 1 else None
            hint = f"write commas, not {other[0]!r}, between its columns" if other else suggest(name, having)
            raise DataError(f"there is no column '{name}' in {file}; {hint}")
        if having[name] > 1:
            raise DataError(f"there are {having[name]} columns '{name}' in {file}: give them names of their own")


def _parsed(values: "pd.Series", date_format: str | None) -> "pd.Series":
    """Dates in UTC, NaT where a value is none."""
    import pandas as pd

    if pd.api.types.is_numeric_dtype(values):  # pandas would take numbers for nanoseconds
        values = values.astype(str)
    if pd.api.types.is_string_dtype(values):
        return pd.to_datetime(values, format=date_format or "ISO8601", utc=True, errors="coerce")
    return pd.to_datetime(values, utc=True, errors="coerce")


def _refuse_gaps(absent: np.ndarray, name: Any, place: Place) -> None:
    if absent.any():
        raise DataError(f"{place.row(absent)} has no value in column '{name}': fill it in, or leave the row out")
