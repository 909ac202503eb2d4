"""Figures of a study: what is drawn is what the study holds."""

import itertools
import re

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

from npexp.errors import ConfigError
from npexp.sweep import figures, pages
from npexp.sweep.figures import front_line
from npexp.sweep.table import published, state
from tests.sweep.studies import LR, MEMORY, MIXER, NUM_LATENTS, SECONDS, costs, study

KINDS = {"complete": "trial", "infeasible": "breaks a constraint", "pruned": "pruned, last value"}


def lines(axis):
    """What an axis shows, by its place in the legend."""
    return {line.get_label(): list(zip(*line.get_data(), strict=True)) for line in axis.lines}


@pytest.mark.parametrize("low_cost", [True, False])
@pytest.mark.parametrize("low_value", [True, False])
def test_front_line_is_what_nothing_beats(low_cost, low_value):
    points = [tuple(p) for p in np.random.default_rng(0).integers(0, 12, (60, 2)).tolist()]

    def better(a, b, low):
        return a < b if low else a > b

    def beaten(p):
        return any(
            not better(p[0], q[0], low_cost)
            and not better(p[1], q[1], low_value)
            and (better(q[0], p[0], low_cost) or better(q[1], p[1], low_value))
            for q in points
        )

    expected = sorted({p for p in points if not beaten(p)}, reverse=not low_cost)
    assert front_line(points, low_cost, low_value) == expected
    assert front_line([], low_cost, low_value) == []


@pytest.mark.parametrize("several", [False, True])
def test_pareto_shows_every_trial_where_it_belongs(several):
    made = study(several)
    found = figures.pareto(made)
    assert [axis.get_xlabel() for axis in found.axes] == ["training time, seconds", "peak memory, MiB"]
    for axis, cost in zip(found.axes, (SECONDS, MEMORY), strict=True):
        shown = lines(axis)
        for kind, label in (
            ("complete", "trial"),
            ("infeasible", "breaks a constraint"),
            ("pruned", "pruned, last value"),
        ):
            # A pruned trial spent half; with several metrics one that is pruned has no values.
            half = 0.5 if kind == "pruned" else 1.0
            expected = [
                (half * costs(t.params[NUM_LATENTS])[cost], t.values[0])
                for t in made.trials
                if state(t) == kind and t.values
            ]
            assert shown.get(label, []) == expected
        assert shown["published setting"] == [(costs(64)[cost], published(made).values[0])]
        assert shown["Pareto front"] == front_line(shown["trial"], True, False)


def test_history_shows_the_best_so_far():
    made = study()
    (axis,) = figures.history(made).axes
    done = [t for t in made.trials if state(t) == "complete"]
    best = list(np.maximum.accumulate([t.value for t in done]))
    assert lines(axis)["best so far"] == list(zip([t.number for t in done], best, strict=True))
    assert lines(axis)["pruned, last value"] == [(t.number, t.value) for t in made.trials if state(t) == "pruned"]
    labels = [axis.get_ylabel() for axis in figures.history(study(several=True)).axes]
    assert labels == ["val/loglik_joint, nats per target", "training time, seconds", "peak memory, MiB"]


def test_history_goes_down_where_less_is_better():
    axis = figures.history(study(several=True)).axes[1]
    assert [y for _, y in lines(axis)["best so far"]] == [74, 43, 43, 43, 43, 43, 25, 25]


def test_slices_have_a_panel_per_setting():
    made = study()
    found = {axis.get_xlabel(): axis for axis in figures.slices(made).axes}
    assert set(found) == {"num_latents", "lr", "mixer"}
    done = [t for t in made.trials if state(t) == "complete"]
    for name, option in (("num_latents", NUM_LATENTS), ("lr", LR)):
        assert lines(found[name])["trial"] == [(t.params[option], t.value) for t in done]
        assert found[name].get_xscale() == "log"
    assert lines(found["mixer"])["trial"] == [(["dense", "linear"].index(t.params[MIXER]), t.value) for t in done]


