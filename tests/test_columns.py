"""Raw columns to numbers and back, and predictions by the columns' own names."""

import numpy as np
import pandas as pd
import pytest
import torch

import npexp
from npexp.columns import Column, Columns, Place, days, kind_of, words
from npexp.errors import ConfigError, DataError
from npexp.predict_files import predict_arrays, predict_table

DAY, SKY = Column("day", "date"), Column("sky", "category", ("rain", "sun"))
JOINT = Columns("station", (DAY, SKY), ("t", "p"))
SEPARATE = JOINT._replace(separate=((10.0, 1000.0), (2.0, 5.0)))
TABLE = pd.DataFrame(
    {
        "station": ["a", "a", "b", "b"],
        "day": ["2020-01-01", "2020-01-03 12:00", "2020-01-02", "2020-01-04"],
        "sky": ["sun", "rain", "rain", "sun"],
        "t": [8.0, 12.0, 10.0, np.nan],
        "p": [1000.0, np.nan, 990.0, np.nan],
    }
)
PLACE = Place("f.csv")
DATES = [18262.0, 18264.5, 18263.0, 18265.0]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, 2], "number"),
        ([1.5, None], "number"),
        ([True, False], "number"),
        (["1", "2", "x"], "number"),
        (["2020-01-01", "2020-01-02T03:04:05+02:00"], "date"),
        (pd.to_datetime(["2020-01-01"]), "date"),
        ([pd.Timestamp("2020-01-01").date()], "date"),
        (["2020-01-01", "2020-01-02", "soon"], "date"),
        (["red", "blue"], "category"),
        (pd.Categorical([1, 2]), "category"),
        (["31.12.2024", "01.01.2025"], "date"),
        (["31-Dec-24", "1-Jan-25"], "date"),
        (["1,5", "1.234,5"], "number"),
        (["item 12-345", "A-1-22"], "category"),
    ],
)
def test_kinds(values, kind):
    assert kind_of(pd.Series(values)) == kind


def test_whole_numbers_are_dates_where_a_format_says_so():
    written = pd.Series([20201231, 20210101])
    assert (kind_of(written), kind_of(written, "%Y%m%d")) == ("number", "date")
    assert kind_of(pd.Series([5, 6]), "%Y%m%d") == "number"
    np.testing.assert_allclose(days(written, PLACE, "%Y%m%d"), [18627, 18628])


def test_dates_are_days_in_utc():
    written = pd.Series(["1970-01-02", "1970-01-01T12:00:00", "1970-01-01T02:00:00+02:00", "1969-12-31 23:59:59"])
    np.testing.assert_allclose(days(written, PLACE), [1.0, 0.5, 0.0, -1 / 86400], atol=1e-12)
    np.testing.assert_allclose(days(pd.Series(["31.12.1970"]), PLACE, "%d.%m.%Y"), [364.0])


def test_whole_numbers_are_words_without_a_point():
    assert words(pd.Series([1.0, 20.0]), PLACE).tolist() == ["1", "20"] == words(pd.Series([1, 20]), PLACE).tolist()
    assert words(pd.Series([1.5, 20.0]), PLACE).tolist() == ["1.5", "20.0"]


def test_inputs_and_points():
    x, y = SEPARATE.inputs(TABLE, PLACE), SEPARATE.outputs(TABLE, PLACE)
    np.testing.assert_allclose(x, np.column_stack([DATES, [0, 1, 1, 0], [1, 0, 0, 1]]))
    assert SEPARATE.observed(y, PLACE).tolist() == [2, 1, 2, 0]
    px, py, rows = SEPARATE.points(x, y)
    assert rows.tolist() == [0, 0, 1, 2, 2] and px.shape == (5, SEPARATE.dx) and SEPARATE.dy == 1
    np.testing.assert_allclose(py[:, 0], [-1, 0, 1, 0, -2])
    np.testing.assert_allclose(px[:, 3:], [[1, 0], [0, 1], [1, 0], [1, 0], [0, 1]])
    np.testing.assert_allclose(px[:, :3], x[rows])
    targets = SEPARATE.targets(x[:2])
    np.testing.assert_allclose(targets[:, 3:], np.tile(np.eye(2), (2, 1)))
    np.testing.assert_allclose(SEPARATE.values(np.array([[[1.0], [1.0], [0.0], [-1.0]]])), [[[12, 1005], [10, 995]]])
    np.testing.assert_allclose(SEPARATE.values(np.ones((1, 4, 1)), spread=True), [[[2, 5], [2, 5]]])


