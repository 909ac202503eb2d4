"""Tables as tasks: parts that share no rows, units from training rows alone, streams, and what becomes of bad files."""

import inspect

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from datamodules import Frame
from datamodules.store import Store
from npexp.config import conf_dir
from npexp.errors import ConfigError, DataError, UnknownNameError

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


def batches(dm, split, num=20):
    return [dm.make_batch(split, i).check() for i in range(num if split == "train" else dm.num_batches(split))]


def rows_of(dm, table, split, part="both", num=20):
    """Numbers of the table's rows that batches of a split hold, by their temperatures."""
    number = {round(t, 4): i for i, t in enumerate(table.t)}
    return [
        number[t] for b in batches(dm, split, num) for y in temperatures(dm, b, part) for t in np.unique(y).tolist()
    ]


@pytest.mark.parametrize(("split", "owner"), [("task", "station"), ("group", "region")])
def test_no_task_or_group_is_in_two_parts(make, split, owner):
    table = weather().sample(frac=1, random_state=0).reset_index(drop=True)  # rows in any order
    dm = make(table, group="region" if split == "group" else None, num_context=(3, 5), num_target=(5, 7))
    seen = {s: set(table[owner].iloc[rows_of(dm, table, s)]) for s in SPLITS}
    assert sum(map(len, seen.values())) == table[owner].nunique() == len(set.union(*seen.values()))
    shares = {"task": [14, 3, 3], "group": [6, 2, 2]}[split]  # 15 % of 20 stations or 10 regions
    assert [len(seen[s]) for s in SPLITS] == shares
    assert [dm.num_tasks(s) for s in SPLITS] == ([14, 3, 3] if split == "task" else [12, 4, 4])
    for b in batches(dm, "val"):
        assert all(table.station[table.t.round(4).isin(y)].nunique() == 1 for y in temperatures(dm, b))


def test_the_division_depends_on_names_and_seed_only(make):
    table = weather()
    turned = table.iloc[::-1].reset_index(drop=True)
    found = [set(t.station.iloc[rows_of(make(t), t, "test")]) for t in (table, turned)]
    assert found[0] == found[1]
    assert any(set(table.station.iloc[rows_of(make(seed=s), table, "test")]) != found[0] for s in (1, 2))


@pytest.mark.parametrize("policy", ["random", "forecast", "gap", "extrapolation"])
def test_time_divides_rows_and_only_forecasts_reach_back(make, policy):
    table = weather()
    at = ["2020-01-07", "2020-01-10"]
    dm = make(table, split="time", split_at=at, policy=policy, num_context=(1, 4), num_target=(1, 2))
    ends = [pd.Timestamp("1900-01-01"), *map(pd.Timestamp, at), pd.Timestamp("2100-01-01")]
    for number, split in enumerate(SPLITS):
        low, high = ends[number], ends[number + 1]
        targets, both = (table.day.iloc[rows_of(dm, table, split, p, num=6)] for p in ("t", "both"))
        assert targets.between(low, high).all()
        assert both.max() < high and (both.min() < low) == (policy == "forecast" and split != "train")
    train = table[table.day < at[0]]
    assert dm.scaling["y_shift"][0] == pytest.approx(train.t.mean())
    assert dm.scaling["y_scale"][0] == pytest.approx(train.t.std(ddof=0))


def test_time_is_divided_by_shares(make):
    table = weather()
    dm = make(table, split="time", val_fraction=0.3, test_fraction=0.2, num_context=(1, 1), num_target=(1, 1))
    span = (table.day - table.day.min()) / (table.day.max() - table.day.min())
    for split, low, high in (("train", 0, 0.5), ("val", 0.5, 0.8), ("test", 0.8, 1)):
        assert span.iloc[rows_of(dm, table, split)].between(low, high).all()


def test_units_come_from_training_tasks_alone(make):
    table = weather()
    train = table.station.isin(table.station.iloc[rows_of(make(table), table, "train")])
    table.loc[~train, ["t", "p"]] *= 1e6
    dm, own = make(table, y=["t", "p"]), table[train]
    days = (own.day - pd.Timestamp("1970-01-01")) / pd.Timedelta(days=1)
    expected = {"x": days.to_frame(), "y": own[["t", "p"]]}
    for letter, values in expected.items():
        np.testing.assert_allclose(dm.scaling[f"{letter}_shift"], values.mean(), rtol=1e-9)
        np.testing.assert_allclose(dm.scaling[f"{letter}_scale"], values.std(ddof=0), rtol=1e-6)


