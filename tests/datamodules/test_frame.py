"""Tables as tasks: parts that share no rows, units from training rows alone, and streams."""

import inspect

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from datamodules import Frame
from datamodules.store import Store
from npexp.config import conf_dir
from tests.datamodules.frames import ROWS, SPLITS, TASKS, temperatures, weather


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


def test_several_inputs_are_drawn_as_observed_against_predicted(make):
    dm = make(x=["day", "sky"])
    tasks = dm.plot_tasks(3)
    assert {task.kind for task in tasks} == {"parity"} and {task.kind for task in make().plot_tasks(3)} == {"curve"}
    assert len({temperatures(dm, task.batch.check())[0].tobytes() for task in tasks}) == 3
    all_of_them = make(x=["day", "sky"], num_draws=2, max_eval_tasks=2, num_target=(4, 5)).plot_tasks(9)
    assert len({task.batch.yt.numpy().tobytes() for task in all_of_them}) == len(all_of_them) == 4


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
