"""Which folders are runs, which runs are replicates, and which tests were on the same tasks."""

import json

import numpy as np
import pytest

from npexp.errors import ConfigError, DataError
from npexp.report.finished import Finished, find, group, same_tasks, shared
from npexp.run_files import write_arrays
from tests.report.folders import make, tasks


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Two seeds of cnp, one of tnp, and a run that was never tested."""
    monkeypatch.chdir(tmp_path)
    for seed in range(2):
        make(tmp_path / f"runs/cnp/{seed}", seed=seed, dz=8)
    make(tmp_path / "runs/tnp/0", model="tnp")
    (tmp_path / "runs/new/0").mkdir(parents=True)
    (tmp_path / "runs/new/0/config.yaml").write_text("name: new\n")
    return tmp_path / "runs"


@pytest.mark.parametrize(
    ("places", "found"),
    [
        (["runs/cnp/1"], ["cnp/1"]),
        (["runs/cnp"], ["cnp/0", "cnp/1"]),
        (["runs/?np"], ["cnp/0", "cnp/1", "tnp/0"]),
        (["runs/tnp", "runs"], ["tnp/0", "cnp/0", "cnp/1"]),
    ],
)
def test_places(runs, places, found):
    tested, waiting = find(places)
    assert [run.folder.relative_to("runs").as_posix() for run in tested] == found
    assert waiting == (["runs/new/0"] if places[-1] == "runs" else [])


def test_versions_in_the_order_of_their_numbers(tmp_path):
    for version in (10, 9, 2):
        make(tmp_path / f"cnp/{version}", seed=version)
    assert [run.folder.name for run in find([str(tmp_path)])[0]] == ["2", "9", "10"]


@pytest.mark.parametrize("place", ["runs/new", "runs/nothing", "nowhere*"])
def test_no_run(runs, place):
    with pytest.raises(ConfigError, match=r"expected a tested run in .*npexp test first"):
        find([place])


@pytest.mark.parametrize("content", ["{", "[]", '{"test/loglik_joint": "x"}', '{"test/loglik_joint": 1.0}'])
def test_bad_results(runs, content):
    (runs / "tnp/0/test_metrics.json").write_text(content)
    with pytest.raises(DataError, match=r"test_metrics.json.*run npexp test again"):
        find(["runs/tnp"])


def test_replicates_differ_in_nothing_but_the_seed(runs):
    make(runs / "wide/0", seed=0, dz=16)
    make(runs / "wide/1", seed=1, dz=16)
    make(runs / "other/0", data="gp_matern")
    families, remarks = group(find(["runs"])[0])
    assert not remarks and list(families) == ["gp_rbf", "gp_matern"]
    rows = {row.label: [run.facts["seed"] for run in row.runs] for row in families["gp_rbf"]}
    assert rows == {"cnp (dz 8)": [0, 1], "cnp (dz 16)": [0, 1], "tnp": [0]}


def test_the_newest_of_the_same_settings_and_seed_counts(runs):
    make(runs / "cnp/2", seed=1, dz=8)
    families, remarks = group(find(["runs/cnp"])[0])
    assert [run.folder.name for run in families["gp_rbf"][0].runs] == ["0", "2"]
    assert remarks == [
        "runs/cnp/1 (100 steps) is left out: runs/cnp/2 (100 steps) has the same settings and the same seed"
    ]
    families, _ = group(find(["runs/cnp/2", "runs/cnp/1"])[0])  # whatever comes first
    assert [run.folder.name for run in families["gp_rbf"][0].runs] == ["2"]


def test_averaged_weights_and_other_callbacks_make_another_model(tmp_path):
    for i, decay in enumerate([None, 0.9, 0.99]):
        ema = {"class_path": "lightning.pytorch.callbacks.EMAWeightAveraging", "init_args": {"decay": decay}}
        make(tmp_path / f"{i}/0", config={"trainer.callbacks": [ema] if decay else None})
    families, remarks = group(find([str(tmp_path)])[0])
    labels = [row.label for row in families["gp_rbf"]]
    assert not remarks
    assert labels == ["cnp", *(f"cnp (EMAWeightAveraging True, decay {decay})" for decay in (0.9, 0.99))]


def test_labels_are_unique(tmp_path):
    make(tmp_path / "0/0")
    make(tmp_path / "1/0", likelihood="joint")
    make(tmp_path / "2/0", config={"model.net.init_args.left.dz": 8, "model.net.init_args.right.dz": 16})
    make(tmp_path / "3/0", config={"model.net.init_args.right.dz": 8})
    families, _ = group(find([str(tmp_path)])[0])
    assert [row.label for row in families["gp_rbf"]] == [
        "cnp (likelihood factorised)",
        "cnp (likelihood joint)",
        "cnp (likelihood factorised, left.dz 8, right.dz 16)",
        "cnp (likelihood factorised, right.dz 8)",
    ]


def test_where_many_settings_differ_or_none_is_known_the_folder_tells(tmp_path):
    make(tmp_path / "0/0", a=1, b=2, c=3, d=4)
    make(tmp_path / "1/0", a=2)
    (make(tmp_path / "2/0", model="tnp") / "config.yaml").unlink()
    make(tmp_path / "3/0", model="tnp", a=1)
    (make(tmp_path / "4/0", model="np") / "config.yaml").unlink()
    families, _ = group(find([str(tmp_path)])[0])
    assert [row.label for row in families["gp_rbf"]] == [
        f"cnp ({tmp_path}/0/0)", "cnp (a 2)", f"tnp ({tmp_path}/2/0)", "tnp", "np"
    ]  # fmt: skip


def test_time_and_memory(runs):
    run = Finished(runs / "cnp/0")
    assert run.seconds == pytest.approx(100 * 16 / 100) and run.memory == 310.5
    text = (runs / "cnp/0/config.yaml").read_text()
    (runs / "cnp/0/config.yaml").write_text(text.replace("devices: 1", "devices: 2\n  accumulate_grad_batches: 3"))
    assert Finished(runs / "cnp/0").seconds == pytest.approx(6 * 16)
    (runs / "cnp/0/config.yaml").write_text(text + "global_batch_size: 64\n")
    assert Finished(runs / "cnp/0").seconds == pytest.approx(64)
    (runs / "cnp/0/metrics.csv").unlink()
    run = Finished(runs / "cnp/0")
    assert np.isnan(run.seconds) and np.isnan(run.memory)


def test_scores_of_another_test_are_refused(runs):
    file = runs / "tnp/0/test_metrics.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {"test/loglik_joint": content["test/loglik_joint"] + 1e-3}))
    with pytest.raises(DataError, match="two tests: run npexp test again"):
        _ = Finished(runs / "tnp/0").tasks


def test_infinite_scores_are_of_one_test(runs):
    """JSON has no word for infinity: the mean is null there."""
    file, table = runs / "tnp/0/test_metrics.json", tasks(0)
    table["loglik_joint"][3] = -np.inf
    write_arrays(runs / "tnp/0/test_tasks.npz", {f"test/{k}": v for k, v in table.items()})
    file.write_text(json.dumps(json.loads(file.read_text()) | {"test/loglik_joint": None}))
    assert Finished(runs / "tnp/0").tasks["test"]["loglik_joint"][3] == -np.inf


@pytest.mark.parametrize("name", ["tasks", "examples"])
def test_a_broken_file_says_so(runs, name):
    (runs / f"tnp/0/test_{name}.npz").write_bytes(b"PK\x03\x04broken")
    with pytest.raises(DataError, match=f"cannot read .*test_{name}.npz .*run npexp test again"):
        getattr(Finished(runs / "tnp/0"), name)


def test_tasks_are_known_by_place_size_and_outputs():
    a, b = tasks(seed=0), tasks(seed=1)
    assert same_tasks(a, b) == ""
    fewer = {name: values[:6] for name, values in b.items()}
    assert same_tasks(a, fewer) == "" and [len(x) for x in shared(a, fewer)] == [6, 6]
    order = np.random.default_rng(0).permutation(len(a["batch"]))
    here, there = shared(a, {name: values[order] for name, values in b.items()})
    np.testing.assert_array_equal(order[there], here)
    assert "num_target" in same_tasks(a, b | {"num_target": b["num_target"] + (b["batch"] == 2)})
    assert "outputs" in same_tasks(a, b | {"y_mean": b["y_mean"] + 1e-3})
    assert "no place" in same_tasks(a, b | {"batch": b["batch"] + 5})
    assert same_tasks(a, tasks(seed=0, data_seed=1)) != ""
