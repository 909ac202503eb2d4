"""Fields: every way a file may be written gives the same tasks, and parts share no cell."""

from datetime import date

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from scipy.stats import chisquare

from datamodules import Field
from npexp.errors import ConfigError, DataError
from npexp.scaling import Scaling
from tests.datamodules.fields import SHAPE, SPLITS, field, located, raw, same, stations


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


def test_training_patches_are_turned_over_and_nothing_else_is(write):
    settings = {"patch": [2, 4, 6], "batch_size": 400, "num_test_batches": 1}
    plain, mirrored = (Field(**write(**settings, mirrored=axes)) for axes in ([], ["latitude", "longitude"]))
    before, after = (dm.make_batch("train", 0) for dm in (plain, mirrored))
    ratio = torch.cat([after.xc, after.xt], 1) / torch.cat([before.xc, before.xt], 1)
    sides = ratio[:, :1]
    assert torch.equal(ratio, sides.expand_as(ratio)) and torch.equal(sides[..., 0], torch.ones(400, 1))
    ways = torch.unique(sides[:, 0, 1:], dim=0, return_counts=True)
    assert ways[0].tolist() == [[-1, -1], [-1, 1], [1, -1], [1, 1]] and chisquare(ways[1].numpy()).pvalue > 1e-3
    assert torch.equal(after.yc, before.yc) and torch.equal(after.yt, before.yt)
    assert torch.equal(plain.make_batch("test", 0).xt, mirrored.make_batch("test", 0).xt)


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
    assert {task.kind for task in dm.plot_tasks(2)} == {"parity"}  # two outputs are no picture


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
    assert {task.kind for task in Field(**write(patch=[2, 4, 5])).plot_tasks(2)} == {"parity"}
    gaps = field().assign(t2m=field().t2m.where(field().latitude % 2 != 0))
    assert {task.kind for task in Field(**write(gaps, "gaps.nc")).plot_tasks(2)} == {"parity"}


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
