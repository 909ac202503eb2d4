"""A real table for `datamodules.Frame`: monthly prices of eight companies and two indices, as matplotlib ships them.

    python results/frame/stocks.py stocks.csv

says which `npexp fit` to run then. It writes a row per month and share that was traded: the share and the three years
(1990-1992, ...) as the task, the month as a date, and the logarithm of the price over that at the beginning of these
years. The years are the group, so that none is in two parts: shares rise and fall together, and a split by share alone
would give the test away.
"""

import sys

import numpy as np
import pandas as pd
from matplotlib.cbook import get_sample_data

YEARS = 3
FIT = (
    "npexp fit --data.path {} --data.task task --data.group years --data.x month --data.y log_price "
    "--data.policy forecast --data.relative true --data.num_context '[6, 24]' --data.num_target '[1, 12]'"
)


def long_table() -> pd.DataFrame:
    """The table that is written."""
    with get_sample_data("Stocks.csv") as file:
        wide = pd.read_csv(file, comment="#", parse_dates=["Date"])
    rows = wide.melt("Date", var_name="share", value_name="price").dropna()
    first = rows.Date.dt.year - (rows.Date.dt.year - rows.Date.dt.year.min()) % YEARS
    rows = rows.assign(month=rows.Date, years=[f"{y}-{y + YEARS - 1}" for y in first])
    rows["task"] = rows.share.str.strip("^") + " " + rows.years
    rows = rows[rows.groupby("task").price.transform("size") >= 12]  # too few months for a forecast
    rows["log_price"] = np.log(rows.price / rows.groupby("task").price.transform("first"))
    return rows[["task", "years", "share", "month", "log_price"]]


if __name__ == "__main__":
    path = sys.argv[1] if len(sys.argv) > 1 else "stocks.csv"
    table = long_table()
    table.to_csv(path, index=False)
    print(
        f"{path}: {len(table)} rows, {table.task.nunique()} tasks, {table.years.nunique()} groups",
        FIT.format(path),
        sep="\n",
    )
