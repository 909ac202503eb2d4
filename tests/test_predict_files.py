"""Tables and arrays in, predictions out, and a line for everything that cannot be."""

import numpy as np
import pandas as pd
import pytest

import npexp
from npexp.errors import ConfigError, DataError
from npexp.predict_files import check_output, predict_arrays, predict_table, write_table

LEVELS = [0.1, 0.9]


@pytest.fixture(scope="module")
def predictor():
    return npexp.Predictor(npexp.build("cnp", dx=1, dy=1, dz=8))


def table(**columns) -> pd.DataFrame:
    return pd.DataFrame(columns)


CONTEXT = table(task=["a", "a", "b"], x=[0.0, 1.0, 2.0], y=[1.0, 2.0, 3.0])


def test_a_task_may_have_no_context(predictor):
    targets = table(task=["c", "a", "c"], x=[0.5, 0.5, 1.5])
    found = predict_table(predictor, CONTEXT, targets, None, None, LEVELS)
    assert list(found.task) == ["c", "a", "c"] and found.notna().all(axis=None)
    empty = predictor.predict(predictor.condition(np.zeros((0, 1)), np.zeros((0, 1))), np.array([0.5, 1.5]))
    np.testing.assert_allclose(found.y_mean[[0, 2]], empty.mean[0, :, 0].numpy(), rtol=1e-6)
    # Nothing at all is known.
    rows = table(x=[0.5], y=[np.nan])
    assert len(predict_table(predictor, rows, None, None, None, LEVELS)) == 1


@pytest.mark.parametrize(
    ("context", "targets", "message"),
    [
        (CONTEXT, table(task=["a", None], x=[0.5, 1.0]), "row 2 of --targets has no task"),
        (CONTEXT.assign(task=["a", None, "b"]), table(task=["a"], x=[0.5]), "row 2 of --context has no task"),
        (CONTEXT.assign(task=["a", "b", None], y=[1, 1, np.nan]), None, "row 3 of --context has no task"),
        (CONTEXT, table(x=[0.5]), "in both tables or in neither"),
        (CONTEXT, table(task=[1], x=[0.5]), "numbers in one table and words in the other"),
        (CONTEXT, None, "nothing to predict"),
        (CONTEXT, table(task=["a"], z=[0.5]), "no column 'x'"),
    ],
)
def test_mistakes_in_tables(predictor, context, targets, message):
    with pytest.raises(DataError, match=message):
        predict_table(predictor, context, targets, None, None, LEVELS)


@pytest.mark.parametrize("nc", [0, 4])
def test_arrays_of_one_task_and_of_several(predictor, nc):
    many = {name: np.random.default_rng(0).normal(size=(2, n, 1)) for name, n in (("xc", nc), ("yc", nc), ("xt", 3))}
    found = predict_arrays(predictor, many, LEVELS)
    assert found["mean"].shape == (2, 3, 1) and found["quantiles"].shape == (2, 2, 3, 1)
    one = predict_arrays(predictor, {name: values[1] for name, values in many.items()}, LEVELS)
    np.testing.assert_allclose(one["mean"], found["mean"][1], rtol=1e-5)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((4, 1), (4,), (3, 1)), r"\[n, d\].*yc \[4\]"),
        (((1, 4, 1), (4, 1), (3, 1)), r"\[b, n, d\].*xc \[1, 4, 1\]"),
        (((0, 4, 1), (0, 4, 1), (0, 3, 1)), "at least one task"),
        (((2, 4, 1), (2, 4, 1), (3, 3, 1)), "2, 2 and 3"),
    ],
)
def test_mistakes_in_arrays(predictor, shapes, message):
    arrays = {name: np.zeros(shape) for name, shape in zip(("xc", "yc", "xt"), shapes, strict=True)}
    with pytest.raises(DataError, match=message):
        predict_arrays(predictor, arrays, LEVELS)
    with pytest.raises(DataError, match="found xc, yc: xt missing"):
        predict_arrays(predictor, {"xc": arrays["xc"], "yc": arrays["yc"]}, LEVELS)


def test_an_output_is_tried_before_it_is_made(tmp_path):
    path = tmp_path / "new" / "out.csv"
    check_output(str(path))
    assert not any(path.parent.iterdir())
    (tmp_path / "file").touch()
    for bad in ("file/out.csv", "out.txt", "new"):
        with pytest.raises(ConfigError, match="--out"):
            check_output(str(tmp_path / bad))
    with pytest.raises(ConfigError, match="cannot write"):
        write_table(str(tmp_path / "file/out.csv"), CONTEXT)
