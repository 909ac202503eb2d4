"""The command line as its users meet it: help, lists, mistakes, and whole runs."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from npexp.cli import COMMANDS, main
from npexp.config import config_names, expand
from npexp.run_files import read_rows
from tests.datamodules import samples

# Lightning's types for optimisers and schedules are of the kind that beartype calls old.
pytestmark = pytest.mark.filterwarnings("ignore:.*PEP 484 type hint.* deprecated by PEP 585")

TINY = """
trainer:
  accelerator: cpu
  max_steps: 12
  val_check_interval: 5
  log_every_n_steps: 2
  enable_progress_bar: false
model:
  net:
    class_path: npexp.models.CNP
    init_args: {dz: 8}
data:
  class_path: datamodules.GPData
  init_args:
    kernel: {class_path: datamodules.RBF}
    test_kernels: {periodic: {class_path: datamodules.Periodic}}
    batch_size: 2
    steps_per_epoch: 7
    num_val_batches: 2
    num_test_batches: 2
    cache_dir: cache
last: {every_n_train_steps: 4}
figures: {num_tasks: 1}
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with a tiny experiment in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["npexp"])
    (tmp_path / "tiny.yaml").write_text(TINY)
    return tmp_path


def run(*words: str) -> int:
    """The exit status of a command; the parser leaves by SystemExit."""
    try:
        return main(words)
    except SystemExit as stop:
        return stop.code


def test_help_lists_every_command_and_is_fast():
    start = time.perf_counter()
    result = subprocess.run([sys.executable, "-m", "npexp", "--help"], capture_output=True, text=True, check=True)
    assert time.perf_counter() - start < 2.0  # 0.1 s on an idle machine
    assert all(f"  {name} " in result.stdout for name in COMMANDS)
    code = "import sys, npexp.cli; npexp.cli.main(['--help']); print({'torch', 'lightning'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.endswith("set()\n")


def test_a_reader_who_has_seen_enough_ends_the_command_quietly():
    command = [sys.executable, "-m", "npexp", "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()  # as `| head` does
        process.stdout = None
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (128 + signal.SIGPIPE, "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fti"], "did you mean 'fit'"),
        (["fit"], "needs --config"),
        (["fit", "--config", "experiment/gp_rbf_cmnp"], "gp_rbf_cmanp"),
        (["models", "--jsn"], "did you mean '--json'"),
        (["predict", "--context", "a.csv"], "required: --ckpt_path, --out"),
    ],
)
def test_light_mistakes(here, capsys, words, message):
    assert run(*words) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("npexp: ") and error.count("\n") == 1


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--model.net.num_latentz=3", "did you mean 'num_latents'"),
        ("--trainer.max_stepz=3", "did you mean 'trainer.max_steps'"),
        ("--trainer.max_step=3", "did you mean 'trainer.max_steps'"),  # no abbreviations
        ("--trainer.max_steps=x", "trainer.max_steps expects int, got 'x'"),
        ("--model.net=CMANPP", "did you mean 'CMANP'"),
        ("--data=GPDat", "did you mean 'GPData'"),
        ("--model.optimizer=Adamm", "did you mean 'Adam'"),
        ("--model.optimizer.lr=x", "float, got 'x'"),
        ("--data.batch_size=0", "at least 1, got 0"),
        ("--model.objective=elbow", "expects 'loglik', 'elbo'"),
        ("--model.objective=elbo", "needs a latent-variable model"),
        ("--trainer.accelerator=abacus", "invalid accelerator"),
        ("--trainer.val_check_interval=100", "before its first validation"),
        ("--config=wrong.yaml", "did you mean 'trainer.max_steps'"),
    ],
)
def test_mistakes_in_settings(here, capsys, option, message):
    (here / "wrong.yaml").write_text("trainer: {max_step: 3}")
    assert run("fit", "--config", "tiny.yaml", option) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("npexp: ") and error.count("\n") == 1
    assert not (here / "runs").exists() or not any((here / "runs").iterdir())


