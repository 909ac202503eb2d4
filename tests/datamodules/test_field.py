"""Fields: every way a file may be written gives the same tasks, parts share no cell, and bad files are refused."""

import sys
from datetime import date

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from scipy.stats import chisquare

from datamodules import Field
from npexp.errors import ConfigError, DataError, UnknownNameError
from npexp.scaling import Scaling

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


@pytest.fixture
def write(tmp_path):
    """Writes a data set as NetCDF and gives the settings of a small source of tasks from it."""

    def build(content=None, name="field.nc", **settings):
        path = tmp_path / name
        if content is not None or not path.exists():
            (field() if content is None else content).to_netcdf(path, engine="h5netcdf")
        return {"path": str(path), "cache_dir": str(tmp_path), **small(), **settings}

    return build


@pytest.fixture(autouse=True)
def few_tries(monkeypatch):
    monkeypatch.setattr("datamodules.field.TRIES", 50)


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


@pytest.mark.parametrize(("axis", "num_blocks"), [("time", 1), ("latitude", 1), ("longitude", 2)])
def test_parts_share_no_cell_and_patches_cross_no_border(write, axis, num_blocks):
    dm = Field(**write(split_by=axis, num_blocks=num_blocks, patch=[1, 3, 3], num_context=(2, 4), num_target=(3, 5)))
    number, seen = ("time", "latitude", "longitude").index(axis), {}
    length = SHAPE[number] / num_blocks
    for split, (low, high) in zip(SPLITS, [(0, 0.6), (0.6, 0.8), (0.8, 1)], strict=True):
        cells = [located(dm, dm.make_batch(split, i)) for i in range(2)]
        along = np.concatenate([c[number].ravel() for c in cells])
        block, into = np.divmod(along, length)
        assert into.min() >= round(low * length) and into.max() < round(high * length)
        assert set(block) == set(range(num_blocks))
        assert all(np.ptp(c, axis=2).max(1).tolist() <= [0, 2, 2] for c in cells)  # within a patch, so within a block
        seen[split] = {cell for c in cells for cell in np.ravel_multi_index(tuple(c), SHAPE).ravel().tolist()}
        assert all(len(set(zip(*task, strict=True))) == task.shape[1] for c in cells for task in c.swapaxes(0, 1))
    assert not seen["train"] & seen["val"] and not seen["val"] & seen["test"] and not seen["train"] & seen["test"]


def test_every_patch_of_every_box_is_equally_likely(write):
    dm = Field(**write(split_by="longitude", num_blocks=2, patch=[1, 14, 3]))
    start = dm._look(np.random.default_rng(0), "train", 20_000).start
    free = [(t, i, box + j) for t in range(24) for i in range(3) for box in (0, 15) for j in range(7)]
    counts = pd.Series(list(map(tuple, start.tolist()))).value_counts()
    assert set(counts.index) == set(free)
    assert chisquare(counts.to_numpy()).pvalue > 1e-3


def test_every_cell_is_equally_likely_in_either_role(write):
    dm = Field(**write(patch=[1, 4, 5], batch_size=4000, num_context=(6, 6), num_target=(6, 6)))
    batch, step = dm.make_batch("train", 0), np.array([0.5, 12.0])
    for x in (batch.xc, batch.xt):
        cell = (x.double().numpy() * dm.scaling["x_scale"] / step + [1.5, 2]).round().astype(int).reshape(-1, 2)
        assert chisquare(np.bincount(cell[:, 0] * 5 + cell[:, 1], minlength=20)).pvalue > 1e-3


@pytest.mark.parametrize("relative", [True, False])
def test_inputs_are_hours_and_degrees(write, relative):
    dm, content = Field(**write(patch=[3, 4, 5], relative=relative)), field()
    batch = dm.make_batch("train", 0).check()
    assert batch.xc.shape[-1] == 3 and max(batch.xc.abs().max(), batch.xt.abs().max()) <= 2
    t, i, j = located(dm, batch)
    hours = (content.time.values - np.datetime64("1970-01-01")) / np.timedelta64(1, "h")
    position = np.stack([hours[t], content.latitude.values[::-1][i], content.longitude.values[j]], -1)
    away = raw(dm, batch)[0] - position
    tolerance = {"atol": 0.02 if not relative else 1e-4}  # 2020 in hours, from float32
    np.testing.assert_allclose(away, 0 * away + (away[:, :1] if relative else 0), **tolerance)
    if relative:  # the middle of a patch is the same for all its points, and half way between cells
        middle = -away[:, 0] - [hours[0], 52.5, 0]
        np.testing.assert_allclose(middle / [6, 0.5, 12] % 1, np.tile([0, 0.5, 0], (16, 1)) % 1, atol=1e-3)