def test_inputs_of_three_kinds(make):
    table = weather()
    dm = make(table, x=["day", "sky", "code"], categories="code", num_context=(4, 4), num_target=(4, 4))
    assert (dm.dx, dm.dy) == (6, 1)
    assert [c["levels"] for c in dm.columns["x"]] == [[], ["rain", "snow", "sun"], ["7", "8"]]
    number = {round(t, 4): i for i, t in enumerate(table.t)}
    for b in batches(dm, "train", 5):
        for x, y in zip(b.xc, temperatures(dm, b, "c"), strict=True):
            rows = table.iloc[[number[round(float(t), 4)] for t in y]]
            days = (rows.day - pd.Timestamp("1970-01-01")) / pd.Timedelta(days=1)
            np.testing.assert_allclose(x[:, 0] * dm.scaling["x_scale"][0] + dm.scaling["x_shift"][0], days, rtol=1e-6)
            hot = np.column_stack([rows.sky == s for s in ("rain", "snow", "sun")] + [rows.code == c for c in (7, 8)])
            np.testing.assert_array_equal(x[:, 1:].numpy(), hot)


def test_outputs_observed_at_different_places(make):
    table = weather()
    rng = np.random.default_rng(1)
    gone = rng.random((len(table), 2)) < 0.4
    table.loc[gone[:, 0], "t"], table.loc[gone[:, 1], "p"] = np.nan, np.nan
    dm = make(table, y=["t", "p"], outputs="separate")
    assert (dm.dx, dm.dy) == (3, 1) and dm.scaling["y_scale"] == [1.0]
    shift, scale = np.array(dm.columns["separate"])
    stations = [rows[["t", "p"]].to_numpy() for _, rows in table.groupby("station")]
    for station, values in enumerate(stations):
        x, y = dm._store.task(station)
        assert (x[:, 1:].sum(1) == 1).all()
        for k in range(2):
            found = y[x[:, 1 + k] == 1, 0] * scale[k] + shift[k]
            np.testing.assert_allclose(np.sort(found), np.sort(values[~np.isnan(values[:, k]), k]))
    train = table[table.station.isin(table.station.unique()[dm._views["train"].task])]
    np.testing.assert_allclose(shift, train[["t", "p"]].mean())
    np.testing.assert_allclose(scale, train[["t", "p"]].std(ddof=0))
    y = torch.cat([b.yt[slice(None) if b.mask_t is None else b.mask_t].flatten() for b in batches(dm, "train")])
    assert abs(float(y.mean())) < 0.2 and 0.8 < float(y.std()) < 1.2


def test_headings_and_tasks_of_any_type(make):
    table = weather()[["station", "day", "t"]]
    table = table.assign(station=np.repeat(np.array([0, "0", *range(1, 19)], dtype=object), ROWS))
    dm = make(table.set_axis([0, 1, 2], axis=1), name="DataFrame", task="0", x="1", y="2")
    assert sum(dm.num_tasks(s) for s in SPLITS) == TASKS - 1  # 0 and "0" are one


def test_a_missing_output_is_no_point_of_its_own(make):
    table = weather()
    table.loc[::3, "t"] = np.nan
    dm = make(table, outputs="separate")
    assert (dm.dx, dm.dy) == (1, 1) and dm._store.start[-1] == table.t.notna().sum()