def test_a_run_from_fit_to_predict(here, capsys):
    assert run("fit", "--config", "tiny.yaml") == 0
    folder = here / "runs" / "tiny" / "0"
    assert "folder runs/tiny/0" in capsys.readouterr().out
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    rows = read_rows(folder / "metrics.csv")
    assert list(rows) == [1, 3, 4, 5, 7, 9, 11]
    assert {"train/loss", "train/gradient_norm", "train/learning_rate", "perf/tasks_per_second"} <= rows[1].keys()
    assert "val/loglik_joint" in rows[4]
    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 12 and checkpoint["hyper_parameters"]["net"]["init_args"]["dx"] == 1

    config = (folder / "config.yaml").read_text()
    assert run("test", "--config", "tiny.yaml") == 0
    out = capsys.readouterr().out
    assert "test_periodic" in out and "±" in out
    found = json.loads((folder / "test_metrics.json").read_text())
    assert found["model"] == "CNP" and found["data"] == "GPData" and found["seed"] == 0
    assert not any(isinstance(value, (dict, list)) for value in found.values()) and "torch 2." in found["versions"]
    assert found["steps"] in (5, 10) and found["parameters"] > 0
    assert found["command"] == "npexp test --config tiny.yaml"
    assert {"test/loglik_joint", "test/loglik_joint_sem", "test_periodic/rmse"} <= found.keys()

    # What a report needs is beside it: the scores of each task, whose means these are, and a few predictions.
    with np.load(folder / "test_tasks.npz") as tasks:
        assert tasks["test_periodic/batch"].tolist() == [0, 0, 1, 1] and tasks["test/coverage"].shape == (4, 19)
        assert tasks["test/crps"].mean() == pytest.approx(found["test/crps"])
        assert np.sqrt(tasks["test/mse"].mean()) == pytest.approx(found["test/rmse"])
    with np.load(folder / "test_examples.npz") as examples:
        assert {"0/panel/xc", "0/panel/mean", "0/panel/stddev", "0/panel/truth"} <= set(examples)
    assert (folder / "figures" / "predictions-curve.png").is_file()
    assert (found["likelihood"], found["dy"]) == ("factorised", 1)
    assert run("report", "--diff", "runs/tiny", "runs/tiny/0") == 0
    assert "0.0000 ± 0.0000" in capsys.readouterr().out

    # Without a --config the run's own is used; testing leaves it alone, and the result is the same.
    assert run("test", "--ckpt_path", "runs/tiny/0/checkpoints/best.ckpt") == 0
    again = json.loads((folder / "test_metrics.json").read_text())
    assert {k: v for k, v in again.items() if k != "command"} == {k: v for k, v in found.items() if k != "command"}
    assert run("validate", "--name", "tiny") == 0
    assert (folder / "config.yaml").read_text() == config and sorted(p.name for p in folder.parent.iterdir()) == ["0"]

    # A test may decode in another way than the model does by itself; what was trained stays as it is.
    assert run("test", "--config", "tiny.yaml", "--model.decoding.order=random", "--model.energy_score=false") == 0
    decoded = json.loads((folder / "test_metrics.json").read_text())
    assert "order random" in decoded["decoding"] and "test/energy_score" not in decoded
    assert decoded["likelihood"] == "joint"
    assert decoded["test/loglik_marginal"] == pytest.approx(found["test/loglik_marginal"], rel=1e-6)
    assert abs(decoded["test/loglik_joint"] - found["test/loglik_joint"]) > 1e-6
    assert run("test", "--config", "tiny.yaml", "--model.decoding.order=rnadom") == 2

    y = [1, 2, np.nan, 0, 3, np.nan, 1]
    points = pd.DataFrame({"task": list("aaaabbb"), "x": np.linspace(-1, 1, 7), "y": y})
    points.to_csv("points.csv", index=False)
    words = ["predict", "--ckpt_path", "runs/tiny", "--context", "points.csv", "--out", "out.csv", "--quantiles", "0.1"]
    assert run(*words) == 0
    table = pd.read_csv("out.csv")
    assert list(table) == ["task", "x", "y_mean", "y_stddev", "y_q0.1"] and list(table.task) == ["a", "b"]
    rng = np.random.default_rng(0)
    arrays = {"xc": rng.normal(size=(2, 3, 1)), "yc": rng.normal(size=(2, 3, 1)), "xt": rng.normal(size=(2, 5, 1))}
    np.savez("points.npz", **arrays)
    assert run("predict", "--ckpt_path", "runs/tiny/0", "--context", "points.npz", "--out", "out.npz") == 0
    with np.load("out.npz") as result:
        assert result["mean"].shape == (2, 5, 1) and result["quantiles"].shape == (3, 2, 5, 1)
        assert (np.diff(result["quantiles"], axis=0) > 0).all()