@pytest.mark.parametrize("memory", [1e-9, 2.0])
def test_files_as_users_have_them_give_the_same_tasks(write, tmp_path, memory):
    """NetCDF, Zarr, ERA5 with packed values, a file per month, other orders, read patch by patch or in memory."""
    reference, content, settings = Field(**write(batch_size=4)), field(), write(memory=memory, batch_size=4)

    def check(path, **further):
        dm = Field(**{**settings, "path": str(tmp_path / path), **further})
        dm.scaling = reference.scaling  # of a field larger than memory it is that of some times
        same(reference, dm)
        assert (dm._patches.loaded is None) == (memory < 1)

    check("field.nc")
    content.to_zarr(tmp_path / "field.zarr", zarr_format=2)
    check("field.zarr")
    content.transpose("longitude", ..., "time").sortby("latitude").to_netcdf(tmp_path / "turned.nc", engine="h5netcdf")
    check("turned.nc")
    for n, times in enumerate((slice(0, 5), slice(5, None))):
        content.isel(time=times).to_netcdf(tmp_path / f"month_{n}.nc", engine="h5netcdf")
    check("month_*.nc")
    era5 = content.expand_dims(number=[0]).rename(time="valid_time", latitude="lat", longitude="lon")
    packed = {"dtype": "int16", "scale_factor": 0.5, "add_offset": 8000.0, "_FillValue": np.int16(-32767)}
    era5.to_netcdf(tmp_path / "era5.nc", engine="h5netcdf", encoding={"t2m": packed})
    check("era5.nc")
    classic = content.drop_vars("z").rename(latitude="y", longitude="x")
    classic.to_netcdf(tmp_path / "classic.nc", engine="scipy")
    check("classic.nc", dims={"latitude": "y", "longitude": "x"})


def test_a_field_larger_than_memory_is_read_patch_by_patch(write, tmp_path):
    content = field()
    for n, part in enumerate((content.isel(time=slice(0, 5)), content.isel(time=slice(5, None)))):
        part.to_netcdf(tmp_path / f"month_{n}.nc", engine="h5netcdf")
    for settings in ({}, {"crop": {"longitude": [-60, 60]}}, {"every": {"time": 2, "latitude": 2, "longitude": 2}}):
        settings = {
            **write(**settings),
            "path": str(tmp_path / "month_*.nc"),
            "patch": [2, 3, 4],
            "auxiliary": ["z"],
            "batch_size": 4,
        }
        whole, lazy = Field(**settings), Field(**settings, memory=1e-9)
        assert lazy._patches.loaded is None and whole._patches.loaded is not None
        mean, scale = (np.array(whole.scaling[name]) for name in ("y_shift", "y_scale"))
        np.testing.assert_allclose(lazy.scaling["y_shift"], mean, atol=0.2 * scale[0])  # from one time of them
        lazy.scaling = whole.scaling
        same(whole, lazy)


def test_missing_cells_are_never_used(write):
    content = field()
    holes = np.random.default_rng(2).random(SHAPE) < 0.3
    lost = np.random.default_rng(3).random(SHAPE[1:]) < 0.2
    content["t2m"] = content.t2m.where(~holes)
    content["z"] = content.z.where(~lost)
    dm = Field(**write(content, auxiliary=["z"], num_context=(3, 3), num_target=(6, 6)))
    bad = set(field().t2m.values[holes | lost].tolist())
    for index in range(5):
        batch = dm.make_batch("train", index).check()
        assert batch.mask_c is None and batch.xc.shape == (16, 3, 3) and batch.xt.shape == (16, 6, 3)
        assert not set(raw(dm, batch)[1].round().ravel().tolist()) & bad
    # ... and only patches with fewer than nine known cells are left out
    free = np.lib.stride_tricks.sliding_window_view(~(holes | lost)[:14, ::-1], (1, 4, 5)).sum((-1, -2, -3)) >= 9
    counts = np.zeros(free.shape, int)
    np.add.at(counts, tuple(dm._draw(np.random.default_rng(0), "train", 20_000, 9).start.T), 1)
    assert not free.all() and counts[~free].sum() == 0 and chisquare(counts[free]).pvalue > 1e-3


