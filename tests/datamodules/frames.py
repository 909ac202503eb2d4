"""A table of stations, and what the tests of tables read off batches."""

import numpy as np
import pandas as pd
import torch

SPLITS = ("train", "val", "test")
TASKS, ROWS = 20, 12


def weather() -> pd.DataFrame:
    """20 stations of 12 days; every temperature occurs once, so that it names its row."""
    rng, n = np.random.default_rng(0), TASKS * ROWS
    number = np.arange(n)
    day = pd.Timestamp("2020-01-01") + pd.to_timedelta(number % ROWS + rng.uniform(0, 0.5, n), unit="D")
    return pd.DataFrame(
        {
            "station": [f"s{i // ROWS:02d}" for i in number],
            "region": [f"r{i // ROWS // 2}" for i in number],
            "day": day,
            "sky": np.tile(["sun", "rain", "snow"], n // 3),
            "code": np.tile([7, 8], n // 2),
            "t": rng.permutation(n) / 10.0 - 5.0,
            "p": 1000.0 + rng.normal(size=n),
        }
    )


def temperatures(dm, batch, part="both"):
    """Raw first outputs at the real points of each task."""
    found = []
    for i in range(batch.num_tasks):
        values = []
        for kind in ("c", "t") if part == "both" else part:
            y, mask = getattr(batch, f"y{kind}")[i, :, 0], getattr(batch, f"mask_{kind}")
            values.append(y if mask is None else y[mask[i]])
        y = torch.cat(values).double().numpy() * dm.scaling["y_scale"][0] + dm.scaling["y_shift"][0]
        found.append(y.round(4))
    return found
