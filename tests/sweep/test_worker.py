"""A worker in this process, over fake trials: what the study learns of them, and how it is resumed."""

from copy import deepcopy

import optuna
import pytest
from optuna.trial import TrialState

from npexp.errors import ConfigError, UnknownNameError
from npexp.sweep.stale import GRACE, INTERRUPTED, is_stale, put_back, reap, requeue, signature
from npexp.sweep.study import enqueue
from npexp.sweep.worker import WALL, fit_words
from tests.sweep.fakes import attempts, queue, worker

COMPLETE, PRUNED, FAIL, WAITING = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.WAITING
GONE = {"worker": "here:999999999"}  # no process has that number


def test_the_queued_settings_come_first_and_the_study_gets_what_it_asks_for(tmp_path, capsys):
    work = worker(tmp_path, enqueue=queue(1.5, -2.0))
    work.work()
    trials = work.study.trials
    assert [trial.params["x"] for trial in trials[:2]] == [1.5, -2.0] and len(trials) == 3
    assert {trial.state for trial in trials} == {COMPLETE}
    first = trials[0]
    assert first.value == 1.5  # the best of 1.5 * (1, 2, 3, 4) / 4
    assert trials[1].value == -0.5  # that of -2 is the first
    assert first.intermediate_values == {1: 0.375, 2: 0.75, 3: 1.125, 4: 1.5}
    assert first.user_attrs["metrics"] == {"val/score": 1.5, "parameters": 15, "perf/peak_memory_mb": 150, "steps": 4}
    assert first.user_attrs["folder"] == "fake/trial_0000/0" and first.user_attrs["peak_memory_mb"] == 150
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("trial 0: complete, val/score 1.5, x=1.5, ") and said[0].endswith("; best 1.5 by trial 0")
    assert len(said) == 3


def test_resuming_tops_up_and_queues_nothing_twice(tmp_path):
    worker(tmp_path, enqueue=queue(1.0)).work()
    worker(tmp_path, enqueue=queue(1.0)).work()  # enough already
    work = worker(tmp_path, enqueue=queue(1.0), trials=5)
    work.work()
    values = [trial.params["x"] for trial in work.study.trials]
    assert len(values) == 5 == len(set(values))


def test_a_trial_that_is_worse_than_the_others_is_stopped(tmp_path, capsys):
    work = worker(
        tmp_path,
        enqueue=queue(3.0, 2.0, -1.0),
        overrides={"does": "waits to be stopped"},
        pruner={"class_path": "MedianPruner", "init_args": {"n_startup_trials": 2}},
    )
    work.work()
    assert [trial.state for trial in work.study.trials] == [COMPLETE, COMPLETE, PRUNED]
    assert work.study.trials[2].intermediate_values == {1: -0.25}
    assert "trial 2: pruned at step 1" in capsys.readouterr().out


def test_memory_that_runs_out_is_a_constraint_and_no_failure(tmp_path, capsys):
    work = worker(tmp_path, enqueue=queue(2.0, 0.5, 0.8), overrides={"does": "needs memory"})
    work.work()
    states = [trial.state for trial in work.study.trials]
    assert states == [PRUNED, COMPLETE, COMPLETE]
    assert work.study.trials[0].constraints == {"memory": WALL} and work.study.trials[1].constraints == {}
    assert "can't allocate memory" in work.study.trials[0].user_attrs["why"]
    assert work.study.best_trial.number == 2
    assert "trial 0: out of memory" in capsys.readouterr().out


def test_training_that_diverges_is_pruned(tmp_path):
    work = worker(tmp_path, enqueue=queue(2.0, 0.5), overrides={"does": "diverges"}, trials=2)
    work.work()
    assert [trial.state for trial in work.study.trials] == [PRUNED, COMPLETE]
    assert work.study.trials[0].constraints == {}


def test_constraints_bound_final_numbers(tmp_path):
    work = worker(tmp_path, enqueue=queue(4.0, 2.0), constraints={"perf/peak_memory_mb": 300}, trials=2)
    work.work()
    assert [trial.constraints for trial in work.study.trials] == [
        {"perf/peak_memory_mb": 100},
        {"perf/peak_memory_mb": -100},
    ]
    assert work.study.best_trial.number == 1


def test_several_metrics_are_told_and_nothing_is_pruned(tmp_path, capsys):
    work = worker(
        tmp_path,
        metrics=["val/score", "parameters"],
        directions=["maximize", "minimize"],
        enqueue=queue(1.0, 2.0, -1.0),
        overrides={"does": "diverges"},
    )
    work.work()
    assert [trial.values for trial in work.study.trials] == [[1.0, 10.0], None, [-0.25, -10.0]]
    assert work.study.trials[1].state == PRUNED
    assert "; 2 on the Pareto front" in capsys.readouterr().out


