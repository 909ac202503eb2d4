"""Configuration names, layers, run folders, and the arguments that the dispatcher completes."""

import subprocess
from pathlib import Path

import pytest

from npexp import runs
from npexp.config import conf_dir, config_names, expand, find_config, read_config
from npexp.errors import ConfigError, UnknownNameError
from npexp.runs import Run, complete, find_checkpoint, only_prints, reserve, revision, versions


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    return tmp_path


def write(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def finished(root: Path, name: str, version: int) -> Run:
    """A run folder with a configuration and both checkpoints."""
    run = Run(root.resolve(), name, version)
    write(run.config, f"name: {name}\n")
    write(run.checkpoint("last"))
    write(run.checkpoint("best"))
    return run


@pytest.mark.parametrize("name", ["base", "base.yaml", str(conf_dir() / "base.yaml")])
def test_a_config_is_found_by_name_and_by_path(name):
    assert find_config(name) == conf_dir() / "base.yaml"


def test_an_unknown_config_names_its_neighbours():
    with pytest.raises(UnknownNameError, match="did you mean 'trainer/fast'"):
        find_config("trainer/fats")


def test_every_shipped_config_expands_and_starts_with_what_it_is():
    for name in config_names():
        assert expand([name])[-1] == find_config(name)
        assert find_config(name).read_text().startswith("#"), f"{name} does not say what it is"


def test_defaults_come_below_and_once(here):
    write(here / "low.yaml")
    write(here / "a.yaml", "defaults: [low.yaml]")
    write(here / "b.yaml", "defaults: [low.yaml]")
    layers = expand(["a.yaml", "b.yaml"])
    assert [p.stem for p in layers] == ["low", "a", "b"]
    assert expand([str(p) for p in layers]) == layers
    # What is asked for again counts again.
    assert [p.stem for p in expand(["a.yaml", "low.yaml"])] == ["low", "a", "low"]


def test_a_cycle_is_refused(here):
    write(here / "a.yaml", "defaults: [b.yaml]")
    write(here / "b.yaml", "defaults: [a.yaml]")
    with pytest.raises(ConfigError, match="cycle: a -> b -> a"):
        expand(["a.yaml"])


@pytest.mark.parametrize(("text", "message"), [("[1", "not valid YAML"), ("- 1", "key: value"), ("3", "key: value")])
def test_a_file_that_is_no_mapping_is_refused(here, text, message):
    with pytest.raises(ConfigError, match=message):
        read_config(write(here / "bad.yaml", text))


def test_arguments_are_completed_and_stay_so(here):
    mine = write(here / "mine.yaml", "name: study/first\n")
    words, run, continues = complete("fit", ["--config", "mine.yaml", "--trainer.max_steps=3"])
    assert run == Run(here / "runs", "study/first", 0) and not continues
    assert words[:4] == ["--config", str(conf_dir() / "base.yaml"), "--config", str(mine)]
    assert complete("fit", words).words == words  # as the processes of further devices do


def test_the_next_free_version_is_taken(here):
    write(here / "mine.yaml")
    for version in (0, 2):
        finished(here / "runs", "mine", version)
    assert complete("fit", ["--config=mine.yaml"]).run.version == 3
    assert versions(here / "runs", "mine") == [0, 2]


@pytest.mark.parametrize(
    ("command", "wanted", "expected"), [("fit", "last", "last"), ("test", "best", "best"), ("test", None, "best")]
)
def test_last_and_best_are_those_of_the_newest_version(here, command, wanted, expected):
    write(here / "mine.yaml")
    finished(here / "runs", "mine", 9)
    run = finished(here / "runs", "mine", 10)
    words = ["--config", "mine.yaml"] + ([] if wanted is None else ["--ckpt_path", wanted])
    start = complete(command, words)
    assert start.run == run and start.continues
    assert f"--ckpt_path={run.checkpoint(expected)}" in start.words
    assert complete(command, start.words).words == start.words


def test_a_checkpoint_brings_its_configuration(here):
    run = finished(here / "elsewhere", "mine", 0)
    for given in (run.checkpoint("last"), run.folder, run.folder.parent):
        start = complete("test", ["--ckpt_path", str(given)])
        assert start.run.folder == run.folder and start.continues
        assert str(run.config) in start.words


def test_another_name_starts_another_run_from_a_checkpoint(here):
    run = finished(here / "runs", "mine", 0)
    start = complete("fit", ["--ckpt_path", str(run.checkpoint("best")), "--name", "tuned"])
    assert start.run.folder == here / "runs" / "tuned" / "0" and not start.continues


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "needs --config"),
        (["--name=absent", "--ckpt_path=last"], "no run 'absent'.*did you mean 'present'"),
        (["--name=present", "--version=1", "--ckpt_path=last"], r"--version 0 has one"),
        (["--ckpt_path=last"], "needs a run"),
        (["--ckpt_path=nowhere.ckpt"], "no checkpoint"),
        (["--config=base", "--version=x"], "whole number"),
        (["--config=base", "--name=../up"], "run name"),
    ],
)
def test_mistakes_are_explained(here, words, message):
    finished(here / "runs", "present", 0)
    (here / "runs" / "present" / "1").mkdir()
    with pytest.raises(ConfigError, match=message):
        complete("fit", words)


