"""A small field, a network of stations in it, and what the tests of fields ask of batches."""

import numpy as np
import pandas as pd
import torch
import xarray as xr

SPLITS = ("train", "val", "test")
SHAPE = (24, 16, 30)
HALF = {"num_context": (2, 6), "num_target": (4, 6), "num_val_batches": 2, "num_test_batches": 2}


def field(**changes):
    """A field of values that are all different, so that a value tells its cell; whole numbers, exact in float32."""
    values = np.random.default_rng(0).permutation(np.prod(SHAPE)).reshape(SHAPE).astype(np.float32)
    height = np.random.default_rng(1).normal(300, 200, SHAPE[1:]).astype(np.float32)
    coords = {
        "time": pd.date_range("2019-12-30", periods=SHAPE[0], freq="6h"),
        "latitude": 60.0 - 0.5 * np.arange(SHAPE[1]),  # north first, as ERA5
        "longitude": 12.0 * np.arange(SHAPE[2]),  # from 0 to 348, round the Earth
    }
    variables = {"t2m": (tuple(coords), values), "z": (("latitude", "longitude"), height)}
    return xr.Dataset({**variables, **changes}, coords)


def small():
    return {"variables": ["t2m"], "patch": [1, 4, 5], "split_by": "time", "num_blocks": 1, **HALF}


def raw(dm, batch):
    """Inputs and outputs of all points in the units of the file, `[b, n, d]`."""
    x, y, s = torch.cat([batch.xc, batch.xt], 1), torch.cat([batch.yc, batch.yt], 1), dm.scaling
    pairs = (x, s["x_scale"], s["x_shift"]), (y, s["y_scale"], s["y_shift"])
    return [v.double().numpy() * np.array(scale) + np.array(shift) for v, scale, shift in pairs]


def located(dm, batch, content=None):
    """Times, rows from the south and columns of all points, found by their values, `[b, n]` each."""
    values = (field() if content is None else content).t2m.sortby("latitude").values
    index = np.empty(np.prod(SHAPE), int)
    index[values.ravel().astype(int)] = np.arange(values.size)
    return np.stack(np.unravel_index(index[raw(dm, batch)[1][..., 0].round().astype(int)], SHAPE))


def same(one, other, **tolerance):
    for split in SPLITS:
        for a, b in zip(one.make_batch(split, 0), other.make_batch(split, 0), strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                torch.testing.assert_close(a, b, **tolerance)


def stations(num=400, **changes):
    """Stations all over the field, measuring its values of the nearest cell plus a constant, and missing some."""
    rng, content = np.random.default_rng(5), field()
    place = {"latitude": ("station", rng.uniform(52, 61, num)), "longitude": ("station", rng.uniform(-180, 180, num))}
    values = np.arange(SHAPE[0] * num).reshape(SHAPE[0], num).astype(np.float32)
    values[rng.random(values.shape) < 0.3] = np.nan
    variables = {"t2m": (("time", "station"), values), **place, **changes}
    return xr.Dataset(variables, {"time": content.time.values})
