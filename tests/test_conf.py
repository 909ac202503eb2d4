"""Every YAML that is shipped: parsed by the real command line and run for two steps."""

import sys
from pathlib import Path

import pytest
import yaml

from npexp.cli import main
from npexp.config import conf_dir, config_names
from tests.datamodules import samples

FEW = ["--data.num_val_batches=1", "--data.num_test_batches=1"]
SMALL_DATA = {
    "GPData": FEW,
    "LongGP": FEW,
    "Sawtooth": FEW,
    "Shapes": FEW,
    "SIR": FEW,
    "Series": FEW,
    "DigitsData": [],
    "EEG": FEW,
    "SimToReal": ["--data.simulator.num_val_batches=1", "--data.simulator.num_test_batches=1"],
    "EMNIST": [],
    "CelebA": [],
    "ImageFolder": [],
    "Field": FEW,
    "Wheel": FEW,
    "Frame": ["--data.max_eval_tasks=4"],
}
NAMES = ("class_path", "defaults")  # they name what is used, and its own documentation explains it
CPU = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--figures.num_tasks=1"]


@pytest.fixture
def npexp(tmp_path, monkeypatch):
    """Runs a command in an empty folder with a cache of its own; returns what it left behind."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "argv", ["npexp"])

    def run(*words):
        assert main([*words]) == 0
        return tmp_path / "runs"

    return run


def data_class(name):
    """The data class of a data or experiment configuration."""
    content = yaml.safe_load((conf_dir() / f"{name}.yaml").read_text())
    if "data" in content and "class_path" in content["data"]:
        return content["data"]["class_path"].rpartition(".")[2]
    return next(data_class(d) for d in content["defaults"] if d.startswith("data/"))


def two_steps(*layers, data):
    words = [w for layer in layers for w in ("--config", layer)]
    needed = samples.settings(data, Path("brought")) | samples.settings(Path(layers[-1]).name, Path("brought"))
    brought = [f"--data.{key}={value}" for key, value in needed.items()]
    return ["fit", *words, "--trainer.max_steps=2", *SMALL_DATA[data], *brought, *CPU]


@pytest.mark.parametrize("name", config_names("experiment"))
def test_experiments(name, npexp):
    runs = npexp(*two_steps(name, data=data_class(name)))
    (folder,) = runs.glob("*/0")
    assert folder.parent.name == name.removeprefix("experiment/")
    assert (folder / "checkpoints/best.ckpt").is_file() and (folder / "checkpoints/last.ckpt").is_file()


@pytest.mark.parametrize("name", config_names("model"))
def test_models(name, npexp):
    npexp(*two_steps("base", name, "data/gp_rbf", data="GPData"))


@pytest.mark.parametrize("name", config_names("data"))
def test_data(name, npexp):
    npexp(*two_steps("base", "model/cnp", name, data=data_class(name)))


@pytest.mark.parametrize("name", config_names("trainer"))
def test_trainers_parse(name, npexp, capsys):
    layers = [w for layer in ("experiment/gp_rbf_cnp", name) for w in ("--config", layer)]
    with pytest.raises(SystemExit) as stop:
        main(["fit", *layers, "--print_config"])
    assert stop.value.code == 0
    settings = yaml.safe_load((conf_dir() / f"{name}.yaml").read_text())["trainer"]
    assert_holds(yaml.safe_load(capsys.readouterr().out)["trainer"], settings)


def assert_holds(shown, settings):
    """Each setting is shown; classes show their defaults beside."""
    for key, value in settings.items():
        if isinstance(value, dict):
            assert_holds(shown[key], value)
        elif isinstance(value, list):
            for one, other in zip(shown[key.removesuffix("+")], value, strict=True):
                assert_holds(one, other)
        else:
            assert shown[key] == value, key


def unexplained(lines):
    """Lines of a YAML whose meaning no comment gives: none on the line, and none on the header of a block around it."""
    headers = []  # indentation of the open blocks, and whether a comment explains them
    for line in lines:
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        indent = len(line) - len(line.lstrip(" -"))
        headers = [(at, known) for at, known in headers if at < indent]
        key, _, value = text.lstrip("- ").partition(":")
        known = "#" in line or any(known for _, known in headers)
        if not value.partition("#")[0].strip():
            headers.append((indent, known))
        elif not known and key not in NAMES and not value.strip().startswith(("[", "{")):
            yield text


@pytest.mark.parametrize("name", config_names())
def test_every_setting_is_explained(name):
    """A comment says what the file is for, and one stands beside each single value or above the block it is in."""
    lines = (conf_dir() / f"{name}.yaml").read_text().splitlines()
    assert lines[0].startswith("#"), "does not say what it is for"
    assert not list(unexplained(lines))


def test_what_counts_as_explained():
    lines = [
        "# What",
        "a:  # why",
        "  b: 1",
        "c:",
        "  d: 1",
        "  e: 2  # yes",
        "  f: {g: 1}",
        "h: 3",
        "- i: 4",
        "  j: 5",
    ]
    assert list(unexplained(lines)) == ["d: 1", "h: 3", "- i: 4", "j: 5"]


def test_a_checkpoint_of_another_model_is_refused(npexp, capsys):
    npexp(*two_steps("base", "model/cnp", "data/gp_rbf", data="GPData"), "--name", "x")
    words = [*("--config", "model/lbanp", "--config", "data/gp_rbf", "--name", "x"), *SMALL_DATA["GPData"], *CPU]
    for command in (["test"], ["fit", "--ckpt_path", "last"]):
        with pytest.raises((SystemExit, AssertionError)):
            npexp(*command, *words)
        assert "the checkpoint holds another model: class_path npexp.models" in capsys.readouterr().err
