"""Reading studies: tables, exports and what is said when there is nothing to read."""

import csv
import json
import subprocess
import sys

import optuna
import pytest
import yaml

from npexp.errors import ConfigError
from npexp.sweep import reading
from npexp.sweep.table import front, published, row, short, state
from tests.sweep.studies import BOUND, LR, MEMORY, NUM_LATENTS, SECONDS, accuracy, costs, study, trial

ROW = ["trial", "state", "loglik_joint", "num_latents", "lr", "mixer", "seconds", "MiB"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder of runs with two studies, "toy" of one metric and "toy3" of three."""
    folder = tmp_path_factory.mktemp("runs")
    for name, several in (("toy", False), ("toy3", True)):
        (folder / name).mkdir()
        study(several, storage=f"sqlite:///{folder / name / 'study.db'}", name=name)
    return folder


def at(runs, *words):
    return [*words, "--runs_dir", str(runs)]


def cells(text, width):
    """The rows of the first printed table that have `width` cells, by their first one."""
    rows = [line.strip().split(maxsplit=width - 1) for line in text.splitlines()]
    return {cut[0]: cut for cut in reversed(rows) if len(cut) == width}


def test_status_shows_every_trial(runs, capsys):
    assert reading.status(at(runs, "toy")) == 0
    shown = capsys.readouterr().out
    found = cells(shown, len(ROW))
    assert found["trial"] == ROW
    m = 33  # of trial 1
    assert float(found["1"][2]) == pytest.approx(accuracy(m, 10**-2.6), abs=1e-5)
    assert found["1"][:2] + found["1"][3:] == ["1", "complete", "33", "0.0025119", "dense", "48", "632"]
    assert f"trial 4: {MEMORY} {costs(120)[MEMORY] - BOUND:.0f} above its bound" in shown.splitlines()
    assert "trial 13: exit status 1: ValueError" in shown.splitlines()
    assert shown.splitlines()[0] == "toy, 14 trials: 8 complete, 1 failed, 3 infeasible, 2 pruned"


def test_status_as_json_is_the_study(runs, capsys):
    reading.status(at(runs, "toy", "--json"))
    found = json.loads(capsys.readouterr().out)
    assert found["counts"] == {"complete": 8, "infeasible": 3, "pruned": 2, "failed": 1}
    made = study()
    assert [t["number"] for t in found["trials"]] == list(range(14))
    for i, shown in enumerate(found["trials"]):
        assert shown[NUM_LATENTS] == made.trials[i].params[NUM_LATENTS]
        assert shown[SECONDS] if i < 13 else SECONDS not in shown
        assert shown["folder"] == f"toy/trial_{i:04}"
    assert found["trials"][13]["why"] == "exit status 1: ValueError"
    assert found["trials"][13]["val/loglik_joint"] is None


def test_best_is_the_best_that_keeps_the_constraints(runs, capsys):
    made = study()
    kept = [t for t in made.trials if t.state.name == "COMPLETE" and costs(t.params[NUM_LATENTS])[MEMORY] <= BOUND]
    winner = max(kept, key=lambda t: t.value)
    assert winner.value < max(t.value for t in made.trials if t.value is not None)  # an infeasible one is better
    assert [t.number for t in front(made)] == [winner.number] == [7]
    assert published(made).number == 0
    reading.best(at(runs, "toy"))
    shown = capsys.readouterr().out
    assert cells(shown, 3)["val/loglik_joint"] == ["val/loglik_joint", f"{winner.value:.5g}", "0.4"]
    assert cells(shown, 3)[NUM_LATENTS] == [NUM_LATENTS, "82", "64"]
    assert cells(shown, 3)["state"] == ["state", "complete", "complete"]
    assert f"folder: {runs}/toy/trial_0007" in shown
    assert shown.splitlines()[-1].startswith("npexp fit --config experiment/gp_rbf_cnp --config trainer/quiet --best")


def test_several_metrics_have_a_front(runs, capsys):
    made = study(several=True)
    done = [t for t in made.trials if state(t) == "complete"]

    def beats(a, b):
        better = a.values[0] >= b.values[0], a.values[1] <= b.values[1], a.values[2] <= b.values[2]
        return all(better) and a.values != b.values

    expected = [t.number for t in done if not any(beats(other, t) for other in done)]
    assert {t.number for t in front(made)} == set(expected)
    values = [t.values[0] for t in front(made)]
    assert values == sorted(values, reverse=True)
    reading.best(at(runs, "toy3"))
    shown = capsys.readouterr().out
    assert [line.split()[0] for line in shown.splitlines() if line.strip()[:1].isdigit()] == [
        str(t.number) for t in front(made)
    ]


def test_best_of_a_trial_that_is_named(runs, capsys, tmp_path):
    reading.best(at(runs, "toy", "--trial", "1", "--write", str(tmp_path / "one.yaml")))
    assert "trial 1 of toy; npexp fit --config" in capsys.readouterr().out
    content = yaml.safe_load((tmp_path / "one.yaml").read_text())
    assert content["model"]["net"]["init_args"]["num_latents"] == 33
    with pytest.raises(ConfigError, match="has trials 0 to 13, got --trial 14"):
        reading.best(at(runs, "toy", "--trial", "14"))


def test_nothing_feasible_is_said(tmp_path):
    (tmp_path / "toy").mkdir()
    study(num_trials=1, storage=f"sqlite:///{tmp_path / 'toy' / 'study.db'}")
    with pytest.raises(ConfigError, match="no feasible complete trial yet; its trials: 1 failed"):
        reading.best(at(tmp_path, "toy"))


def test_export_has_a_row_per_trial(runs, tmp_path):
    reading.export(at(runs, "toy", "--out", str(tmp_path / "toy.csv")))
    reading.export(at(runs, "toy", "--out", str(tmp_path / "toy.json")))
    with (tmp_path / "toy.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    plain = json.loads((tmp_path / "toy.json").read_text())
    made = study()
    assert len(table) == len(plain) == len(made.trials)
    for found, same, t in zip(table, plain, made.trials, strict=True):
        assert float(found[LR]) == same[LR] == t.params[LR]
        assert found["state"] == same["state"] == state(t)
        assert found["val/loglik_joint"] == ("" if t.value is None else repr(t.value))
        assert same["started"] == t.datetime_start.isoformat()
    with pytest.raises(ConfigError, match=r"to be a .csv or .json file"):
        reading.export(at(runs, "toy", "--out", "toy.txt"))
    with pytest.raises(ConfigError, match="cannot write"):
        reading.export(at(runs, "toy", "--out", str(tmp_path / "none" / "toy.csv")))


def test_a_snapshot_is_the_study_while_it_runs():
    made = study()
    made.enqueue_trial({NUM_LATENTS: 7})
    made.ask({NUM_LATENTS: optuna.distributions.IntDistribution(4, 128, log=True)})
    made.enqueue_trial({NUM_LATENTS: 8})
    names = [SECONDS]
    same = reading.snapshot(made)
    assert [row(t, names) for t in same.trials] == [row(t, names) for t in made.trials]
    assert [state(t) for t in same.trials[-2:]] == ["running", "waiting"]
    assert [row(t, names)[NUM_LATENTS] for t in same.trials[-2:]] == [7, 8]
    assert (same.study_name, same.directions, same.user_attrs) == (made.study_name, made.directions, made.user_attrs)


def test_numbers_that_json_has_no_word_for_are_null(tmp_path, capsys):
    (tmp_path / "toy").mkdir()
    made = study(num_trials=0, storage=f"sqlite:///{tmp_path / 'toy' / 'study.db'}")
    made.add_trial(optuna.trial.create_trial(value=float("inf")))
    reading.status(at(tmp_path, "toy", "--json"))
    assert json.loads(capsys.readouterr().out)["trials"][0]["val/loglik_joint"] is None


def test_plot_writes_and_says_what(runs, tmp_path, capsys):
    reading.plot(at(runs, "toy", "--out", str(tmp_path)))
    done = capsys.readouterr()
    names = done.out.strip().partition(": ")[2].split(", ")
    assert {path.name for path in tmp_path.iterdir()} == {*names, "plotly.min.js"}
    assert done.err == ""


def test_a_study_that_is_not_there_is_not_made(runs, tmp_path):
    with pytest.raises(ConfigError, match=r"no study 'toi'.*did you mean 'toy'"):
        reading.status(at(runs, "toi"))
    assert not (runs / "toi").exists()
    with pytest.raises(ConfigError, match="holds none: see npexp sweep --help"):
        reading.status(at(tmp_path, "toy"))
    with pytest.raises(ConfigError, match="no study 'toy'"):
        reading.status(at(runs, "toy", "--storage", f"journal:{tmp_path / 'none.log'}"))
    assert not (tmp_path / "none.log").exists()
    with pytest.raises(ConfigError, match=r"there is no study 'other' in .*; known: toy"):
        reading.status(at(runs, "other", "--storage", f"sqlite:///{runs / 'toy' / 'study.db'}"))
    with pytest.raises(ConfigError, match="needs STUDY or --config FILE, one of them"):
        reading.status(at(runs))


def test_a_study_by_its_file(tmp_path, capsys):
    (tmp_path / "latents").mkdir()
    study(storage=f"sqlite:///{tmp_path / 'latents' / 'study.db'}", name="latents")
    reading.status(at(tmp_path, "--config", "latents"))
    assert "latents, 14 trials: 8 complete" in capsys.readouterr().out


def test_a_study_of_another_program_is_refused(tmp_path):
    (tmp_path / "toy").mkdir()
    optuna.create_study(study_name="toy", storage=f"sqlite:///{tmp_path / 'toy' / 'study.db'}")
    with pytest.raises(ConfigError, match="was not made by npexp sweep"):
        reading.status(at(tmp_path, "toy"))


def test_out_of_memory_and_lost_workers_have_words():
    sweep = study(num_trials=0).user_attrs["sweep"]
    full = trial(5, 14, sweep)
    full.set_constraint("memory", 1e9)
    assert (full.state.name, state(full)) == ("PRUNED", "out of memory")
    lost = trial(13, 14, sweep)
    del lost.user_attrs["why"]
    assert row(lost, sweep["metrics"])["why"] == "its worker is gone"


def test_short_names_tell_options_apart():
    options = ["model.net.init_args.dz", "data.init_args.dz", "model.optimizer.init_args.lr", "lr", "a.b"]
    assert short(options) == {
        "model.net.init_args.dz": "net.init_args.dz",
        "data.init_args.dz": "data.init_args.dz",
        "model.optimizer.init_args.lr": "init_args.lr",
        "lr": "lr",
        "a.b": "b",
    }


def test_reading_leaves_torch_alone(runs, tmp_path):
    code = f"""
import sys
from npexp.sweep import reading
where = ["toy", "--runs_dir", {str(runs)!r}]
reading.status(where)
reading.best([*where, "--write", {str(tmp_path / "best.yaml")!r}])
reading.export([*where, "--out", {str(tmp_path / "toy.csv")!r}])
sys.exit(" ".join({{"torch", "lightning", "matplotlib", "scipy"}} & set(sys.modules)) or None)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
