"""Sweep files, the studies they become, and where these are kept."""

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from npexp.config import words
from npexp.errors import ConfigError, UnknownNameError
from npexp.sweep.storage import Unreachable, hidden, open_storage
from npexp.sweep.study import Sweep, counted, enqueue, find_sweep, load, lowest, open_study, parse, suggest_all
from tests.sweep.fakes import content, queue

COMPLETE, FAIL = TrialState.COMPLETE, TrialState.FAIL


def test_the_schema_is_that_of_optuna():
    sweep = parse(
        content(
            space={
                "a": {"class_path": "optuna.distributions.IntDistribution", "init_args": {"low": 4, "high": 64}},
                "b": {"class_path": "CategoricalDistribution", "init_args": {"choices": ["x", "y", None]}},
            },
            pruner={"class_path": "HyperbandPruner", "init_args": {"min_resource": 100}},
            sampler={"class_path": "RandomSampler", "init_args": {"seed": 3}},
            constraints={"perf/peak_memory_mb": 4000},
        ),
        "a.yaml",
    )
    assert sweep.space == {"a": IntDistribution(4, 64), "b": CategoricalDistribution(["x", "y", None])}
    assert isinstance(sweep.make_pruner(), optuna.pruners.HyperbandPruner)
    assert isinstance(sweep.make_sampler(True), optuna.samplers.RandomSampler)
    assert lowest(sweep) == {"a": 4, "b": "x"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"spce": {}}, "unknown key in a.yaml 'spce'; did you mean 'space'"),
        ({"space": {}}, "at least one option"),
        ({"space": {"a": {"class_path": "IntDistribtion", "init_args": {"low": 1, "high": 2}}}}, "IntDistribtion"),
        ({"space": {"a": {"class_path": "IntDistribution", "init_args": {"low": 3, "high": 2}}}}, "low <= high"),
        ({"trials": "many"}, "Got value: many"),
        ({"trials": 0}, "expected trials to be an integer, at least 1"),
        ({"configs": ["experiment/gp_rbf_cmnp"]}, "did you mean 'experiment/gp_rbf_cmanp'"),
        ({"directions": ["max"]}, "expected one of maximize and minimize per metric"),
        ({"directions": ["maximize", "minimize"]}, "expected one of maximize and minimize per metric"),
        ({"metrics": ["parameters"]}, "expected the first of metrics to be one of validation"),
        ({"enqueue": [{"y": 1}]}, "unknown option in enqueue 'y'"),
        ({"enqueue": [{"x": 7}]}, "enqueue sets x to 7, which is not in"),
        (
            {
                "metrics": ["val/score", "parameters"],
                "directions": ["maximize", "minimize"],
                "pruner": {"class_path": "MedianPruner"},
            },
            "cannot be pruned",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_mistakes_are_told_in_one_line(changes, message):
    with pytest.raises((ConfigError, UnknownNameError)) as error:
        parse(content(**changes), "a.yaml")
    assert message in str(error.value) and "\n" not in str(error.value)


def test_sweeps_are_found_by_name_as_those_that_come_with_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert {find_sweep(name).name for name in ("latents", "latents.yaml", "sweeps/latents.yaml")} == {"latents.yaml"}
    with pytest.raises(UnknownNameError, match="did you mean 'latents'"):
        find_sweep("latent")


def test_settings_become_arguments_that_read_as_what_they_are():
    assert words({"a.b": 1e-5, "c": True, "d": None, "e": "x", "f": [1, 2], "g": 3}) == [
        "--a.b=1e-05",
        "--c=true",
        "--d=null",
        "--e=x",
        "--f=[1, 2]",
        "--g=3",
    ]


def test_a_trial_is_asked_for_what_the_space_says():
    space = {
        "f": FloatDistribution(1e-4, 1.0, log=True),
        "i": IntDistribution(2, 8, step=2),
        "c": CategoricalDistribution("ab"),
    }
    trial = optuna.create_study().ask()
    assert suggest_all(trial, space).keys() == space.keys()
    assert trial.distributions == space


def test_a_study_is_made_once_and_gone_on_with(tmp_path):
    url = f"journal:{tmp_path / 'study.journal'}"
    data = content(enqueue=queue(1.0, 2.0))
    for new in (True, False):
        study, made = open_study("fake", url, data)
        enqueue(study, parse(data, "a"))
        assert made == new
    assert [trial.system_attrs["fixed_params"] for trial in study.trials] == queue(1.0, 2.0)
    found = load("fake", url)
    assert found.user_attrs == {"sweep": data} and found.metric_names == ["val/score"]
    assert counted(found) == 0
    with pytest.raises(ConfigError, match=r"there is no study 'fak' in .*; did you mean 'fake'"):
        load("fak", url)


def test_what_failed_by_itself_is_tried_again_when_the_study_goes_on(tmp_path):
    study, _ = open_study("fake", f"journal:{tmp_path / 'study.journal'}", content())
    sweep = parse(content(enqueue=queue(1.0, 2.0, 3.0)), "a")
    enqueue(study, sweep)
    for why, state in (("no disk", FAIL), (None, FAIL), (None, COMPLETE)):  # None: its worker was killed
        trial = study.ask(sweep.space)
        if why:
            trial.set_user_attr("why", why)
        study.tell(trial, values=1.0 if state == COMPLETE else None, state=state)
    for _ in range(2):
        enqueue(study, sweep)
        assert [trial.system_attrs["fixed_params"] for trial in study.trials[3:]] == queue(1.0)


def test_a_study_of_another_program_is_refused(tmp_path):
    url = f"journal:{tmp_path / 'study.journal'}"
    study = optuna.create_study(study_name="fake", storage=open_storage(url), direction="maximize")
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    with pytest.raises(ConfigError, match="was not made by npexp sweep"):
        open_study("fake", url, content())


def test_a_study_is_not_gone_on_with_when_its_trials_mean_something_else(tmp_path):
    url = f"journal:{tmp_path / 'study.journal'}"
    space = {"a": {"class_path": "CategoricalDistribution", "init_args": {"choices": [1, 2]}}}
    study, _ = open_study("fake", url, content(space=space))
    open_study("fake", url, content(space=space, metrics=["val/other"]))  # nothing is there yet that could be compared
    study.optimize(lambda trial: trial.suggest_categorical("a", [1, 2]), n_trials=1)
    other = {"a": {"class_path": "CategoricalDistribution", "init_args": {"choices": [1, 2, 3]}}}
    with pytest.raises(ConfigError, match="choices of a have changed"):
        open_study("fake", url, content(space=other, metrics=["val/other"]))
    for change in ({"metrics": ["val/score"]}, {"metrics": ["val/other"], "directions": ["minimize"]}):
        with pytest.raises(ConfigError, match="metrics or their directions have changed"):
            open_study("fake", url, content(space=space, **change))
    wider = {"a": space["a"], "b": {"class_path": "IntDistribution", "init_args": {"low": 1, "high": 2}}}
    open_study("fake", url, content(space=wider, metrics=["val/other"]))


@pytest.mark.parametrize("url", ["mysql://me@host/db", "study.db", "grpc://host", "journal:"])
def test_other_storages_are_refused(url):
    with pytest.raises(ConfigError, match="expected --storage to be sqlite"):
        open_storage(url)


@pytest.mark.parametrize("url", ["postgresql://me:secret@127.0.0.1:1/x", "sqlite:////proc/none/study.db"])
def test_a_storage_out_of_reach_is_one_line_without_its_password(url):
    with pytest.raises(Unreachable, match="cannot use the storage") as error:
        open_storage(url)
    assert "\n" not in str(error.value) and "secret" not in str(error.value)


def test_a_password_is_hidden_and_the_rest_is_not():
    assert hidden("postgresql://me:a:b@host:5432/x") == "postgresql://me:…@host:5432/x"
    assert hidden("grpc://host:13000") == "grpc://host:13000"


def test_only_the_first_worker_of_a_study_draws_what_the_seed_says():
    def drawn(sweep: Sweep, alone: bool) -> list[float]:
        study = optuna.create_study(sampler=sweep.make_sampler(alone))
        return [study.ask(sweep.space).params["x"] for _ in range(3)]

    sweep = parse(content(), "a")
    assert drawn(sweep, True) == drawn(sweep, True) != drawn(sweep, False) != drawn(sweep, False)
