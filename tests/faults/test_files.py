"""Disks that are full, folders that cannot be written, files that are damaged: one line, and a run that can go on."""

import os
import resource

import pytest

from npexp.errors import DataError, StorageError
from npexp.files import whole_file
from npexp.loggers import Board, MetricsFile
from npexp.run_files import read_rows
from tests.faults.conftest import same
from tests.faults.sabotage import ReadOnly, ReadOnlyDisk

pytestmark = pytest.mark.filterwarnings("ignore:.*PEP 484 type hint.* deprecated by PEP 585")


@pytest.fixture
def read_only():
    """What `sabotage.ReadOnlyDisk` switches on."""
    disk = ReadOnlyDisk.disk = ReadOnly()
    yield disk
    disk.below = None


def one_line(capsys) -> str:
    said = capsys.readouterr().err.strip()
    assert said.startswith("npexp: ") and "\n" not in said, said
    return said


def test_a_file_is_there_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new/file.txt"
    with whole_file(path) as file:
        file.write("one")
    with pytest.raises(ZeroDivisionError), whole_file(path) as file:
        file.write("two")
        file.write(str(1 / 0))
    assert path.read_text() == "one"
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


def test_two_processes_may_write_the_same_file(tmp_path, monkeypatch):
    path = tmp_path / "failure.json"
    with whole_file(path) as one:
        one.write("the longer one")
        with monkeypatch.context() as patch:
            patch.setattr(os, "getpid", lambda: 1)
            with whole_file(path) as other:
                other.write("short")
        assert path.read_text() == "short"
    assert path.read_text() == "the longer one"


@pytest.mark.parametrize("name", ["checkpoints/last.ckpt", "checkpoints/best.ckpt", "metrics.csv"])
def test_a_full_disk(here, unbroken, capsys, name):
    assert here.fit(sabotage="FillDisk", step=6, name=name) == StorageError.status == 4
    said = one_line(capsys)
    assert f"cannot write {here.run / name} (No space left on device)" in said and said.endswith(
        "npexp fit --ckpt_path runs/tiny/0"
    )
    assert not list(here.run.rglob("*.part"))
    steps = here.steps()
    assert steps == (8 if "best" in name else 5)  # last.ckpt is due after 4 and 8 steps and each validation

    assert here.npexp("fit", "--ckpt_path", "runs/tiny", "--trainer.callbacks=null") == 0
    assert same(here.weights(), unbroken.weights())
    assert here.rows() == unbroken.rows()


def test_a_full_disk_for_the_board(tmp_path, capfd):
    board = Board(tmp_path, "run", 0)
    board.log_metrics({"a": 1.0}, 0)
    board.save()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        writer = board.experiment.file_writer.event_writer._async_writer._worker
        with pytest.raises(StorageError, match=r"cannot write .*run/0 \(File too large\): make room"):
            board.log_metrics({"a": 2.0}, 1)
            board.save()
        board.finalize("failed")  # does not hide the first error behind a second one
        writer.join(timeout=10)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert capfd.readouterr().err == ""  # TensorBoard writes in a thread, which leaves the word to us


def test_a_disk_that_turns_read_only(here, unbroken, capfd, read_only):
    """As a system does to a disk with errors: from one step on nothing can be written, whoever tries."""
    assert here.fit(sabotage="ReadOnlyDisk", step=6) == StorageError.status == 4
    said = one_line(capfd)
    assert f"cannot write {here.run}" in said and "(Read-only file system): make room or" in said
    assert said.endswith("npexp fit --ckpt_path runs/tiny/0") and here.steps() == 5 and read_only.refused

    read_only.below = None
    assert here.npexp("fit", "--ckpt_path", "runs/tiny", "--trainer.callbacks=null") == 0
    assert same(here.weights(), unbroken.weights())
    assert here.rows() == unbroken.rows()


def test_a_folder_that_cannot_be_written(here, capsys):
    (here.path / "runs").write_text("a file where the folder should be")
    assert here.fit() == 2
    assert "cannot make the run folder" in one_line(capsys)
    file = MetricsFile(here.path / "tiny.yaml/metrics.csv")
    with pytest.raises(StorageError, match=r"cannot write .*metrics.csv \(.*\): make room .* back$"):
        file.log_metrics({"a": 1.0}, 0)


def test_a_damaged_checkpoint(here, capsys):
    assert here.fit("--trainer.max_steps=6") == 0
    last, best = (here.run / f"checkpoints/{name}.ckpt" for name in ("last", "best"))
    whole = last.read_bytes()
    flipped = bytearray(whole)
    flipped[whole.find(here.weights()["net.head.network.0.weight"].numpy().tobytes()) + 9] ^= 1
    for content in (whole[: len(whole) // 2], bytes(flipped), b""):
        last.write_bytes(content)
        capsys.readouterr()
        assert here.npexp("fit", "--ckpt_path", "runs/tiny", "--trainer.max_steps=8") == 2
        said = one_line(capsys)
        assert f"{last} is no checkpoint" in said and f"use --ckpt_path {best}, which has 5 steps" in said
    assert here.npexp("fit", "--ckpt_path", str(best), "--trainer.max_steps=8") == 0
    assert here.steps() == 8
    best.write_bytes(whole[:-100])
    assert here.npexp("test", "--ckpt_path", "runs/tiny") == 2
    assert f"use --ckpt_path {last}, which has 8 steps" in one_line(capsys)


def test_damaged_metrics(here, capsys):
    assert here.fit("--trainer.max_steps=5") == 0
    path = here.run / "metrics.csv"
    path.write_bytes(path.read_bytes()[:-10] + b"\0\0\n1,2\n")
    with pytest.raises(DataError, match="is damaged near line"):
        read_rows(path)
    capsys.readouterr()
    words = "fit", "--ckpt_path", "runs/tiny", "--trainer.max_steps=8"
    assert here.npexp(*words) == 2
    assert f"{path} is damaged near line" in one_line(capsys)
    path.unlink()
    assert here.npexp(*words) == 0
    assert list(here.rows()) == [5, 6, 7]


def test_a_damaged_configuration(here, capsys):
    assert here.fit("--trainer.max_steps=5") == 0
    for content in ("model: {net: [", "\0\0\0", ""):
        (here.run / "config.yaml").write_text(content)
        capsys.readouterr()
        assert here.npexp("fit", "--ckpt_path", "runs/tiny") == 2
        assert f"{here.run / 'config.yaml'} is damaged: give the --config" in one_line(capsys)
    assert here.fit("--ckpt_path", "last", "--trainer.max_steps=6") == 0
    assert here.steps() == 6


def test_leftovers_of_a_kill_are_cleared(here):
    assert here.fit("--trainer.max_steps=5") == 0
    part = here.run / "checkpoints/best.ckpt.4711.part"
    part.write_bytes(b"half")
    assert here.npexp("fit", "--ckpt_path", "runs/tiny", "--trainer.max_steps=6") == 0
    assert not part.exists()


def test_a_checkpoints_own_step_is_in_the_metrics_before_it(here):
    assert here.fit(sabotage="FillDisk", step=3, name="checkpoints/last.ckpt") == 4
    assert list(here.rows()) == [0, 1, 2, 3]
    assert not list(here.run.rglob("last.ckpt"))
