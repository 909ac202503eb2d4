"""What the tests of tables and fields, and those of their errors, share."""

import pytest

from datamodules import Frame
from tests.datamodules.fields import field, small
from tests.datamodules.frames import weather


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a data set as NetCDF and gives the settings of a small source of tasks from it."""

    monkeypatch.setattr("datamodules.field.TRIES", 50)

    def build(content=None, name="field.nc", **settings):
        path = tmp_path / name
        if content is not None or not path.exists():
            (field() if content is None else content).to_netcdf(path, engine="h5netcdf")
        return {"path": str(path), "cache_dir": str(tmp_path), **small(), **settings}

    return build


@pytest.fixture
def make(tmp_path):
    """A Frame on a table; written to CSV unless it is to be a DataFrame."""

    def build(table=None, name="weather.csv", **settings):
        table = weather() if table is None else table
        path = tmp_path / name
        if isinstance(table, bytes):
            path.write_bytes(table)
        elif name.endswith(".csv"):
            table.to_csv(path, index=False)
        elif name.endswith(".parquet"):
            table.to_parquet(path, index=False, row_group_size=settings.pop("row_group_size", 30))
        small = {"num_context": (1, 5), "num_target": (1, 5), "cache_dir": str(tmp_path)}
        given = str(path) if name != "DataFrame" else table
        return Frame(given, **{"task": "station", "x": "day", "y": "t", **small, **settings})

    return build
