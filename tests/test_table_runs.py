"""A table and a few options: from `npexp fit` to predictions in the table's own columns and units."""

import json
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from npexp.cli import main
from npexp.config import conf_dir
from npexp.errors import ConfigError
from npexp.runs import complete

# Lightning's types for optimisers and schedules are of the kind that beartype calls old.
pytestmark = pytest.mark.filterwarnings("ignore:.*PEP 484 type hint.* deprecated by PEP 585")

OPTIONS = ["--data.path=my.csv", "--data.task=station", "--data.x=time", "--data.y=[t, p]"]
SMALL = ["--model.net=CNP", "--model.net.dz=8", "--trainer.max_steps=4", "--trainer.enable_progress_bar=false",
         "--data.cache_dir=cache", "--data.max_eval_tasks=2", "--figures.num_tasks=0"]  # fmt: skip


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a table: 8 stations, hourly and half a kelvin apart, pressures far from zero."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["npexp"])
    rng, number = np.random.default_rng(0), np.arange(80)
    table = pd.DataFrame(
        {
            "station": [f"s{i // 10}" for i in number],
            "time": pd.Timestamp("2024-06-01") + pd.to_timedelta(number % 10, unit="h"),
            "t": 290 + rng.normal(size=80) / 2,
            "p": 1e5 + 300 * rng.normal(size=80),
        }
    )
    table.to_csv("my.csv", index=False)
    return tmp_path


def configurations(words, command="fit"):
    start = complete(command, words)
    places = [w for option, w in zip(start.words, start.words[1:], strict=False) if option == "--config"]
    return [p.removeprefix(f"{conf_dir()}/").removesuffix(".yaml") for p in places], start.run.name


def test_options_alone_mean_a_table(here):
    recipe = ["base", "model/rmnp_hybrid", "data/frame", "experiment/frame_rmnp_hybrid"]
    assert configurations(OPTIONS) == (recipe, "my")
    assert configurations([*OPTIONS, "--name=other"]) == (recipe, "other")
    assert configurations([*OPTIONS, "--config=model/tnp"]) == (["base", "data/frame", "model/tnp"], "my")
    assert configurations([*OPTIONS, "--model.net=CNP"]) == (["base", "data/frame"], "my")
    assert configurations([*OPTIONS, "--config=trainer/cpu"])[0] == [
        "base",
        "model/rmnp_hybrid",
        "data/frame",
        "trainer/cpu",
    ]
    named = [*OPTIONS, "--config=model/cnp", "--config=data/frame"]
    assert configurations(named) == (["base", "model/cnp", "data/frame"], "frame_cnp")


def test_other_data_stay_what_they_are(here):
    assert "data/frame" not in configurations(["--config=experiment/gp_rbf_cnp", "--data.batch_size=2"])[0]
    assert "data/frame" not in configurations(["--config=model/cnp", "--data=GPData", "--data.batch_size=2"])[0]
    with pytest.raises(ConfigError, match="fit needs --config"):
        complete("fit", ["--trainer.max_steps=2"])


def test_from_a_table_to_predictions(here, capsys):
    assert main(["fit", *OPTIONS, *SMALL]) == 0
    assert "on frame; folder runs/my/0" in capsys.readouterr().out
    table = pd.read_csv("my.csv", parse_dates=["time"])
    checkpoint = torch.load("runs/my/0/checkpoints/best.ckpt", weights_only=True)
    assert [c["kind"] for c in checkpoint["columns"]["x"]] == ["date"] and checkpoint["columns"]["task"] == "station"
    assert checkpoint["scaling"]["y_scale"] == pytest.approx([0.5, 300], rel=0.3)

    context = table.assign(t=table.t.where(table.time.dt.hour < 7), p=table.p.where(table.time.dt.hour < 7))
    context.to_csv("context.csv", index=False)
    assert main(["predict", "--ckpt_path=runs/my", "--context=context.csv", "--out=out.csv", "--quantiles", "0.5"]) == 0
    found = pd.read_csv("out.csv", parse_dates=["time"])
    assert list(found) == ["station", "time", "t_mean", "t_stddev", "t_q0.5", "p_mean", "p_stddev", "p_q0.5"]
    assert len(found) == 24 and (found.time.dt.hour >= 7).all()
    assert found.t_mean.between(288, 292).all() and found.p_mean.between(9.8e4, 1.02e5).all()
    assert found.t_stddev.between(0.05, 5).all() and found.p_stddev.between(30, 3000).all()

    # The run is found by the table's name, and scored on the table it knows.
    assert main(["test", "--data.path=my.csv"]) == 0
    scores = json.loads((here / "runs/my/0/test_metrics.json").read_text())
    assert scores["data"] == "frame" and "test/rmse" in scores
    table.assign(t=table.t + 50).to_csv("my.csv", index=False)
    capsys.readouterr()
    assert main(["test", "--ckpt_path=runs/my"]) == 2
    assert "scaled otherwise than the one this run was trained on" in capsys.readouterr().err


def test_outputs_at_different_places_from_end_to_end(here):
    table = pd.read_csv("my.csv")
    table.loc[::2, "t"], table.loc[1::3, "p"] = np.nan, np.nan
    table.to_parquet("my.parquet", row_group_size=20)
    options = ["--data.path=my.parquet", *OPTIONS[1:], "--data.outputs=separate", "--data.max_rows=40",
               "--data.split=time", "--data.split_at=[2024-06-01 05:00, 2024-06-01 07:00]",
               "--data.policy=forecast", "--data.num_target=[1, 3]"]  # fmt: skip
    assert main(["fit", *options, *SMALL]) == 0
    table.iloc[:5].to_csv("context.csv", index=False)
    table[["station", "time"]].iloc[5:9].to_csv("targets.csv", index=False)
    words = ["--context=context.csv", "--targets=targets.csv", "--out=out.parquet", "--quantiles"]
    assert main(["predict", "--ckpt_path=runs/my", *words]) == 0
    found = pd.read_parquet("out.parquet")
    assert list(found) == ["station", "time", "t_mean", "t_stddev", "p_mean", "p_stddev"] and len(found) == 4
    assert found.t_mean.between(285, 295).all() and found.p_mean.between(9.7e4, 1.03e5).all()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--data.path=none.csv", "there is no file none.csv"),
        ("--data.polcy=forecast", "did you mean 'policy'"),
    ],
)
def test_mistakes_are_one_line_and_leave_no_run(here, capsys, option, message):
    try:
        status = main(["fit", *OPTIONS, *SMALL, "--name=x", option])
    except SystemExit as stop:  # the parser leaves so
        status = stop.code
    assert status == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("npexp: ") and error.count("\n") == 1
    assert not (here / "runs/x").exists()


def test_the_list_of_data_needs_no_table(monkeypatch):
    import npexp.registry

    monkeypatch.setattr(npexp.registry, "names", lambda group: ["frame"])
    found = npexp.available_data()["frame"]
    assert found["dx"] is None and found["description"].startswith("A table of your own")
