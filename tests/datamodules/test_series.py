"""Windows of a series: parts that do not overlap in time, units, and what becomes of bad files."""

import numpy as np
import pandas as pd
import pytest
import torch

import datamodules.series
from datamodules import Series
from npexp.errors import ConfigError, DataError
from npexp.scaling import Scaling

SPLITS = ("train", "val", "test")


@pytest.fixture
def make(tmp_path):
    """A series of 600 irregular times whose values are functions of them."""

    def build(times=None, values=None, **settings):
        if times is None:
            times = np.sort(np.random.default_rng(0).uniform(100, 700, 600))
        values = np.sin(times / 5) * 30 + times if values is None else values
        path = tmp_path / "series.csv"
        pd.DataFrame({"time": times, "value": values}).to_csv(path, index=False)
        small = {"window": 30.0, "num_blocks": 2, "num_context": (2, 8), "num_target": (3, 8)}
        return Series(**{"path": str(path), "cache_dir": str(tmp_path), **small, **settings})

    return build


def raw(dm, batch):
    """Times since the beginning of each window and values, `[b, n]`, in the units of the file."""
    x, y = torch.cat([batch.xc, batch.xt], 1).double(), torch.cat([batch.yc, batch.yt], 1).double()
    s = dm.scaling
    return [
        (v * torch.tensor(s[f"{name}_scale"]) + torch.tensor(s[f"{name}_shift"]))[..., 0].numpy()
        for name, v in (("x", x), ("y", y))
    ]


def located(dm, batch):
    """Numbers of the points of a batch, found by their values, which are all different, `[b, n]`."""
    values = dm.points[1]
    found = abs(raw(dm, batch)[1][..., None] - values).argmin(-1)
    np.testing.assert_allclose(values[found], raw(dm, batch)[1], rtol=1e-5)
    return found


@pytest.mark.parametrize("num_blocks", [1, 2, 3])
def test_parts_do_not_overlap_in_time(make, num_blocks):
    dm = make(num_blocks=num_blocks)
    times, part = dm.points[0], dm.part
    changes = np.flatnonzero(np.diff(part))
    assert part[np.r_[changes, len(part) - 1]].tolist() == [0, 1, 2] * num_blocks  # stretches one after the other
    shares = np.bincount(part) / len(part)
    np.testing.assert_allclose(shares, [0.6, 0.2, 0.2], atol=0.06)
    block = (times[-1] - times[0]) / num_blocks
    into = (times - times[0]) % block / block
    assert (part[:-1] == np.digitize(into[:-1], [0.6, 0.8])).all()


def test_windows_lie_in_their_part(make):
    dm, seen = make(), {}
    times = dm.points[0]
    for split, part in zip(SPLITS, range(3), strict=True):
        numbers = [located(dm, dm.make_batch(split, i)) for i in range(30)]
        seen[split] = {n for batch in numbers for n in batch.ravel().tolist()}
        assert {dm.part[n] for n in seen[split]} == {part}
        assert all(np.ptp(times[rows], axis=1).max() <= 30 for rows in numbers)
        assert len(seen[split]) > 0.7 * (dm.part == part).sum()
        # no window reaches from one stretch of a part to the next one of the same part
        assert all(len(set(np.searchsorted(np.flatnonzero(np.diff(dm.part)), row))) == 1 for b in numbers for row in b)
    assert not seen["train"] & seen["val"] and not seen["val"] & seen["test"] and not seen["train"] & seen["test"]


def test_inputs_are_times_since_the_beginning(make):
    dm = make()
    times = dm.points[0]
    for index in range(10):
        batch = dm.make_batch("train", index)
        assert batch.xc.min() >= -2 and max(batch.xc.max(), batch.xt.max()) <= 2
        numbers, (since, _) = located(dm, batch), raw(dm, batch)
        begin = times[numbers] - since  # the same for all points of a window, and itself the time of a point
        assert np.ptp(begin, axis=1).max() < 1e-3
        assert abs(begin[:, :1] - times).min(1).max() < 1e-3
        assert all(len(set(row)) == len(row) for row in numbers)  # no point twice


def test_every_window_with_enough_points_is_one(make):
    """A naive count, window by window."""
    dm, ends = make(), dict.fromkeys(SPLITS, 0)
    times, stretch = dm.points[0], np.r_[0, np.diff(dm.part) != 0].cumsum()
    for i, begin in enumerate(times):
        inside = (times >= begin) & (times <= begin + 30)
        last = times[stretch == stretch[i]][-1]
        ends[SPLITS[dm.part[i]]] += begin + 30 <= last and inside.sum() >= 16
    assert {split: dm.num_windows(split) for split in SPLITS} == ends


def test_scaling_is_that_of_the_training_part(make):
    dm = make()
    times, values = dm.points
    scaling = Scaling.make(dm.scaling, 1, 1)  # what a checkpoint takes
    own = torch.from_numpy(values[dm.part == 0])[:, None]
    assert scaling.y(own).mean().abs() < 1e-12 and scaling.y(own).std(correction=0) == pytest.approx(1)
    assert scaling.x(torch.tensor([[0.0], [15.0], [30.0]])).flatten().tolist() == [-2, 0, 2]
    changed = values + 1000 * (dm.part > 0)
    assert make(times, changed).scaling == dm.scaling  # the other parts have no say