def test_scaling_is_that_of_the_training_part(write):
    dm, content = Field(**write(auxiliary=["z", "day_of_year"])), field()
    own = content.t2m.values[: round(0.6 * 24)].astype(np.float64)
    assert dm.scaling["y_shift"] == pytest.approx([own.mean()]) and dm.scaling["y_scale"] == pytest.approx([own.std()])
    height = content.z.values.astype(np.float64)
    assert dm.scaling["x_shift"][2:] == pytest.approx([height.mean(), 0, 0])
    assert dm.scaling["x_scale"] == pytest.approx([1.5 / 4, 48 / 4, height.std(), 1, 1])
    assert Scaling.make(dm.scaling, dm.dx, dm.dy)  # what a checkpoint takes
    changed = content.assign(t2m=content.t2m + 1000 * (np.arange(24) >= 14)[:, None, None])
    assert Field(**write(changed, "other.nc", auxiliary=["z", "day_of_year"])).scaling == dm.scaling
    constant = content.assign(t2m=0 * content.t2m + 287.3)
    assert Field(**write(constant, "constant.nc")).scaling["y_scale"] == [1.0]


@pytest.mark.parametrize("own_file", [False, True])
def test_auxiliary_inputs(write, tmp_path, own_file):
    content = field(w=(("time", "latitude", "longitude"), np.random.default_rng(4).random(SHAPE, np.float32)))
    settings = write(content, patch=[2, 4, 5])
    if own_file:
        orography = content.z.expand_dims(time=[np.datetime64("1979-01-01")]).to_dataset()
        orography.to_netcdf(tmp_path / "z.nc", engine="h5netcdf")
        dm = Field(**settings, auxiliary=["z", "hour_of_day"], auxiliary_path=str(tmp_path / "z.nc"))
    else:
        dm = Field(**settings, auxiliary=["z", "hour_of_day", "w", "day_of_year"])
    batch = dm.make_batch("train", 3).check()
    t, i, j = located(dm, batch)
    south_first, times = content.sortby("latitude"), pd.DatetimeIndex(content.time.values)
    hour = 2 * np.pi * times.hour.to_numpy()[t] / 24
    years = pd.to_datetime(times.year.astype(str)).to_numpy(), pd.to_datetime((times.year + 1).astype(str)).to_numpy()
    year = 2 * np.pi * ((times.to_numpy() - years[0]) / (years[1] - years[0]))[t]
    expected = [south_first.z.values[i, j], np.sin(hour), np.cos(hour)]
    expected += [] if own_file else [south_first.w.values[t, i, j], np.sin(year), np.cos(year)]
    assert dm.dx == 3 + len(expected)
    np.testing.assert_allclose(raw(dm, batch)[0][..., 3:], np.stack(expected, -1), atol=1e-3)


def test_several_outputs(write):
    content = field()
    dm = Field(**write(content.assign(u10=content.t2m * 2 + 1), variables=["u10", "t2m"]))
    batch = dm.make_batch("val", 0).check()
    u, t = np.moveaxis(raw(dm, batch)[1], -1, 0)
    np.testing.assert_allclose(u, 2 * t + 1, atol=0.02)
    assert dm.plot_tasks(2) == []  # two outputs are no picture


def test_crop_crosses_the_meridian(write):
    dm = Field(**write(crop={"longitude": [-30, 40], "latitude": [53.5, 58], "time": ["2019-12-31", "2020-01-02"]}))
    assert dm.grid.axes["longitude"].tolist() == [-24, -12, 0, 12, 24, 36]
    assert dm.grid.axes["latitude"].tolist() == np.arange(53.5, 58.1, 0.5).tolist()
    assert dm.grid.shape[0] == 12 and str(dm.grid.axes["time"][-1]).startswith("2020-01-02T18")
    content = field()
    for _, row, column in located(dm, dm.make_batch("train", 0)).reshape(3, -1).T:
        assert content.longitude.values[column] in (336, 348, 0, 12, 24, 36) and 53.5 <= 52.5 + 0.5 * row <= 58


