"""The metrics file and the board keep their history over a resume, each step once."""

import math

import pytest
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams.backend_context import Context

from npexp.loggers import Board, MetricsFile
from npexp.run_files import read_rows


def test_rows_of_one_step_are_one_row(tmp_path):
    file = MetricsFile(tmp_path / "metrics.csv")
    file.log_metrics({"train/loss": 1.0, "epoch": 0}, step=4)
    file.log_metrics({"val/loss": 2.0, "epoch": 0}, step=4)
    file.log_metrics({"train/loss": math.inf}, step=9)
    file.finalize("success")
    assert read_rows(file.path) == {4: {"epoch": 0, "train/loss": 1.0, "val/loss": 2.0}, 9: {"train/loss": math.inf}}
    assert file.path.read_text().splitlines()[0] == "step,epoch,train/loss,val/loss"


def test_a_resumed_file_drops_what_will_come_again(tmp_path):
    first = MetricsFile(tmp_path / "metrics.csv")
    for step in range(6):
        first.log_metrics({"a": float(step)}, step)
    first.write()
    second = MetricsFile(first.path, resume_step=4)
    second.log_metrics({"a": 40.0, "b": 1.0}, 4)
    second.write()
    rows = read_rows(first.path)
    assert list(rows) == [0, 1, 2, 3, 4]
    assert rows[3] == {"a": 3.0} and rows[4] == {"a": 40.0, "b": 1.0}


def test_a_new_run_starts_a_new_file(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,a\n0,1.0\n")
    file = MetricsFile(tmp_path / "metrics.csv")
    file.log_metrics({"a": 2.0}, 7)
    file.write()
    assert read_rows(file.path) == {7: {"a": 2.0}}


def test_the_file_is_written_now_and_then(tmp_path):
    file = MetricsFile(tmp_path / "metrics.csv", seconds=1000.0)
    for step in range(3):
        file.log_metrics({"a": 0.0}, step)
    assert list(read_rows(file.path)) == [0]  # the rest waits
    file.save()
    assert list(read_rows(file.path)) == [0]
    file.write()
    assert list(read_rows(file.path)) == [0, 1, 2]
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.csv"]


def scalars(folder, tag: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def test_a_resumed_board_hides_what_comes_again(tmp_path):
    first = Board(tmp_path, "run", 0)
    for step in range(4):
        first.log_metrics({"a": 1.0}, step)
    first.finalize("success")
    second = Board(tmp_path, "run", 0, resume_step=2)
    for step in range(2, 5):
        second.log_metrics({"a": 2.0}, step)
    second.finalize("success")
    assert scalars(tmp_path / "run" / "0", "a") == [(0, 1.0), (1, 1.0), (2, 2.0), (3, 2.0), (4, 2.0)]


def test_a_board_for_tests_logs_at_the_checkpoints_step(tmp_path):
    board = Board(tmp_path, "run", 3, at_step=500)
    board.log_metrics({"test/a": 1.0}, 0)
    board.finalize("success")
    assert scalars(tmp_path / "run" / "3", "test/a") == [(500, 1.0)]
    assert not list(tmp_path.rglob("hparams.yaml"))


def test_the_table_has_the_settings_of_all_runs_those_that_differ_first(tmp_path):
    for version, settings in enumerate([{"depth": 2, "width": 8}, {"depth": 2, "width": 9, "latents": 4, "lr": None}]):
        board = Board(tmp_path, "run", version)
        board.log_hyperparams(settings, {"hp/a": 0.5})
        board.finalize("success")
    runs = EventMultiplexer().AddRunsFromDirectory(str(tmp_path)).Reload()
    board, request = Context(TBContext(data_provider=MultiplexerDataProvider(runs, str(tmp_path)))), RequestContext()
    table = board.experiment_from_metadata(request, "", True, board.hparams_metadata(request, ""), [])
    assert [(info.name, info.differs) for info in table.hparam_infos] == [
        ("width", True),
        ("depth", False),
        ("latents", False),
    ]
    assert [info.name.tag for info in table.metric_infos] == ["hp/a"]


@pytest.mark.parametrize("metrics", [None, {}])
def test_hyperparameters_without_metrics_write_nothing(tmp_path, metrics):
    board = Board(tmp_path, "run", 0)
    board.log_hyperparams({"nested": {"a": 1}}, metrics)
    board.finalize("success")
    events = EventAccumulator(board.log_dir).Reload()
    assert events.Tags()["scalars"] == [] and "_hparams_/session_start_info" not in events.summary_metadata
