"""Cells are trained, tested, kept, interrupted, resumed and shared between commands."""

import csv
import json
import threading
import time
from pathlib import Path

import pytest

from npexp.errors import ConfigError, UnknownNameError
from npexp.experiments import command, run
from npexp.experiments.plan import Cell, Plan, Row, cells, contradictions, read
from npexp.experiments.run import Bench, locked
from npexp.report.finished import Finished
from npexp.run_files import METRICS, RESULTS
from npexp.sweep.slots import Slot
from tests.experiments.fake import FIT, TEST
from tests.report.folders import make


@pytest.fixture
def said():
    return []


@pytest.fixture
def bench(tmp_path, said, monkeypatch):
    monkeypatch.setattr(run, "POLL", 0.02)
    monkeypatch.setattr(run, "QUIET", {})
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    return Bench(tmp_path / "results", tmp_path / "runs", Slot(), said.append, FIT, TEST)


def cell(does="well", seed=0, steps=4, row="cnp"):
    return Cell("t", row, seed, ["base"], {"trainer.max_steps": steps, "does": does}, {"batches": 7, "does": does})


def attempts(bench, row="cnp"):
    return (bench.runs / "t" / row / "attempts").read_text().split("\n")[:-1]


def test_a_cell_is_done_once(bench, said):
    assert bench.state(cell()) == "not begun"
    assert bench.work(cell(), threading.Event()) and bench.work(cell(), threading.Event())
    assert attempts(bench) == ["0 0"] and bench.state(cell()) == "done"
    assert json.loads((bench.results / "t/cnp/0" / RESULTS).read_text()) == {"test/loglik_joint": 7.0}
    assert said == [f"cnp, seed 0: {what}" for what in ("trains", "is tested", "done")]


def test_curves_are_thinned_but_not_their_validations(bench, monkeypatch):
    monkeypatch.setattr(run, "KEPT_ROWS", 5)
    assert bench.work(cell(steps=44), threading.Event())
    rows = list(csv.DictReader((bench.results / "t/cnp/0" / METRICS).read_text().splitlines()))
    validated = [int(row["step"]) for row in rows if row["val/loglik_joint"]]
    assert validated == [9, 19, 29, 39]
    assert {int(row["step"]) for row in rows} == set(range(0, 44, 8)) | set(validated) | {43}


def test_times_of_training_survive_the_thinning(tmp_path, monkeypatch):
    """Half of the time is spent in two rows of fifty, while something else was running."""
    folder, place = make(tmp_path / "run", config={"seed_everything": 0}), tmp_path / "results"
    rates = [2.0 if i in (7, 31) else 48.0 for i in range(50)]
    lines = [f"{50 * i + 49},{300 + i},{rate}\n" for i, rate in enumerate(rates)]
    (folder / METRICS).write_text("step,perf/peak_memory_mb,perf/tasks_per_second\n" + "".join(lines))
    monkeypatch.setattr(run, "KEPT_ROWS", 10)
    run.keep(folder, place)
    seconds = sum(50 * 16 / rate for rate in rates)  # of 50 steps of 16 tasks each
    assert Finished(folder).seconds == pytest.approx(seconds) == Finished(place).seconds
    assert len((place / METRICS).read_text().splitlines()) == 12


def test_an_interrupted_cell_goes_on(bench, said):
    stop = threading.Event()
    worker = threading.Thread(target=bench.work, args=(cell("waits"), stop))
    worker.start()
    until = time.monotonic() + 60
    while bench.state(cell("waits")) != "3 steps" and time.monotonic() < until:
        time.sleep(0.01)
    stop.set()
    worker.join(60)
    assert said[-1] == "cnp, seed 0: interrupted: 3 steps" and not bench.done(cell())
    assert bench.work(cell("waits"), threading.Event())
    assert attempts(bench) == ["0 0", "3 0"] and "cnp, seed 0: trains on from its last checkpoint" in said


def test_what_was_killed_before_a_checkpoint_starts_again(bench):
    (bench.runs / "t/cnp/0").mkdir(parents=True)
    (bench.runs / "t/cnp/0/half.txt").touch()
    assert bench.work(cell(), threading.Event())