def test_one_of_a_further_dimension(write):
    content = field()
    levels = xr.concat([content, content + 7], pd.Index([850, 500], name="level")).assign(z=content.z)
    same(Field(**write()), Field(**write(levels, "levels.nc", select={"level": 850})))
    with pytest.raises(DataError, match=r"got the further dimension level of 2 in .*: choose one .* with select"):
        Field(**write(levels, "levels.nc")).make_batch("train", 0)
    with pytest.raises(DataError, match=r"expected a level that .* has, got 700: select one of \[850, 500\]"):
        Field(**write(levels, "levels.nc", select={"level": 700})).make_batch("train", 0)
    with pytest.raises(DataError, match=r"has no dimension 'lvl' .* 'level'"):
        Field(**write(levels, "levels.nc", select={"lvl": 850})).make_batch("train", 0)


def test_parts_as_given(write):
    parts = {
        "train": {"longitude": [0, 96], "time": ["2019", "2019"]},
        "val": {"longitude": [-60, -12], "latitude": [56.5, 60]},
        "test": {"longitude": [108, 180]},
    }
    dm, content = Field(**write(parts=parts)), field()
    own = {
        "train": content.sel(longitude=slice(0, 96), time="2019"),
        "val": content.sel(longitude=slice(300, 348), latitude=slice(60, 56.5)),
        "test": content.sel(longitude=slice(108, 180)),
    }
    for split in SPLITS:
        seen = {v for i in range(2) for v in raw(dm, dm.make_batch(split, i))[1].round().ravel().tolist()}
        assert seen <= set(own[split].t2m.values.ravel().tolist())
    np.testing.assert_allclose(dm.scaling["y_shift"], own["train"].t2m.values.astype(np.float64).mean())
    parts["test"] = {"longitude": [96, 180]}
    with pytest.raises(ConfigError, match="got overlapping train and test"):
        Field(**write(parts=parts)).make_batch("train", 0)
    parts["test"] = {"latitude": [10, 20]}
    with pytest.raises(ConfigError, match=r"coordinates of latitude between 10 and 20, got none: .* 52.5 to 60"):
        Field(**write(parts=parts)).make_batch("train", 0)


def stations(num=400, **changes):
    """Stations all over the field, measuring its values of the nearest cell plus a constant, and missing some."""
    rng, content = np.random.default_rng(5), field()
    place = {"latitude": ("station", rng.uniform(52, 61, num)), "longitude": ("station", rng.uniform(-180, 180, num))}
    values = np.arange(SHAPE[0] * num).reshape(SHAPE[0], num).astype(np.float32)
    values[rng.random(values.shape) < 0.3] = np.nan
    variables = {"t2m": (("time", "station"), values), **place, **changes}
    return xr.Dataset(variables, {"time": content.time.values})


@pytest.mark.parametrize("ragged", [False, True])
def test_stations_are_the_context_of_cells(write, tmp_path, ragged):
    network = stations()
    network.isel(time=slice(3, None)).to_netcdf(tmp_path / "stations.nc", engine="h5netcdf")
    file = str(tmp_path / "stations.nc")
    settings = {"patch": [2, 8, 8], "auxiliary": ["z", "hour_of_day"], "ragged": ragged}
    dm = Field(**write(stations=file, **settings, relative=False, num_context=(1, 30)))
    height, used = field().sortby("latitude").z.values, set()
    measured, latitude, longitude = (network[name].values for name in ("t2m", "latitude", "longitude"))
    hours = (network.time.values - np.datetime64("1970-01-01")) / np.timedelta64(1, "h")
    for index in range(3):
        batch = dm.make_batch("train", index).check()
        assert (batch.num_context >= 1).all() and batch.mask_c is not None
        _, i, j = located(dm, batch._replace(xc=batch.xc[:, :0], yc=batch.yc[:, :0]))
        x, y = raw(dm, batch)
        for task in range(16):
            low, high = [0, i[task].min() - 7, j[task].min() - 7], [23, i[task].max() + 7, j[task].max() + 7]
            for slot in batch.mask_c[task].nonzero()[:, 0].tolist():
                when, which = divmod(round(y[task, slot, 0]), 400)
                used.add((index, task, when, which))
                assert when >= 3 and not np.isnan(measured[when, which])
                lat, lon, hour = latitude[which], longitude[which] % 360, hours[when]
                np.testing.assert_allclose(x[task, slot, :3], [hour, lat, lon], atol=0.02)
                row, column = round((lat - 52.5) / 0.5), round(lon / 12)
                assert low[1] <= row <= high[1] and low[2] <= column <= high[2]
                assert x[task, slot, 3] == pytest.approx(height[row, column], abs=1e-2)
                assert x[task, slot, 4] == pytest.approx(np.sin(2 * np.pi * (when % 4) / 4), abs=1e-5)
    assert len(used) > 150  # no measurement twice in a task, or these would be fewer than the slots:
    assert len(used) == sum(int(dm.make_batch("train", i).num_context.sum()) for i in range(3))