def test_a_checkpoint_wins_over_other_settings_and_says_so(here, capsys):
    assert run("fit", "--config", "tiny.yaml", "--trainer.max_steps=5") == 0
    assert run("test", "--config", "tiny.yaml", "--model.net.dz=16") == 0
    assert "the checkpoint's settings win: model.net.init_args.dz=8 (not 16)" in capsys.readouterr().err


def measured(here: Path, *words: str) -> dict:
    """What a run of two steps and a test of it say about themselves."""
    for command in ("fit", "test"):
        extra = ["--trainer.max_steps=2", "--data.num_val_batches=1", "--data.num_test_batches=1"]
        assert run(command, *words, *extra, "--trainer.enable_progress_bar=false", "--figures.num_tasks=0") == 0
    (path,) = here.glob("runs/*/*/test_metrics.json")
    return json.loads(path.read_text())


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--config", "experiment/gp_rbf_tnp"], ("tnp", "TNP", "dense", "gp_rbf")),
        (["--config", "experiment/gp_rbf_tnp", "--model.net.mixer=linear"], ("tnp", "TNP", "linear", "gp_rbf")),
        (["--config", "experiment/gp_rbf_tnp", "--model.net=CNP"], ("CNP", "CNP", None, "gp_rbf")),
        (
            ["--config", "base", "--config", "data/gp_matern", "--config", "model/paper/cnp"],
            ("paper/cnp", "CNP", None, "gp_matern"),
        ),
    ],
)
def test_results_name_the_configurations_they_come_from(here, monkeypatch, words, expected):
    monkeypatch.setenv("XDG_CACHE_HOME", str(here / "cache"))
    found = measured(here, *words)
    assert (found["model"], found["model_class"], found.get("mixer"), found["data"]) == expected
    # The names outlive the command line: they are in the run's own configuration.
    assert run("test", "--ckpt_path", str(next(here.glob("runs/*/0"))), "--trainer.enable_progress_bar=false") == 0
    again = json.loads(next(here.glob("runs/*/0/test_metrics.json")).read_text())
    assert (again["model"], again["data"]) == (expected[0], expected[3])


@pytest.mark.parametrize("precision", ["64-true", "bf16-true", "bf16-mixed"])
def test_every_precision_trains_and_draws(here, precision):
    assert run("fit", "--config", "tiny.yaml", f"--trainer.precision={precision}", "--trainer.max_steps=5") == 0
    assert (here / "runs/tiny/0/checkpoints/best.ckpt").is_file()


def test_a_run_without_validation_says_so_and_what_to_do(here, capsys):
    assert run("fit", "--config", "tiny.yaml", "--trainer.limit_val_batches=0") == 0
    warning = "npexp: warning: there is no best.ckpt"
    assert [line for line in capsys.readouterr().err.splitlines() if line.startswith(warning)]
    for words in (["--config", "tiny.yaml"], ["--ckpt_path", "runs/tiny"]):
        assert run("test", *words) == 2
        assert "never validated: use --ckpt_path" in capsys.readouterr().err
    assert run("test", "--config", "tiny.yaml", "--ckpt_path", "last") == 0