def test_plain_data_and_back():
    for columns in (JOINT, SEPARATE, JOINT._replace(task=None, relative=True, date_format="%Y")):
        again = Columns.make(columns.plain())
        assert again == columns and not any(isinstance(v, tuple) for v in columns.plain().values())
    assert npexp.registry.is_plain(SEPARATE.plain())
    for bad in ({}, None, {**JOINT.plain(), "x": [{"name": "a", "kind": "colour", "levels": []}]},
                {**JOINT.plain(), "separate": [[1.0], [1.0]]}, {**JOINT.plain(), "z": 1}):  # fmt: skip
        with pytest.raises(ConfigError, match="description of a table's columns"):
            Columns.make(bad)


def predictor(columns):
    torch.manual_seed(0)
    model = npexp.build("cnp", dx=columns.dx, dy=columns.dy, dz=8)
    ends = {"x_shift": [18260.0] + (columns.dx - 1) * [0.0], "x_scale": [3.0] + (columns.dx - 1) * [1.0]}
    if columns.relative:
        ends["x_shift"][0] = 0.0
    units = ([10.0, 1000.0], [2.0, 5.0]) if columns.dy == 2 else ([0.0], [1.0])
    scaling = {**ends, "y_shift": units[0], "y_scale": units[1]}
    return npexp.Predictor(model, scaling=scaling, columns=columns.plain())


def test_predictions_by_the_columns_own_names():
    """Against the model itself, with what it should get, spelt out."""
    table = TABLE.assign(p=[1000.0, 995.0, 990.0, np.nan])
    p = predictor(JOINT)
    found = predict_table(p, table, None, None, None, [0.5])
    assert list(found) == ["station", "day", "sky", "t_mean", "t_stddev", "t_q0.5", "p_mean", "p_stddev", "p_q0.5"]
    xc, yc = torch.tensor([[[(18263.0 - 18260) / 3, 1.0, 0.0]]]), torch.tensor([[[0.0, -2.0]]])
    with torch.no_grad():
        law = p.model(xc, yc, torch.tensor([[[(18265.0 - 18260) / 3, 0.0, 1.0]]]))
    np.testing.assert_allclose(
        found[["t_mean", "p_mean"]], law.mean[0] * torch.tensor([2.0, 5.0]) + torch.tensor([10.0, 1000.0]), rtol=1e-5
    )
    np.testing.assert_allclose(found[["t_stddev", "p_stddev"]], law.stddev[0] * torch.tensor([2.0, 5.0]), rtol=1e-5)
    other = table.rename(columns={"day": "date", "sky": "weather", "t": "temp"})
    again = predict_table(p, other, None, ["date", "weather"], ["temp", "p"], [0.5])
    np.testing.assert_allclose(again.temp_mean, found.t_mean)


def test_predictions_of_outputs_seen_at_different_places():
    p = predictor(SEPARATE)
    targets = TABLE.loc[[3, 0], ["station", "day", "sky"]]
    found = predict_table(p, TABLE, targets, None, None, [])
    assert list(found.station) == ["b", "a"] and list(found.index) == [3, 0]
    xc = torch.tensor([[[1.0, 1, 0, 1, 0], [1.0, 1, 0, 0, 1]]])
    xt = torch.tensor([[[5 / 3, 0, 1, 1, 0], [5 / 3, 0, 1, 0, 1]]])
    with torch.no_grad():
        law = p.model(xc, torch.tensor([[[0.0], [-2.0]]]), xt)
    expected = law.mean[0, :, 0] * torch.tensor([2.0, 5.0]) + torch.tensor([10.0, 1000.0])
    np.testing.assert_allclose(found.loc[3, ["t_mean", "p_mean"]].astype(float), expected, rtol=1e-5)
    np.testing.assert_allclose(
        found.loc[3, ["t_stddev", "p_stddev"]].astype(float), law.stddev[0, :, 0] * torch.tensor([2.0, 5.0]), rtol=1e-5
    )