def test_fewer_stations_than_context_slots(write, tmp_path):
    network = stations(5).isel(time=0, drop=True)
    network["t2m"] = network.t2m.fillna(0.0)
    network.to_netcdf(tmp_path / "stations.nc", engine="h5netcdf")
    one = field().isel(time=0, drop=True)
    settings = {"patch": [1, 15, 10], "split_by": "longitude", "stations": str(tmp_path / "stations.nc")}
    settings |= {"val_fraction": 0.34, "test_fraction": 0.33, "ragged": True}
    batch = Field(**write(one, **settings, num_context=(0, 20))).make_batch("train", 0).check()
    assert batch.xc.shape[1] <= 5 and batch.num_context.max() <= 5 and batch.xt.shape[1] == 6
    (task,) = Field(**write(one, **settings, num_context=(0, 20))).plot_tasks(1)
    assert task.batch.check().xt.shape[1] == 150


def test_plot_tasks_are_maps_with_north_above(write):
    dm = Field(**write())
    tasks = dm.plot_tasks(3)
    assert [task.batch.xc.shape[1] for task in tasks] == [3, 4, 5]
    for task, again in zip(tasks, dm.plot_tasks(3), strict=True):
        batch = task.batch.check()
        assert task.kind == "image" and task.image_shape == (4, 5) and torch.equal(batch.yc, again.batch.yc)
        _, i, j = located(dm, batch._replace(xc=batch.xt, yc=batch.yt))[:, :, :20].reshape(3, 4, 5)
        assert (np.diff(i, axis=0) == -1).all() and (np.diff(j, axis=1) == 1).all()
    assert Field(**write(patch=[2, 4, 5])).plot_tasks(2) == []
    gaps = field().assign(t2m=field().t2m.where(field().latitude % 2 != 0))
    assert Field(**write(gaps, "gaps.nc")).plot_tasks(2) == []


def test_terrain_ships():
    dm = Field()
    assert dm.grid.shape == (1, 344, 403) and dm.dx == 2
    assert dm.grid.axes["latitude"][0] == pytest.approx(36.4467, abs=1e-4)
    for split in SPLITS:
        batch = dm.make_batch(split, 0).check()
        assert (
            batch.num_tasks == 16 and batch.xt.shape[1] == 100 and max(batch.xc.abs().max(), batch.xt.abs().max()) <= 2
        )
    values = dm.scaling["y_scale"][0] * batch.yt + dm.scaling["y_shift"][0]
    assert (values - values.round()).abs().max() < 1e-3 and values.min() >= 236 and values.max() <= 1076
    assert Field().cache_file("val") == dm.cache_file("val")


def test_ends_may_be_dates(write):
    one = Field(**write(crop={"time": [date(2020, 1, 1), date(2020, 1, 2)]}))
    other = Field(**write(crop={"time": ["2020-01-01", "2020-01-02"]}))
    assert one.cache_file("test") == other.cache_file("test") and one.grid.shape == other.grid.shape


def test_another_content_is_another_cache_file(write):
    settings = write()
    one = Field(**settings).cache_file("test")
    assert Field(**settings).cache_file("test") == one != Field(**settings, seed=1).cache_file("test")
    write(field() + 1)
    assert Field(**settings).cache_file("test") != one


