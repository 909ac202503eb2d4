"""A trial becomes a configuration and a command that the training command line reads as the trial was."""

import shlex
import sys
from itertools import pairwise

import optuna
import pytest
import yaml

from npexp.config import expand
from npexp.config import words as as_words
from npexp.errors import ConfigError
from npexp.sweep.recipe import command, default, nested, settings, write_recipe
from tests.sweep.studies import LR, SWEEP, study

NET = "model.net.init_args."
OPTIONS = {f"{NET}dz": 48, LR: 0.00123456789012345, f"{NET}likelihood.init_args.min_stddev": 0.02}
CHOICES = {"model.include_context": False, "data.init_args.num_target": "[4, 30]", "trainer.gradient_clip_val": None}


@pytest.fixture
def made():
    """A study whose one trial has chosen a number, a list, a switch and nothing."""
    found = study(num_trials=0)
    chosen = {**OPTIONS, **CHOICES}
    kinds = {option: optuna.distributions.CategoricalDistribution([value]) for option, value in chosen.items()}
    found.add_trial(optuna.trial.create_trial(value=0.5, params=chosen, distributions=kinds))
    return found


def parsed(monkeypatch, args):
    from npexp.training_cli import make_cli

    monkeypatch.setattr(sys, "argv", ["npexp"])
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    return make_cli(run=False, args=args).config


def layers(names):
    return [word for path in expand(names) for word in ("--config", str(path))]


def test_a_recipe_is_the_trial(made, tmp_path, monkeypatch):
    trial = made.trials[0]
    path = tmp_path / "deep" / "best.yaml"
    write_recipe(made, trial, path)
    recipe = parsed(monkeypatch, layers([str(path)]))
    # Option by option, as the sweep's worker gives them to the process of a trial.
    shared = {"best.monitor": "val/loglik_joint", "best.mode": "max", **SWEEP["overrides"]}
    worker = parsed(monkeypatch, layers(SWEEP["configs"]) + as_words({**shared, **trial.params}))
    typed = shlex.split(command(made, trial))[2:]
    names = [name for word, name in pairwise(typed) if word == "--config"]
    shown = parsed(monkeypatch, layers(names) + typed[2 * len(names) :])
    for other in (worker, shown):
        for config in (recipe, other):
            for own in ("config", "name", "defaults"):
                config.pop(own, None)
    assert recipe == worker
    assert shown == worker
    for option, value in {**OPTIONS, "data.init_args.num_target": [4, 30], "trainer.gradient_clip_val": None}.items():
        assert recipe[option] == value
    assert recipe["trainer.max_steps"] == 30
    assert recipe["data.init_args.num_context"] == [3, 20]


def test_a_recipe_says_where_it_is_from(made, tmp_path):
    path = tmp_path / "best.yaml"
    write_recipe(made, made.trials[0], path)
    text = path.read_text()
    comment = [line for line in text.splitlines() if line.startswith("#")]
    assert comment[0] == "# Trial 0 of 1 of the study 'toy': val/loglik_joint 0.5."
    assert max(map(len, text.splitlines())) <= 120
    content = yaml.safe_load(text)
    assert content["defaults"] == SWEEP["configs"]
    assert content["name"] == "best"
    for option in (*OPTIONS, *CHOICES, *SWEEP["overrides"]):
        assert option in " ".join(comment)


def test_a_recipe_replaces_nothing_unless_told_to(made, tmp_path):
    path = tmp_path / "best.yaml"
    path.write_text("mine: 1\n")
    with pytest.raises(ConfigError, match="exists: give another --write, or --force"):
        write_recipe(made, made.trials[0], path)
    assert path.read_text() == "mine: 1\n"
    write_recipe(made, made.trials[0], path, force=True)
    assert "mine" not in path.read_text()


def test_what_is_no_place_for_a_recipe_is_said(made, tmp_path):
    with pytest.raises(ConfigError, match=r"to be a .yaml file"):
        write_recipe(made, made.trials[0], tmp_path / "best")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot write"):
        write_recipe(made, made.trials[0], tmp_path / "file" / "best.yaml")


def test_own_configurations_are_found_from_the_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("defaults: [base]\n")
    made = study(num_trials=2, configs=["experiment/gp_rbf_cnp", "mine.yaml"])
    write_recipe(made, made.trials[0], "deep/best.yaml")
    below = yaml.safe_load((tmp_path / "deep/best.yaml").read_text())["defaults"]
    assert below == ["experiment/gp_rbf_cnp", "../mine.yaml"]
    assert expand(["deep/best.yaml"])[-2:] == [tmp_path / "mine.yaml", tmp_path / "deep/best.yaml"]
    assert default("mine.yaml", tmp_path) == "mine.yaml"


def test_nested():
    assert nested({"a.b.c": 1, "a.b.d": [2], "e": None}) == {"a": {"b": {"c": 1, "d": [2]}}, "e": None}
    # A class alone, and an argument of it.
    assert nested({"model.net.init_args.m": 3, "model.net": "IST"}) == {
        "model": {"net": {"class_path": "IST", "init_args": {"m": 3}}}
    }


def test_a_trial_wins_over_what_all_share():
    made = study(num_trials=2, overrides={LR: 1.0, "trainer.max_steps": 7})
    found = settings(made, made.trials[0])
    assert found[LR] == made.trials[0].params[LR]
    assert found["trainer.max_steps"] == 7
