"""Fields that cannot be: settings, files and stations are refused with what is wrong and where."""

import sys

import numpy as np
import pytest

from datamodules import Field
from npexp.errors import ConfigError, DataError, UnknownNameError
from tests.datamodules.fields import field, stations

BAD_SETTINGS = [
    ({"patch": [4, 5]}, ConfigError, r"expected patch as times, rows and columns"),
    ({"patch": [1, 1, 1]}, ConfigError, r"not all 1, got \[1, 1, 1\]"),
    ({"patch": [1, 2, 2]}, ConfigError, "at most the 4 cells of a patch, got 12"),
    ({"patch": [1, 17, 5]}, ConfigError, r"train part to hold patches of 1 x 17 x 5 cells .* got 14 x 16 x 30"),
    ({"num_blocks": 20}, ConfigError, "the train part to hold patches|the val part to hold patches"),
    ({"split_by": "height"}, UnknownNameError, "unknown key of split_by 'height'"),
    ({"mirrored": ["longitud"]}, UnknownNameError, "unknown key of mirrored 'longitud'"),
    ({"mirrored": ["longitude"], "relative": False}, ConfigError, "expected relative=true where patches are mirrored"),
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