BAD_SETTINGS = [
    ({"patch": [4, 5]}, ConfigError, r"expected patch as times, rows and columns"),
    ({"patch": [1, 1, 1]}, ConfigError, r"not all 1, got \[1, 1, 1\]"),
    ({"patch": [1, 2, 2]}, ConfigError, "at most the 4 cells of a patch, got 12"),
    ({"patch": [1, 17, 5]}, ConfigError, r"train part to hold patches of 1 x 17 x 5 cells .* got 14 x 16 x 30"),
    ({"num_blocks": 20}, ConfigError, "the train part to hold patches|the val part to hold patches"),
    ({"split_by": "height"}, UnknownNameError, "unknown key of split_by 'height'"),
    ({"every": {"tme": 2}}, UnknownNameError, "unknown key of every 'tme'; did you mean 'time'"),
    ({"crop": {"latitude": [1]}}, ConfigError, r"expected \[first, last\] for latitude, got \[1\]"),
    ({"crop": {"longitude": ["west", 3]}}, ConfigError, r"expected \[first, last\] for longitude, got \['west', 3\]"),
    ({"crop": {"time": ["yesterday", "2020"]}}, ConfigError, r"expected \[first, last\] for time"),
    ({"parts": {"train": {}}}, ConfigError, "expected parts with train, val, test, got train"),
    ({"val_fraction": 0.5, "test_fraction": 0.5}, ConfigError, "sum of at most 0.99"),
    ({"variables": ["t2m", "t2m"]}, ConfigError, "got 't2m' again"),
    ({"auxiliary": ["t2m"]}, ConfigError, "an output as an input would tell itself"),
    ({"variables": ["t2"]}, DataError, r"field.nc has no variable 't2'; did you mean 't2m'"),
    ({"variables": ["t2m", "z"]}, DataError, "expected outputs that change over time, got 'z'"),
    ({"auxiliary": ["orography"]}, DataError, "has no variable 'orography'"),
    ({"dims": {"latitude": "y"}}, DataError, "expected a dimension y, got time, latitude, longitude in"),
    ({"path": "nowhere.nc"}, DataError, "got no nowhere.nc: correct the path"),
    ({"path": "nowhere_*.nc"}, DataError, r"got no nowhere_\*.nc: correct the path"),
    ({"path": None}, ConfigError, "set data.path and data.variables"),
    ({"path": "jacksboro"}, DataError, "jacksboro has no variable 't2m'"),
]


@pytest.mark.parametrize(("settings", "kind", "message"), BAD_SETTINGS)
def test_bad_settings_are_typed_errors(write, settings, kind, message):
    with pytest.raises(kind, match=message):
        Field(**{**write(), **settings}).make_batch("train", 0)


def spoilt(case):
    """Fields with one thing wrong."""
    content = field()
    if case == "twice":
        return content.assign_coords(latitude=content.latitude.where(content.latitude != 59, 59.5))
    if case == "shuffled":
        return content.isel(time=[0, 2, 1, *range(3, 24)])
    if case == "bare":
        return content.drop_vars("longitude")
    if case == "text":
        return content.assign(t2m=content.t2m.astype(int).astype(str))
    if case == "empty":
        return content.assign(t2m=content.t2m * np.nan)
    if case == "holes":
        return content.assign(t2m=content.t2m.where(content.latitude % 2 == 1))
    if case == "names":
        return content.assign_coords(longitude=[f"c{n}" for n in range(30)])
    if case == "none":
        return content.isel(time=slice(0))
    return content.isel(latitude=0, drop=True)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("twice", r"ascending or descending coordinates along latitude, got 59.5 at position 2 of .*field.nc: sort"),
        ("shuffled", r"ascending or descending coordinates along time, got 2019-12-30T06.* at position 2 of"),
        ("bare", "expected coordinates along longitude, got none in .*field.nc"),
        ("text", "expected numbers in 't2m' of .*field.nc, got"),
        ("empty", "expected values of 't2m', got none in the training part"),
        ("holes", "expected patches with .* known cells in the train part of .*field.nc, got none in 50 draws"),
        ("names", "expected numbers along longitude, got"),
        ("none", "got an empty dimension in .*field.nc"),
        ("flat", "expected a dimension latitude or lat, got time, longitude in .*field.nc: name it, as dims.latitude"),
    ],
)
def test_bad_fields_are_typed_errors(write, case, message):
    with pytest.raises(DataError, match=message):
        Field(**write(spoilt(case), num_context=(6, 6))).make_batch("train", 0)