def test_relative_predictions_forget_the_date():
    p = predictor(SEPARATE._replace(relative=True))
    found = predict_table(p, TABLE, None, None, None, [])
    later = TABLE.assign(day=pd.to_datetime(TABLE.day, format="ISO8601") + pd.Timedelta(days=1000))
    np.testing.assert_allclose(predict_table(p, later, None, None, None, []).t_mean, found.t_mean, rtol=1e-6)
    # Row 4 holds no value, so that it is no point and not the latest one of b.
    with_gap, without = (predict_table(p, t, TABLE[2:], None, None, []) for t in (TABLE, TABLE[:3]))
    np.testing.assert_allclose(with_gap.t_mean, without.t_mean, rtol=1e-6)
    with pytest.raises(DataError, match=r"task 'c' has no context.*measures 'day' from the latest"):
        predict_table(p, TABLE, TABLE.iloc[:1].assign(station="c"), None, None, [])


@pytest.mark.parametrize("columns", [JOINT, SEPARATE, SEPARATE._replace(relative=True)])
def test_predictions_far_from_what_was_trained_on_say_so(capsys, columns):
    targets = TABLE[["station", "day", "sky"]].assign(day=["2020-01-05", "2020-01-06", "2031-01-01", "2020-01-07"])
    context = TABLE.assign(p=TABLE.p.fillna(1000.0)).dropna()
    predict_table(predictor(columns), context, targets, None, None, [])
    error = capsys.readouterr().err
    assert "warning: 1 of 4 rows to predict" in error and "first row 3 of --targets" in error
    predict_table(predictor(columns), context, targets.drop(2), None, None, [])
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    ("context", "targets", "message"),
    [
        (
            TABLE.assign(sky=["sun", "hail", "rain", "sun"]),
            None,
            "unknown category 'hail' in column 'sky', row 2 of --context",
        ),
        (
            TABLE,
            TABLE.assign(sky="fog"),
            "unknown category 'fog' in column 'sky', row 1 of --targets; known: rain, sun",
        ),
        (TABLE.assign(day="never"), None, "date in column 'day', row 4 of --context"),
        (TABLE.drop(columns="sky"), None, "no column 'sky' in --context"),
        (TABLE.drop(columns="p"), None, "no column 'p' in --context"),
        (TABLE.assign(t=["1", "2", "?", None]), None, "number in column 't', row 3 of --context, got '\\?'"),
        (
            TABLE.assign(station=["a", "a", None, "b"]),
            None,
            "row 3 of --context has no task: fill in the column 'station'",
        ),
        (TABLE, TABLE.drop(columns="station"), "a column 'station' in both tables"),
    ],
)
def test_mistakes_in_tables(context, targets, message):
    with pytest.raises(DataError, match=message):
        predict_table(predictor(SEPARATE), context, targets, None, None, [])


def test_other_mistakes():
    with pytest.raises(DataError, match=r"row 2 of --context has no value in column 'p'.*outputs: separate"):
        predict_table(predictor(JOINT), TABLE, None, None, None, [])
    with pytest.raises(DataError, match=r"2 columns of inputs, got 1: day"):
        predict_table(predictor(JOINT), TABLE, None, ["day"], None, [])
    with pytest.raises(ConfigError, match=r"the inputs day, sky: give a .csv"):
        predict_arrays(predictor(JOINT), {}, [])
    with pytest.raises(ConfigError, match="columns make 3 inputs and 2 outputs, the model has 1 and 1"):
        npexp.Predictor(npexp.build("cnp", dx=1, dy=1, dz=8), columns=JOINT.plain())
