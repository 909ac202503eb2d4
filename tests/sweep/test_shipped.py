"""Shipped sweeps: the schema takes them, and the training command line takes their options and values."""

import sys
from functools import reduce

import optuna
import pytest
from optuna.distributions import CategoricalDistribution

from npexp.config import conf_dir, expand, words
from npexp.sweep.study import read

NAMES = sorted(path.stem for path in (conf_dir().parent / "sweeps").glob("*.yaml"))


def highest(kind):
    """The far end of a distribution."""
    return kind.choices[-1] if isinstance(kind, CategoricalDistribution) else kind.high


def plain(config, option):
    """A setting of a parsed configuration."""
    found = reduce(lambda node, key: node[key], option.split("."), config.as_dict())
    return list(found) if isinstance(found, tuple) else found


@pytest.mark.parametrize("name", NAMES)
def test_every_option_is_one_of_fit(name, monkeypatch):
    from npexp.training_cli import make_cli

    monkeypatch.setattr(sys, "argv", ["npexp"])
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    sweep, _ = read(name)
    assert sweep.name == name
    layers = [word for path in expand(sweep.configs) for word in ("--config", str(path))]
    far = {option: highest(kind) for option, kind in sweep.space.items()}
    for setting in [far, *sweep.enqueue]:  # it builds the model, too
        wanted = {**sweep.overrides, **setting}
        config = make_cli(run=False, args=[*layers, *words(wanted)]).config
        for option, value in wanted.items():
            assert plain(config, option) == value, option


@pytest.mark.parametrize("name", NAMES)
def test_the_published_setting_is_tried_first(name):
    sweep, _ = read(name)
    made = optuna.create_study(directions=sweep.directions)
    for setting in sweep.enqueue:
        made.enqueue_trial(setting)
    chosen = made.ask(sweep.space).params
    assert sweep.enqueue[0].keys() == sweep.space.keys()
    assert chosen == sweep.enqueue[0]


@pytest.mark.parametrize("name", NAMES)
def test_a_trial_can_be_pruned_before_it_ends(name):
    sweep, content = read(name)
    steps, every = (sweep.overrides[f"trainer.{key}"] for key in ("max_steps", "val_check_interval"))
    assert steps % every == 0  # the last step is validated, too
    if len(sweep.metrics) == 1:
        assert every <= content["pruner"]["init_args"]["n_warmup_steps"] <= steps / 2