@pytest.mark.parametrize("cut", ["text", "half", "tail"])
def test_damaged_files_are_typed_errors(write, tmp_path, cut):
    settings = write()
    content = (tmp_path / "field.nc").read_bytes()
    damaged = {"text": b"time,t2m\n1,2\n", "half": content[: len(content) // 2], "tail": content[:-100]}[cut]
    (tmp_path / "field.nc").write_bytes(damaged)
    with pytest.raises(DataError, match=r"field.nc .*: give one that is whole|damaged file") as error:
        Field(**settings).make_batch("train", 0)
    assert "\n" not in str(error.value)


def test_a_truncated_classic_or_zarr_is_a_typed_error(write, tmp_path):
    settings = write()
    field().drop_vars("z").to_netcdf(tmp_path / "classic.nc", engine="scipy")
    content = (tmp_path / "classic.nc").read_bytes()
    (tmp_path / "classic.nc").write_bytes(content[: len(content) // 2])
    field().to_zarr(tmp_path / "field.zarr", zarr_format=2)
    (tmp_path / "field.zarr" / "t2m" / "0.0.0").write_bytes(b"nothing")
    (tmp_path / "empty").mkdir()
    for name in ("classic.nc", "field.zarr", "empty"):
        with pytest.raises(DataError, match=r"give one that is whole|damaged file"):
            Field(**{**settings, "path": str(tmp_path / name)}).make_batch("train", 0)


def test_files_must_fit_together(write, tmp_path):
    content, settings = field(), write(name="whole.nc")
    content.isel(time=slice(0, 13)).to_netcdf(tmp_path / "part_1.nc", engine="h5netcdf")
    for second, message in (
        (content.isel(time=slice(12, None)), r"do not overlap in time, got .*part_1.nc and .*part_2.nc"),
        (
            content.isel(time=slice(13, None), longitude=slice(5)),
            "another longitude in .*part_2.nc than in .*part_1.nc",
        ),
        (content.isel(time=slice(13, None)).drop_vars("t2m"), "part_2.nc has no variable 't2m'"),
    ):
        second.to_netcdf(tmp_path / "part_2.nc", engine="h5netcdf")
        with pytest.raises(DataError, match=message):
            Field(**{**settings, "path": str(tmp_path / "part_*.nc")}).make_batch("train", 0)
    coarse = {"auxiliary": ["z"], "auxiliary_path": str(tmp_path / "coarse.nc")}
    content.isel(latitude=slice(0, None, 2)).to_netcdf(tmp_path / "coarse.nc", engine="h5netcdf")
    with pytest.raises(DataError, match="on the grid of the field, got 8 values of latitude"):
        Field(**settings, **coarse).make_batch("train", 0)
    content.assign(z=content.t2m).to_netcdf(tmp_path / "coarse.nc", engine="h5netcdf")
    with pytest.raises(DataError, match="expected 'z' of auxiliary_path at one time, got several"):
        Field(**settings, **coarse).make_batch("train", 0)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (stations().drop_vars("latitude"), "expected a latitude and a longitude for each station, got"),
        (stations(t2m=("station", np.zeros(400))), "expected 't2m' on time, station, got none along time"),
        (stations().drop_vars("t2m"), "has no variable 't2m'"),
        (stations().assign_coords(time=np.arange(24)), "expected stations at times of the grid, 2019-12-30"),
        (stations(latitude=("station", np.full(400, np.nan))), "expected finite positions, got none for station 0"),
        (stations(latitude=("station", np.full(400, "north"))), r"expected numbers in 'latitude' of .*stations.nc"),
        (field(), "expected latitude and longitude along one dimension of stations"),
        (
            stations(longitude=("station", np.full(400, 200.0)), latitude=("station", np.zeros(400))),
            "1 measurements of",
        ),
    ],
)
def test_bad_stations_are_typed_errors(write, tmp_path, network, message):
    network.to_netcdf(tmp_path / "stations.nc", engine="h5netcdf")
    with pytest.raises(DataError, match=message):
        Field(**write(stations=str(tmp_path / "stations.nc"), num_context=(1, 6))).make_batch("train", 0)


def test_clocks_need_dates(write):
    content = field().assign_coords(time=np.arange(24))
    with pytest.raises(DataError, match="expected dates for the auxiliary input day_of_year"):
        Field(**write(content, auxiliary=["day_of_year"])).make_batch("train", 0)


def test_xarray_is_an_extra(write, monkeypatch):
    settings = write()
    monkeypatch.setitem(sys.modules, "xarray", None)
    with pytest.raises(ConfigError, match=r"pip install 'npexp\[field\]'"):
        Field(**settings).make_batch("train", 0)
    assert Field().make_batch("train", 0).num_tasks == 16  # what ships needs none