@pytest.mark.parametrize("content", [b"", b"no checkpoint", {"weights": 1}])
def test_a_file_that_is_no_checkpoint_is_refused(here, capsys, content):
    if isinstance(content, bytes):
        (here / "file.ckpt").write_bytes(content)
    else:
        torch.save(content, here / "file.ckpt")
    points(here)
    for words in (["test", "--config", "tiny.yaml"], ["predict", "--context", "points.csv", "--out", "out.csv"]):
        assert run(*words, "--ckpt_path", "file.ckpt") == 2
        error = capsys.readouterr().err
        assert "file.ckpt" in error and error.startswith("npexp: ") and error.count("\n") == 1


def points(here: Path) -> None:
    pd.DataFrame({"x": [0.0, 1.0], "y": [1.0, None]}).to_csv(here / "points.csv", index=False)


@pytest.mark.parametrize("place", ["/proc/x", "tiny.yaml"])
def test_a_folder_that_cannot_be_made_is_refused(here, capsys, place):
    assert run("fit", "--config", "tiny.yaml", f"--runs_dir={place}") == 2
    error = capsys.readouterr().err
    assert "--runs_dir" in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--ckpt_path=last"], "unknown run, checkpoint or pretrained model 'last'"),
        (["--ckpt_path=empty"], "empty has no checkpoint best.ckpt; train first"),
        (["--ckpt_path=empty", "--out=/proc/x/out.csv"], "cannot write --out /proc/x/out.csv"),
        (["--ckpt_path=empty", "--out=out.txt"], "expected --out to be a .csv, .parquet or .npz file"),
        (["--ckpt_path=empty", "--out=folder.csv"], "is a folder"),
    ],
)
def test_mistakes_in_predict(here, capsys, words, message):
    points(here)
    (here / "empty").mkdir()
    (here / "folder.csv").mkdir()
    assert run("predict", "--context=points.csv", "--out=out.csv", *words) == 2
    error = capsys.readouterr().err
    assert message in error and "--name" not in error and error.count("\n") == 1
    assert not (here / "out.csv").exists()


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["state_dict"]


# After a validation, without one, and both at the end of an epoch; and with two batches in a step.
@pytest.mark.parametrize(("stop", "accumulate"), [(4, 1), (5, 1), (7, 1), (14, 1), (5, 2)])
def test_a_longer_run_continues_where_the_shorter_one_ended(here, stop, accumulate):
    """Dropout, latent draws and tasks continue exactly; the rate is constant, for a schedule knows its length."""
    common = ["--config", "tiny.yaml", "--model.net=NP", "--model.objective=elbo", "--model.lr_scheduler=null",
              f"--trainer.accumulate_grad_batches={accumulate}"]  # fmt: skip
    longer = [*common, "--trainer.max_steps=16"]
    assert run("fit", *longer, "--name=whole") == 0
    assert run("fit", *common, "--name=parts", f"--trainer.max_steps={stop}", "--trainer.val_check_interval=2") == 0
    assert run("fit", *longer, "--name=parts", "--ckpt_path=last") == 0
    whole, parts = (weights(here / "runs" / name / "0" / "checkpoints" / "last.ckpt") for name in ("whole", "parts"))
    assert all(torch.equal(whole[k], parts[k]) for k in whole)
    if accumulate > 1:
        return  # validations count batches, so they come at other steps
    rows = read_rows(here / "runs" / "parts" / "0" / "metrics.csv")
    assert {1, 3, 5, 7, 9, 11, 13, 15} <= rows.keys()
    assert [step for step, row in rows.items() if step >= stop and "val/rmse" in row] == [
        step for step in (4, 9, 14) if step >= stop
    ]


def test_every_experiment_parses(here, untyped):
    from npexp.training_cli import make_cli

    for name in config_names("experiment"):
        words = [word for path in expand([name]) for word in ("--config", str(path))]
        brought = samples.settings("Frame", here) if name.startswith("experiment/frame_") else {}
        cli = make_cli(run=False, args=[*words, *(f"--data.{key}={value}" for key, value in brought.items())])
        assert cli.model.net.dx == cli.datamodule.dx
