"""Tables that cannot be: each mistake gets a line that names the file, the row and the column."""

import numpy as np
import pandas as pd
import pytest

from datamodules import Frame
from npexp.errors import ConfigError, DataError, UnknownNameError
from tests.datamodules.frames import ROWS, weather


def changed(row, column, value):
    table = weather().astype({column: object})
    table.loc[row, column] = value
    return table


BAD = {
    "missing column": (weather(), {"y": "tt"}, "no column 'tt' in .*weather.csv; did you mean 't'"),
    "missing task column": (weather(), {"task": "sation"}, "no column 'sation'.*did you mean 'station'"),
    "text in outputs": (changed(3, "t", "warm"), {}, "number in column 't', row 4 of .*weather.csv, got 'warm'"),
    "text in inputs": (weather().assign(day=[*range(239), "x"]), {}, "number in column 'day', row 240 of .*, got 'x'"),
    "a task with one row": (pd.concat([weather(), weather().iloc[:1].assign(station="lone", t=0.123)]), {},
                            r"2 points in each task .* fewer in 1, such as 'lone' \(1\)"),
    "all of an output missing": (weather().assign(p=np.nan), {"y": ["t", "p"], "outputs": "separate"},
                                 "'p' of .* no value"),
    "a missing output": (changed(6, "p", None), {"y": ["t", "p"]},
                         "row 7 of .* no value in column 'p'.*outputs: separate"),
    "a missing input": (changed(6, "day", None), {}, "row 7 of .*weather.csv has no value in column 'day'"),
    "a missing task": (changed(6, "station", None), {}, "row 7 of .* names no task: fill in the column 'station'"),
    "a repeated row": (pd.concat([weather(), weather().iloc[5:6]]), {}, "row 241 of .* repeats a row"),
    "a bad date": (changed(9, "day", "yesterday"), {}, "date in column 'day', row 10 of .* got 'yesterday'"),
    "dates in another format": (weather().assign(day=weather().day.dt.strftime("%d.%m.%Y %H:%M:%S")), {},
                                "date in column 'day', row 1 of .*give date_format"),
    "few dates in another format": (weather().assign(sky=["31-Dec-24", "01.02.2024"] * 120), {"x": ["day", "sky"]},
                                    "date in column 'sky', row 1 of .*or name the column among categories"),
    "dates of no such format": (weather(), {"date_format": "%d.%m.%Y"}, "row 1 of .*, as %d.%m.%Y, got '2020-01-01"),
    "decimal commas": (weather().assign(sky=["1,5", "2,5"] * 120), {"x": ["day", "sky"]},
                       "number in column 'sky', row 1 of .*, got '1,5'.*like 1234.5"),
    "an identifier": (weather().assign(sky=[f"id{i}" for i in range(240)]), {"x": ["day", "sky"]},
                      "100 categories at most in column 'sky'"),
    "semicolons": (weather().to_csv(index=False, sep=";").encode(), {}, "no column 'station'.*write commas, not ';'"),
    "rows longer than the heading": (b"station,day,t\na,1,2,3\n", {}, "got rows with more values in .*weather"),
    "a heading twice": (weather().rename(columns={"p": "t"}), {"name": "DataFrame"}, "2 columns 't' in the DataFrame"),
    "too few places for a gap": (weather().assign(day=np.arange(240) % ROWS // 6), {"policy": "gap", "repeats": True},
                                 "at least 3 values .* policy gap in .*weather.csv, got 2 in 's..'"),
    "dates as an output": (weather(), {"x": "p", "y": "day"}, "number in column 'day', row 1 of"),
    "an infinite output": (changed(2, "t", np.inf), {}, "column 't' is infinite in row 3 of"),
    "a constant input": (weather().assign(day=3.0), {}, "column 'day' of .* one value only in the training rows"),
    "a constant output": (weather().assign(t=0.1), {}, "column 't' of .* one value only"),
    "a category that does not train": (weather().assign(sky=weather().region), {"x": ["day", "sky"], "group": "region"},
                                       "category 'r.' of column 'sky' .* no training row"),
    "a task in two groups": (changed(13, "region", "r9"), {"group": "region"},
                             "got 'r9' and 'r0' in column 'region', row 14"),
    "an empty file": (b"", {}, "readable .csv file, got .*weather.csv"),
    "a heading alone": (weather().iloc[:0], {}, "got an empty table in .*weather.csv"),
    "Parquet called CSV": (b"PAR1\x00\xff\xfe\x15\x04", {}, "readable .csv file"),
    "CSV called Parquet": (b"a,b\n1,2\n", {"name": "a.parquet"}, "readable .parquet file, got .*a.parquet"),
    "another format": (b"{}", {"name": "a.json"}, r"format .csv or .parquet, got .*a.json: convert it"),
    "scattered tasks in a stream": (weather().sort_values("day"), {"name": "a.parquet", "max_rows": 60},
                                    "follow one another, got 's..' again in row"),
    "large row groups": (weather(), {"name": "a.parquet", "max_rows": 20}, "row groups of 20 rows at most .* got 30"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_tables(make, case):
    table, settings, message = BAD[case]
    with pytest.raises(DataError, match=message) as error:
        make(table, **settings)
    assert "\n" not in str(error.value)


def test_truncated_parquet(make, tmp_path):
    make(weather(), "a.parquet")
    content = (tmp_path / "a.parquet").read_bytes()
    with pytest.raises(DataError, match=r"readable .parquet file, got .*b.parquet"):
        make(content[:-500], "b.parquet")
    middle = content[:100] + b"\xff" * 800 + content[900:]
    for max_rows in (60, 10_000):
        with pytest.raises(DataError, match=r"readable .parquet file, got .*c.parquet"):
            make(middle, "c.parquet", max_rows=max_rows)


BAD_SETTINGS = {
    "no outputs": ({"y": None}, "expected input and output columns"),
    "a column twice": ({"y": "day"}, "'day' twice"),
    "category that is no input": ({"categories": "sky"}, "unknown input column in categories 'sky'"),
    "policy": ({"policy": "forcast"}, "unknown policy 'forcast'; did you mean 'forecast'"),
    "split": ({"split": "date"}, "unknown split 'date'"),
    "outputs": ({"outputs": "alone"}, "unknown setting of outputs 'alone'"),
    "group without column": ({"split": "group"}, "split by group needs group"),
    "fractions": ({"val_fraction": 0.6, "test_fraction": 0.4}, "sum of at most 0.99"),
    "order by a category": ({"x": ["sky", "day"], "policy": "gap"}, "got the category 'sky'"),
    "a format without dates": ({"x": "p", "date_format": "%Y"}, "date_format is for dates"),
    "a group that does not divide": ({"split": "task", "group": "region"}, "group with a split by group alone"),
    "times for tasks": ({"split_at": [1, 2]}, "for a split by time"),
    "times turned round": ({"split": "time", "split_at": ["2020-01-09", "2020-01-05"]}, "ascending order"),
    "nothing to train": ({"split": "time", "split_at": ["2019-01-09", "2020-01-05"]}, "no training rows"),
    "nothing to test": ({"split": "time", "split_at": ["2020-01-05", "2021-01-05"]}, "the test part of .* got none"),
    "no file": ({"name": "DataFrame", "table": "none.csv"}, "no file none.csv"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_SETTINGS)
def test_bad_settings(make, case):
    settings, message = BAD_SETTINGS[case]
    with pytest.raises((ConfigError, UnknownNameError), match=message):
        make(**settings)


def test_too_few_tasks(make):
    table = weather().iloc[: 2 * ROWS]
    with pytest.raises(ConfigError, match=r"to train, validate and test, got 2 in .* split by time, or lower"):
        make(table)


def test_no_table():
    with pytest.raises(ConfigError, match=r"--data\.path FILE\.csv"):
        Frame()