def test_relative_inputs_forget_the_date(make):
    table = weather()
    later = table.assign(day=table.day + pd.Timedelta(days=7000))
    pair = [make(t, relative=True, policy="forecast", name="DataFrame") for t in (table, later)]
    assert pair[0].scaling["x_scale"] == pytest.approx(pair[1].scaling["x_scale"], rel=1e-6)
    for a, b in zip(*(batches(dm, "val") for dm in pair), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
        latest = a.xc[..., 0].masked_fill(~a.mask_c, -9) if a.mask_c is not None else a.xc[..., 0]
        assert (latest.max(1).values == 0).all()
        assert (a.xt[..., 0] > 0)[slice(None) if a.mask_t is None else a.mask_t].all()
    x = torch.cat(
        [b.xt[..., 0][slice(None) if b.mask_t is None else b.mask_t].flatten() for b in batches(pair[0], "train")]
    )
    assert 0.1 < float(x.std()) < 2


@pytest.mark.parametrize(("policy", "outputs"), [("random", "separate"), ("forecast", "joint")])
def test_a_stream_gives_what_memory_gives(make, policy, outputs):
    """Tasks that cross row groups, rows of a task in any order; 8 row groups of 30 rows for tasks of 12."""
    table = weather().sample(frac=1, random_state=0).sort_values("station", kind="stable")
    settings = {"y": ["t", "p"], "x": ["day", "sky"], "policy": policy, "outputs": outputs, "num_draws": 2}
    loaded, streamed = (make(table, "a.parquet", max_rows=n, **settings) for n in (10_000, 60))
    assert (loaded._source.num_pieces, streamed._source.num_pieces) == (1, 8)
    for key, values in loaded.scaling.items():
        np.testing.assert_allclose(values, streamed.scaling[key], rtol=1e-12)
    for split in ("val", "test"):
        for a, b in zip(batches(loaded, split), batches(streamed, split), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(
        *(np.concatenate([dm._store.task(i)[1] for i in range(TASKS)]) for dm in (loaded, streamed))
    )


def test_a_stream_reads_the_row_groups_it_needs(make):
    dm = make(weather(), "a.parquet", max_rows=120)  # at most 4 of 8 groups of 30 rows
    source, kept = dm._source, dm._store
    for task, new in ((0, 1), (1, 0), (7, 2), (0, 0), (12, 2), (0, 0), (7, 2)):  # tasks 7 and 12 lie in two groups
        before = source.reads
        kept.task(task)
        assert source.reads == before + new
        assert sum(len(x) for x, _ in kept._kept.values()) <= 120
    for stretch in range(3):
        before = source.reads
        for index in range(0, 64, 7):
            dm.make_batch("train", 64 * stretch + index)
        assert source.reads - before <= 4  # those of the stretch and those that tasks reach into
    seen = [t for i in range(40) for y in temperatures(dm, dm.make_batch("train", 64 * i)) for t in y]
    assert len(set(seen)) > 0.9 * 14 * ROWS  # everything in time


def test_all_training_tasks_are_equally_likely_in_a_stream(make):
    dm = make(weather(), "a.parquet", max_rows=120)
    drawn = [dm._train_numbers(np.random.default_rng(i), 64 * i) for i in range(1000)]
    counts = np.bincount(np.concatenate(drawn), minlength=14)
    assert counts.min() > 0.8 * counts.mean() and counts.max() < 1.2 * counts.mean()


def test_evaluation_sets_are_fixed_and_spread(make):
    dm = make(num_draws=3, max_eval_tasks=2, batch_size=4)
    assert dm.num_batches("val") == 2
    assert [b.num_tasks for b in batches(dm, "val")] == [4, 2]
    again = make(num_draws=3, max_eval_tasks=2, batch_size=4)
    torch.testing.assert_close(batches(dm, "val"), batches(again, "val"), rtol=0, atol=0)


def test_the_yaml_says_what_the_constructor_does():
    settings = yaml.safe_load((conf_dir() / "data/frame.yaml").read_text())["data"]["init_args"]
    defaults = {name: p.default for name, p in inspect.signature(Frame).parameters.items() if name != "cache_dir"}
    assert {k: list(v) if isinstance(v, tuple) else v for k, v in defaults.items()} == settings


def test_the_cache_knows_the_content(make):
    table, other = weather(), weather()
    other.loc[0, "t"] += 1
    for name in ("weather.csv", "DataFrame"):
        files = {make(t, name).cache_file("val") for t in (table, table.copy(), other)}
        assert len(files) == 2


def test_one_long_series_is_divided_by_time(make):
    table = weather().iloc[: ROWS * 3]
    table = table.assign(day=np.arange(len(table)) * 1.0)
    dm = make(table, task=None, policy="forecast", num_context=(2, 4), num_target=(1, 2))
    assert dm.split == "time" and dm.relative and [dm.num_tasks(s) for s in SPLITS] == [1, 1, 1]
    task = dm.plot_tasks(2)[0].batch.check()
    torch.testing.assert_close(task.xt[:, : task.xc.shape[1]], task.xc)
    assert task.num_tasks == 1 and (task.xt[0, task.xc.shape[1] :] > 0).all()
    assert len({float(task.batch.yt.sum()) for task in dm.plot_tasks(6)}) > 3  # draws of their own of the one task


def test_figures_are_of_one_input(make):
    assert len(make().plot_tasks(3)) == 3 and make(x=["day", "sky"]).plot_tasks(3) == []


def test_repeated_inputs_are_ordinary(make):
    table = weather().assign(day=1.0)
    table.loc[::2, "day"] = 2.0
    assert batches(make(table), "val")
    again = pd.concat([table, table.iloc[:5]])
    assert batches(make(again, repeats=True), "val")


def test_a_pickled_stream_opens_its_file_again(make):
    import pickle

    dm = make(weather(), "a.parquet", max_rows=60)
    copy: Store = pickle.loads(pickle.dumps(dm._store))
    np.testing.assert_array_equal(copy.task(3)[1], dm._store.task(3)[1])


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