def test_an_untrained_model_is_tested_only_on_request(here):
    with pytest.raises(ConfigError, match="no run"):
        complete("test", ["--config=base"])
    start = complete("test", ["--config=base", "--ckpt_path=null"])
    assert not any(word.startswith("--ckpt_path") for word in start.words)
    assert find_checkpoint("null", here, None, None) == (None, None)


def test_a_finished_run_is_not_written_over(here):
    run = finished(here / "runs", "mine", 0)
    with pytest.raises(ConfigError, match="holds a run already"):
        reserve(run)
    assert reserve(Run(here / "runs", "mine", 1))


def test_processes_from_outside_must_agree_on_a_version(here, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(ConfigError, match="--version"):
        complete("fit", ["--config=base"])
    run = complete("fit", ["--config=base", "--version=4"]).run
    assert not reserve(run)  # the first process made it, or will


@pytest.mark.parametrize("rank", ["RANK", "SLURM_PROCID"])
def test_the_first_of_processes_from_outside_makes_the_folder(here, monkeypatch, rank):
    for name, value in {"RANK": {"LOCAL_RANK": "0"}, "SLURM_PROCID": {"SLURM_NTASKS": "2"}}[rank].items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="--version"):
        complete("fit", ["--config=base"])
    run = complete("fit", ["--config=base", "--version=4"]).run
    monkeypatch.setenv(rank, "1")
    assert not reserve(run) and not run.folder.exists()
    monkeypatch.setenv(rank, "0")
    assert reserve(run) and run.folder.is_dir()
    (run.folder / "config.yaml").write_text("")
    with pytest.raises(ConfigError, match=r"holds a run already: delete it, as it has no last.ckpt"):
        reserve(run)


def test_the_names_of_model_and_data_are_kept(here):
    start = complete("fit", ["--config", "experiment/gp_rbf_tnp", "--config", "model/paper/tnpd"])
    assert {"--model_name=paper/tnpd", "--data_name=gp_rbf"} <= set(start.words)
    run = finished(here / "runs", "mine", 0)
    write(run.config, "model_name: paper/tnpd\ndata_name: gp_rbf\n")
    start = complete("test", ["--ckpt_path", str(run.folder)])
    assert {"--model_name=paper/tnpd", "--data_name=gp_rbf"} <= set(start.words)
    # The checkpoint decides what the model is, the command on what data it is tested.
    words = ["--ckpt_path", str(run.folder), "--config", "model/cnp", "--config", "data/gp_matern"]
    start = complete("test", words)
    assert {"--model_name=paper/tnpd", "--data_name=gp_matern"} <= set(start.words)
    assert complete("test", start.words).words == start.words
    write(here / "own.yaml")
    assert not any("_name=" in word for word in complete("fit", ["--config", "own.yaml"]).words)


def test_a_revision_is_that_of_this_code(here, monkeypatch):
    assert len(revision().removesuffix("-dirty")) == 40
    subprocess.run(["git", "init", "-q"], check=True)
    subprocess.run(
        ["git", *["-c", "user.name=a", "-c", "user.email=b", "commit", "-q", "--allow-empty", "-m", "c"]], check=True
    )
    monkeypatch.setattr(runs, "__file__", str(write(here / "site-packages" / "npexp" / "runs.py")))
    assert revision() is None  # installed inside the repository of something else


def test_printing_does_no_work():
    assert only_prints(["--print_config=skip_default"]) and only_prints(["--model.net.help=CNP"])
    assert not only_prints(["--trainer.max_steps=3"])


def test_a_run_is_named_after_what_was_put_together():
    from npexp.runs import default_name

    assert default_name(["base", "model/foo", "data/gp_rbf"]) == "gp_rbf_foo"
    assert default_name(["experiment/gp_rbf_cnp"]) == "gp_rbf_cnp"
    assert default_name(["/a/conf/base.yaml", "mine.yaml"]) == "mine" and default_name([]) is None