def test_a_failure_is_noted_and_three_in_a_row_end_the_sweep(tmp_path):
    does = {"does": "fails if negative"}
    work = worker(tmp_path, enqueue=queue(-1.0, -2.0, 1.0, -1.5, -2.5, -3.0, 2.0), overrides=does, trials=9)
    with pytest.raises(
        ConfigError, match=r"3 trials in a row have failed, the last with: ValueError: no luck; see .*log"
    ):
        work.work()
    states = [trial.state for trial in work.study.trials]
    assert states == [FAIL, FAIL, COMPLETE, FAIL, FAIL, FAIL, WAITING]
    assert "no luck" in work.study.trials[0].user_attrs["log"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metrics": ["val/scoer"]}, "unknown metric of validation 'val/scoer'; did you mean 'val/score'"),
        ({"constraints": {"perf/peak_memory": 1.0}}, "did you mean 'perf/peak_memory_mb'"),
        ({"overrides": {"steps": 0}}, "without a validation"),
    ],
)
def test_what_no_trial_measures_ends_the_sweep_with_the_first(tmp_path, changes, message):
    work = worker(tmp_path, **changes)
    with pytest.raises((ConfigError, UnknownNameError), match=message):
        work.work()
    assert [trial.state for trial in work.study.trials] == [FAIL]
    assert message in work.study.trials[0].user_attrs["why"]


def test_an_interrupted_trial_goes_on_as_often_as_it_takes(tmp_path):
    class Interrupt(optuna.pruners.NopPruner):
        """Interrupts the worker when the trial is one step further."""

        def prune(self, study, trial):
            work.interrupted = trial.last_step == further
            return False

    for further in (1, 2, 3):  # noqa: B007
        work = worker(tmp_path, enqueue=queue(3.0), overrides={"does": "waits"}, trials=1)
        work.study.pruner = Interrupt()
        work.work()
    assert [trial.state for trial in work.study.trials] == [FAIL, FAIL, FAIL, WAITING]
    assert [trial.user_attrs.get("why") for trial in work.study.trials] == [
        *["interrupted, and queued again"] * 3,
        None,
    ]
    work = worker(tmp_path, trials=1)
    work.work()
    assert [trial.state for trial in work.study.trials] == [FAIL, FAIL, FAIL, COMPLETE]
    assert work.study.trials[3].user_attrs["folder"] == "fake/trial_0000/0"
    assert work.study.trials[3].intermediate_values == {step: 0.75 * step for step in range(1, 5)}
    given = [words for _, words in attempts(tmp_path, 0)]
    assert len(given) == 4 and all(words["x"] == "3.0" for words in given)
    assert ["ckpt_path" in words for words in given] == [False, True, True, True]


def test_whose_worker_is_gone():
    def trial(**attributes):
        return optuna.trial.create_trial(state=TrialState.RUNNING, user_attrs=attributes)

    mine = signature()
    machine, now = mine["lease"]
    assert not is_stale(trial(**mine), False, now) and not is_stale(trial(**mine), True, now + 9 * GRACE)
    assert is_stale(trial(**mine), False, now + GRACE + 1)
    assert is_stale(trial(**GONE, lease=[machine, now]), True, now)
    elsewhere = {**GONE, "lease": ["another machine", now]}
    assert not is_stale(trial(**elsewhere), True, now + 9 * GRACE)  # heartbeats decide
    assert is_stale(trial(**elsewhere), False, now + GRACE + 1) and not is_stale(trial(**elsewhere), False, now + 1)
    started = trial().datetime_start.timestamp()
    assert not is_stale(trial(), True, started + 1) and is_stale(trial(), True, started + GRACE + 9)


def test_a_killed_workers_trial_is_queued_again_once(tmp_path):
    work = worker(tmp_path)
    for states in ([FAIL, WAITING], [FAIL, FAIL]):
        trial = work.study.ask()
        assert trial.suggest_float("x", -5, 5) == work.study.trials[0].params["x"]
        for key, value in {**signature(), **GONE, "folder": "fake/trial_0000/0"}.items():
            trial.set_user_attr(key, value)
        for _ in range(2):  # the second time there is nothing to find
            reap(work.study, False)
        assert [trial.state for trial in work.study.trials] == states
    assert work.study.trials[1].user_attrs["folder"] == "fake/trial_0000/0"