def test_importance_is_optunas():
    made = study(num_trials=20)
    (axis,) = figures.importance(made).axes
    shown = dict(
        zip([t.get_text() for t in axis.get_yticklabels()], [p.get_width() for p in axis.patches], strict=True)
    )
    whole = optuna.create_study(direction="maximize")
    for t in made.trials[:-1]:  # the last has failed
        whole.add_trial(create_trial(value=t.value, params=t.params, distributions=t.distributions))
    expected = optuna.importance.get_param_importances(whole)
    assert shown == {name.rpartition(".")[2]: share for name, share in expected.items()}
    assert sum(shown.values()) == pytest.approx(1.0)


def test_importance_knows_what_was_pruned():
    made = study(num_trials=0)
    space = {"a": FloatDistribution(0.0, 1.0), "b": FloatDistribution(0.0, 1.0)}
    for a, b in itertools.product(np.linspace(0, 1, 8).tolist(), np.linspace(0, 1, 5).tolist()):
        state = TrialState.COMPLETE if a == 1 else TrialState.PRUNED  # all that depends on a is among the pruned
        made.add_trial(create_trial(state=state, value=a, params={"a": a, "b": b}, distributions=space))
    (axis,) = figures.importance(made).axes
    assert [t.get_text() for t in axis.get_yticklabels()] == ["a", "b"]
    assert axis.patches[0].get_width() > 0.8
    assert "importance" in dict(pages.pages(made))


def test_too_few_trials_for_importance_are_said():
    made = study(num_trials=9)
    with pytest.raises(ConfigError, match="needs 10 trials of two settings that have values, there are 8"):
        figures.importance(made)
    assert "importance" not in dict(pages.pages(made))


def test_costs_that_no_trial_reports_are_said():
    made = optuna.create_study(direction="maximize")
    made.set_user_attr("sweep", {"metrics": ["val/loglik_joint"]})
    made.add_trial(create_trial(value=1.0))
    with pytest.raises(ConfigError, match="no trial reports"):
        figures.pareto(made)
    assert "pareto" not in dict(pages.pages(made))


@pytest.mark.parametrize("several", [False, True])
def test_files(several, tmp_path):
    made = study(several)
    drawn, missing = figures.write_figures(made, tmp_path / "new")
    assert drawn == ["pareto.png", "history.png", "slices.png", "importance.png"]
    assert missing == []
    for name in drawn:
        assert (tmp_path / "new" / name).read_bytes().startswith(b"\x89PNG")
    names = pages.write_pages(made, tmp_path / "new")
    more = [] if several else ["curves.html", "importance.html"]
    assert names == ["pareto.html", "history.html", "slices.html", "contours.html", *more]
    for name in names:  # readable without a network
        assert re.search(r'<script[^>]* src="plotly.min.js"', (tmp_path / "new" / name).read_text())
    assert (tmp_path / "new" / "plotly.min.js").is_file()


@pytest.mark.parametrize("several", [False, True])
def test_pages_call_settings_by_their_short_names(several):
    made = study(several)
    for _, figure in pages.pages(made):
        assert "init_args" not in figure.to_json()
    assert set(figures.options(made)) == {NUM_LATENTS, LR, MIXER}  # the study itself keeps them


def test_tradeoff_has_the_front_of_the_line():
    made = study()
    view = pages.tradeoff(made, ["val/loglik_joint", SECONDS])
    done = [t for t in made.trials if state(t) == "complete"]
    expected = front_line([(costs(t.params[NUM_LATENTS])[SECONDS], t.value) for t in done], True, False)
    assert sorted((t.values[1], t.values[0]) for t in view.best_trials) == expected


def test_figures_need_values(tmp_path):
    made = study(num_trials=1)  # the last, which failed
    with pytest.raises(ConfigError, match="no trial with values yet"):
        figures.write_figures(made, tmp_path)


def test_figures_need_a_folder(tmp_path):
    (tmp_path / "file").touch()
    for write in (figures.write_figures, pages.write_pages):
        with pytest.raises(ConfigError, match="cannot write to"):
            write(study(), tmp_path / "file")
