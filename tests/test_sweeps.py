"""Search spaces: Optuna takes them, and each key is an option of the configuration they start from."""

import importlib
import sys

import optuna
import pytest
import yaml

from npexp.cli import main
from npexp.config import conf_dir

SWEEPS = sorted((conf_dir().parent / "sweeps").glob("*.yaml"))


def distribution(spec):
    module, _, name = spec["class_path"].rpartition(".")
    return getattr(importlib.import_module(module), name)(**spec["init_args"])


@pytest.mark.parametrize("path", SWEEPS, ids=lambda p: p.stem)
def test_a_trial_is_a_valid_fit(path, capsys, monkeypatch):
    sweep = yaml.safe_load(path.read_text())
    space = {key: distribution(spec) for key, spec in sweep["space"].items()}
    study = optuna.create_study(direction=sweep["direction"], sampler=optuna.samplers.RandomSampler(seed=0))
    values = study.ask(space).params
    assert values.keys() == space.keys()
    monkeypatch.setattr(sys, "argv", ["npexp"])
    layers = [word for config in sweep["configs"] for word in ("--config", config)]
    with pytest.raises(SystemExit) as stop:
        main(["fit", *layers, *(f"--{key}={value}" for key, value in values.items()), "--print_config"])
    assert stop.value.code == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    for key, value in values.items():
        node = shown
        for part in key.split("."):
            node = node[part]
        assert node == pytest.approx(value)