def test_what_was_told_to_have_failed_and_never_queued_is_found(tmp_path, monkeypatch):
    """Its killer came between the two."""
    work = worker(tmp_path)
    for why in ({}, {"why": "no luck"}):
        trial = work.study.ask()
        trial.suggest_float("x", -5, 5)
        for key, value in why.items():
            trial.set_user_attr(key, value)
        work.study.tell(trial, state=FAIL)
    reap(work.study, False)
    assert len(work.study.trials) == 2  # whoever told may be about to queue it
    monkeypatch.setattr("npexp.sweep.stale.PAUSE", 0)
    for _ in range(2):
        reap(work.study, False)
    first, _, again = work.study.trials
    assert again.state == WAITING and again.params == first.params and again.system_attrs["retry_history"] == [0]
    work.study.tell(work.study.ask(), state=FAIL)
    reap(work.study, False)
    assert len(work.study.trials) == 3  # killed twice


@pytest.mark.parametrize("interruptions", [1, 3])
def test_an_interrupted_trial_is_found_when_its_worker_could_not_queue_it(tmp_path, monkeypatch, interruptions):
    monkeypatch.setattr("npexp.sweep.stale.PAUSE", 0)
    work = worker(tmp_path, enqueue=queue(1.5), trials=1)
    for _ in range(interruptions):
        trial = work.study.ask()
        trial.suggest_float("x", -5, 5)
        trial.set_user_attr("why", INTERRUPTED)
        work.study.tell(trial, state=FAIL)  # and here the kill came
        enqueue(work.study, work.sweep)  # the same command is started again
        for _ in range(2):
            reap(work.study, False)
    assert [trial.state for trial in work.study.trials] == [FAIL] * interruptions + [WAITING]
    work.work()
    assert [trial.state for trial in work.study.trials] == [FAIL] * interruptions + [COMPLETE]
    assert work.study.trials[-1].params == {"x": 1.5}


@pytest.mark.parametrize("queue_again", [requeue, put_back])
def test_a_trial_that_two_queue_again_is_tried_once(tmp_path, queue_again):
    work = worker(tmp_path, enqueue=queue(1.5, 0.5), trials=2)
    trial = work.study.ask()
    trial.suggest_float("x", -5, 5)
    killed = work.study.tell(trial, state=FAIL)
    for _ in range(2):  # two processes, each before it sees what the other does
        queue_again(work.study, deepcopy(killed))
    work.work()
    assert [trial.state for trial in work.study.trials] == [FAIL, COMPLETE, COMPLETE, WAITING]
    assert [trial.params.get("x") for trial in work.study.trials[:3]] == [1.5, 0.5, 1.5]
    work = worker(tmp_path, enqueue=queue(1.5, 0.5), trials=3)
    work.work()
    assert [trial.state for trial in work.study.trials] == [FAIL, COMPLETE, COMPLETE, FAIL, COMPLETE]
    assert work.study.trials[3].user_attrs["why"] == "queued twice: it is trial 2"
    assert not (tmp_path / "runs/fake/trial_0003").exists()


def twice(tmp_path, **changes):
    """A worker on a study of two settings, the first of which was killed before it had a folder, and queued twice."""
    work = worker(tmp_path, enqueue=queue(1.5, 0.5), trials=3, **changes)
    killed = work.study.tell(work.study.ask(), state=FAIL)
    for _ in range(2):
        requeue(work.study, deepcopy(killed))
    return work


def test_a_dropped_copy_is_not_queued_again_by_an_interruption(tmp_path):
    work = twice(tmp_path)
    objective = work.objective

    def interrupted(trial):
        work.interrupted = trial.number == 3
        return objective(trial)

    work.objective = interrupted
    work.work()
    assert [trial.state for trial in work.study.trials] == [FAIL, COMPLETE, COMPLETE, FAIL]


def test_a_dropped_copy_is_no_failure(tmp_path):
    work = twice(tmp_path, overrides={"does": "fails if negative"})
    work._failures = 2
    copy = work.study.trials[3]
    copy.state, copy.user_attrs = FAIL, {"why": "queued twice: it is trial 2"}
    work.after(work.study, copy)
    assert work._failures == 2


def test_settings_of_a_trial_win_over_the_sweeps_and_those_over_ours(tmp_path):
    work = worker(tmp_path, overrides={"best.mode": "min", "x": 7, "trainer.max_steps": 5})
    found = fit_words(work.sweep, work.slot, {"x": 1.0})
    assert found[:2] == ["--config", "base"]
    assert set(found[2:]) == {
        "--trainer.enable_progress_bar=false",
        "--best.monitor=val/score",
        "--best.mode=min",
        "--trainer.max_steps=5",
        "--x=1.0",
    }


def test_the_same_seed_draws_other_settings_after_a_resumption(tmp_path):
    worker(tmp_path, trials=3).work()
    work = worker(tmp_path, trials=6)
    work.work()
    values = [trial.params["x"] for trial in work.study.trials]
    assert len(set(values)) == 6