def test_a_constant_series_is_possible(make):
    assert make(values=np.full(600, 5.0)).scaling["y_scale"] == [1.0]


def test_rows_may_come_in_any_order(make):
    dm = make()
    order = np.random.default_rng(1).permutation(600)
    mixed = make(dm.points[0][order], dm.points[1][order])
    assert torch.equal(mixed.make_batch("train", 0).yt, dm.make_batch("train", 0).yt)


def test_another_content_is_another_cache_file(make):
    times = np.linspace(100, 700, 600)
    one = make(times).cache_file("test")
    assert make(times).cache_file("test") == one
    assert make(times, np.cos(times)).cache_file("test") != one
    assert make(times, window=31.0).cache_file("test") != one


def test_plot_tasks(make):
    dm = make()
    tasks = dm.plot_tasks(3)
    assert [task.batch.xc.shape[1] for task in tasks] == [4, 5, 6]
    for task, again in zip(tasks, make().plot_tasks(3), strict=True):
        batch = task.batch.check()
        assert torch.equal(batch.yc, again.batch.yc) and task.kind == "curve" and torch.equal(task.truth, batch.yt)
        assert batch.xt[0, 0] == -2 and (batch.xt.diff(dim=1) > 0).all() and batch.xt.shape[1] >= 16
        assert set(located(dm, batch)[0]) <= set(np.flatnonzero(dm.part == 1))


def test_carbon_dioxide():
    dm = Series()
    times, values = dm.points
    assert len(times) == 2225 and (times[0].round(2), times[-1].round(2)) == (1958.24, 2001.99)
    assert (np.diff(times) > 0.017).all()  # a week or more apart
    assert values.min() == 313.0 and values.max() == 373.9
    years = np.array([values[(times >= y) & (times < y + 1)].mean() for y in range(1970, 2002)])
    assert (np.diff(years) > 0).all()  # it rises, by one to two parts per million a year
    assert min(dm.num_windows(split) for split in SPLITS) > 100
    for split in SPLITS:
        batch = dm.make_batch(split, 0).check()
        assert batch.num_tasks == 16 and batch.xt.shape[1] == 40 and 3 <= batch.xc.shape[1] <= 40
        assert batch.yt.abs().max() < 3
    assert "Keeling" in datamodules.series.Path(datamodules.series.__file__).with_name("co2.csv").read_text()[:600]


def test_sunspots():
    dm = Series("sunspots", window=40.0, num_blocks=1, num_context=(3, 25), num_target=(15, 15))
    times, values = dm.points
    assert times.tolist() == list(range(1700, 2009)) and values.min() == 0 and values.max() == 190.2
    assert values[times == 1957] == 190.2 and values.mean().round(2) == 49.75
    spectrum = abs(np.fft.rfft(values - values.mean()))
    assert 309 / spectrum.argmax() == pytest.approx(11, abs=0.3)  # years per cycle
    assert [dm.num_windows(split) for split in SPLITS] == [145, 22, 22]  # from 1700, 1885 and 1947 on
    source = datamodules.series.Path(datamodules.series.__file__).with_name("sunspots.csv").read_text()
    assert "National Geophysical Data Center" in source[:300]


@pytest.mark.parametrize(
    "settings",
    [
        {"window": 0.0},
        {"window": float("nan")},
        {"num_blocks": 0},
        {"val_fraction": 0.0},
        {"val_fraction": 0.5, "test_fraction": 0.5},
    ],
)
def test_bad_settings_are_typed_errors(make, settings):
    with pytest.raises(ConfigError, match=r"expected .* got"):
        make(**settings)


@pytest.mark.parametrize("settings", [{"window": 1.0}, {"window": 400.0}, {"num_blocks": 60}])
def test_windows_must_have_enough_points(make, settings):
    with pytest.raises(ConfigError, match=r"at least 16 points in the \w+ part"):
        make(**settings).make_batch("train", 0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "correct the path"),
        ("date,value\n1,2\n", r"no column 'time' in .*bad\.csv"),
        ("time,value\n", "empty table"),
        ("time,value\n1,2\n2,\n", r"row 2 of .*bad\.csv has no value in column 'value'"),
        ("time,value\n1,2\n2,inf\n", r"'value' is infinite in row 2 of .*bad\.csv"),
        ("time,value\n1958-03-29,2\n", r"expected a number in column 'time', row 1 of .*, got '1958-03-29'"),
        ("time,value\n1,2\n1,2,3,4\n", r"expected a CSV file, got .*bad\.csv \(Error tokenizing"),
        ("time,value\n1,2,3\n2,3,4\n", r"got rows with more values in .*bad\.csv"),  # pandas would shift the columns
        ("time,value\n3,2\n3,4\n", "one time only"),
    ],
)
def test_bad_files_are_typed_errors(tmp_path, content, message):
    path = tmp_path / "bad.csv"
    path.write_text("# a comment\n" + content)
    with pytest.raises(DataError, match=message) as error:
        Series(str(path)).make_batch("train", 0)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_a_typed_error():
    for use in (lambda dm: dm.make_batch("train", 0), lambda dm: dm.cache_file("val")):
        with pytest.raises(DataError, match="correct the path"):
            use(Series("nowhere.csv"))
