"""A real table for `datamodules.Frame`: monthly prices of eight companies and two indices, as matplotlib ships them.

    python results/frame/stocks.py stocks.csv

writes the table, scores the last value in walk.json beside this file, and says which `npexp fit` to run. The table has
a row per month and share that was traded: the share and the three years (1990-1992, ...) as the task, the month as a
date, and the logarithm of the price over that at the beginning of these years. The years are the group, so that none
is in two parts: shares rise and fall together, and a split by share alone would give the test away.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.cbook import get_sample_data
from torch import Tensor

from datamodules import Frame
from npexp.batch import TaskBatch, real
from npexp.likelihoods import DiagonalGaussian
from npexp.metrics import Evaluation

YEARS = 3
SETTINGS = {
    "task": "task",
    "group": "years",
    "x": "month",
    "y": "log_price",
    "policy": "forecast",
    "relative": True,
    "num_context": [6, 24],
    "num_target": [1, 12],
}


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


def last_value(batch: TaskBatch) -> tuple[Tensor, Tensor]:
    """The latest output of each context, and how far ahead of it the targets lie, `[b, nt, 1]` each."""
    x = batch.xc if batch.mask_c is None else batch.xc.masked_fill(~batch.mask_c[..., None], -torch.inf)
    latest = x.argmax(1, keepdim=True)
    ahead = (batch.xt - x.gather(1, latest)).clamp_min(1e-6)  # padding may lie anywhere
    return batch.yc.gather(1, latest).expand_as(batch.yt), ahead


def random_walk(data: Frame) -> dict[str, float]:
    """Scores of the last value, with a variance that grows with time as it does in training."""
    squares, count = 0.0, 0
    for batch in (data.make_batch("train", i) for i in range(200)):
        last, ahead = last_value(batch)
        inside = real(batch.mask_t, batch.xt)
        squares, count = squares + float(((batch.yt - last) ** 2 / ahead)[inside].sum()), count + int(inside.sum())
    scores = Evaluation()
    for batch in data.eval_batches("test"):
        last, ahead = last_value(batch)
        scores.update(DiagonalGaussian(last, (squares / count * ahead).sqrt()), batch)
    return scores.compute()


def main() -> None:
    """Writes the table, scores the random walk, and says what to run."""
    path = sys.argv[1] if len(sys.argv) > 1 else "stocks.csv"
    table = long_table()
    table.to_csv(path, index=False)
    print(f"{path}: {len(table)} rows, {table.task.nunique()} tasks, {table.years.nunique()} groups")
    scores = random_walk(Frame(path, **SETTINGS))
    Path(__file__).with_name("walk.json").write_text(json.dumps({f"test/{k}": v for k, v in scores.items()}, indent=1))
    options = (f"--data.{key} {json.dumps(value).strip(chr(34))!r}" for key, value in SETTINGS.items())
    print(f"npexp fit --data.path {path} {' '.join(options)}")


if __name__ == "__main__":
    main()