def test_results_are_kept_under_the_lock(bench, monkeypatch):
    """Another command that saw neither lock nor result would test the run once more."""
    kept, original = [], run.keep

    def keep(folder, place):
        with locked(folder.with_name(f"{folder.name}.lock")) as free:
            kept.append(free)
        original(folder, place)

    monkeypatch.setattr(run, "keep", keep)
    assert bench.work(cell(), threading.Event()) and kept == [False]


def test_a_trained_run_is_not_thrown_away(bench):
    """Even where its last checkpoint has been, to save room."""
    assert not bench.work(cell("is not tested"), threading.Event())
    (bench.runs / "t/cnp/0/checkpoints/last.ckpt").unlink()
    assert bench.work(cell(), threading.Event()) and attempts(bench) == ["0 0"]


def test_a_cell_that_is_trained_is_only_tested(bench, said):
    assert not bench.work(cell("is not tested"), threading.Event())
    log = bench.runs / "t/cnp/output.log"
    assert said[-1] == f"cnp, seed 0: failed: no file; see {log}" and bench.state(cell()) == "trained"
    assert bench.work(cell(), threading.Event()) and attempts(bench) == ["0 0"]


def test_one_failure_does_not_end_a_table(bench, said):
    wanted = [cell("fails", row="bad"), cell(seed=0), cell(seed=1)]
    assert command.work([bench], wanted) == 1
    assert [bench.done(one) for one in wanted] == [False, True, True]
    assert any(line.startswith("bad, seed 0: failed: no luck") for line in said)
    assert attempts(bench) == ["0 0", "0 1"]


def test_a_cell_that_another_command_works_on_is_left_to_it(bench, said):
    with locked(bench.runs / "t/cnp/0.lock") as free:
        assert free and bench.busy(cell()) and not bench.work(cell(), threading.Event())
    assert not bench.busy(cell()) and not bench.busy(cell(seed=1))
    assert said == ["cnp, seed 0: another command works on it"] and not (bench.runs / "t/cnp/0").exists()


def test_two_workers_share_the_cells(bench, said):
    assert command.work([bench, bench], [cell(seed=seed) for seed in range(4)]) == 0
    assert sorted(attempts(bench)) == [f"0 {seed}" for seed in range(4)]


def test_time_is_up(bench):
    started = time.monotonic()
    assert command.work([bench], [cell("waits"), cell(seed=1)], minutes=1 / 120) == 1
    assert time.monotonic() - started < 60 and not bench.done(cell(seed=1))


def test_results_of_other_settings_are_told(bench, said):
    assert bench.work(cell(), threading.Event())
    assert bench.state(cell(steps=8)) == "done, but with trainer.max_steps=4"
    assert bench.work(cell(steps=8), threading.Event()) and attempts(bench) == ["0 0"]
    assert said[-1].startswith("cnp, seed 0: done, but with trainer.max_steps=4: delete ")
    config = {"model.net.init_args.num_latents": 8, "seed_everything": 1}
    wanted = cell()._replace(fit={"model.net.num_latents": 16})
    assert contradictions(wanted, config) == ["model.net.num_latents=8", "seed_everything=1"]


def test_cells_begin_with_every_first_seed():
    rows = {"a": Row(["base"], fit={"x": 2}), "b": Row(["base"], seeds=[5])}
    plan = Plan(1, "", "", "", rows, fit={"x": 1, "y": 1}, seeds=[0, 1])
    found = cells(plan, "t")
    assert [(one.row, one.seed) for one in found] == [("a", 0), ("b", 5), ("a", 1)]
    assert found[0].fit == {"x": 2, "y": 1} and found[1].fit == {"x": 1, "y": 1}


def test_mistakes_in_a_table(tmp_path):
    text = "{chapter: 1, title: a, question: b, protocol: c"
    for name, more, kind, match in (
        ("none", "}", ConfigError, "either rows or commands"),
        ("key", ", row: {}}", UnknownNameError, "'rows'"),
        ("config", ", rows: {a: {configs: [base2]}}}", ConfigError, "base"),
        ("slash", ", rows: {a/b: {configs: [base]}}}", ConfigError, "without '/'"),
    ):
        path = tmp_path / f"{name}.yaml"
        path.write_text(text + more)
        with pytest.raises(kind, match=match):
            read(str(path))
    with pytest.raises(UnknownNameError, match="gp_1d"):
        read("gp_1")
