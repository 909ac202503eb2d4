"""The training side of a sweep, in process: what it reports, how it stops, and how it goes on after a kill."""

import json
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from npexp.callbacks.trial import Trial
from npexp.errors import DivergenceError
from npexp.exchange import FAILURE, REPORTS, RESULT, STOP, read, reports
from npexp.training_cli import IRRELEVANT_WARNINGS

pytestmark = [pytest.mark.filterwarnings(f"ignore:{message}") for message in IRRELEVANT_WARNINGS]
pytestmark += [pytest.mark.filterwarnings("ignore:.*resuming from a checkpoint that ended before the epoch")]


class Line(LightningModule):
    """Learns one weight; its score is the step, or NaN at step 4."""

    def __init__(self, breaks_at: int | None = None):
        super().__init__()
        self.layer, self.breaks_at = torch.nn.Linear(1, 1), breaks_at

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

    def training_step(self, batch, batch_idx):
        if self.global_step == self.breaks_at:
            raise DivergenceError("training diverged\nat a step")
        return self.layer(batch).square().mean()

    def validation_step(self, batch, batch_idx):
        step = float(self.global_step)
        self.log("val/score", float("nan") if step == 4 else step)


class StopAt(Callback):
    """The worker's part: asks a trial to stop after a step."""

    def __init__(self, folder, step):
        self.folder, self.step = folder, step

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            (self.folder / STOP).touch()


def fit(folder, *callbacks, steps=6, module=None, resume=False):
    """Trains in that folder, validating every second step."""
    folder.mkdir(exist_ok=True)
    last = ModelCheckpoint(folder, filename="last", save_on_train_epoch_end=False, enable_version_counter=False)
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        val_check_interval=2,
        check_val_every_n_epoch=None,
        log_every_n_steps=3,
        num_sanity_val_steps=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[*callbacks, Trial(folder), last],
    )
    data = torch.utils.data.DataLoader(torch.ones(50, 1))
    trainer.fit(module or Line(), data, data, ckpt_path=folder / "last.ckpt" if resume else None)
    return trainer


def test_each_validation_is_reported_and_the_result_says_the_rest(tmp_path):
    fit(tmp_path / "a")
    found = reports(tmp_path / "a")
    assert [(report["step"], report["metrics"]["val/score"]) for report in found] == [(2, 2.0), (4, None), (6, 6.0)]
    seconds = [report["seconds"] for report in found]
    assert 0 < seconds[0] < seconds[1] < seconds[2]
    result = read(tmp_path / "a" / RESULT)
    assert result["val/score"] == 6.0 and result["parameters"] == 2 and result["steps"] == 6
    assert result["perf/train_seconds"] >= seconds[2] and result["perf/peak_memory_mb"] >= found[2]["peak"] > 0
    assert not result["stopped"]


def test_a_trial_stops_when_it_is_told_to(tmp_path):
    folder = tmp_path / "a"
    trainer = fit(folder, StopAt(folder, 3))  # seen at once: it is a step that is logged
    assert trainer.global_step == 3 and read(folder / RESULT)["stopped"]
    folder = tmp_path / "b"
    trainer = fit(folder, StopAt(folder, 4))  # seen by the validation after it
    assert trainer.global_step == 4 and read(folder / RESULT)["stopped"]
    folder = tmp_path / "c"
    fit(folder, StopAt(folder, 6))  # too late to make a difference
    assert not read(folder / RESULT)["stopped"]


def test_a_killed_trial_goes_on_as_if_it_had_not_been(tmp_path):
    folder = tmp_path / "a"
    fit(folder, steps=4)  # what a kill would leave: a checkpoint at step 4 ...
    (folder / RESULT).unlink()
    before = reports(folder)
    later = {"step": 6, "seconds": 99.0, "peak": 1.0, "metrics": {}}
    with (folder / REPORTS).open("a") as file:  # ... later reports, and half a line
        file.write(json.dumps(later) + "\n" + '{"step": 8, "sec')
    fit(folder, resume=True)
    found = reports(folder)
    assert found[:3] == [*before, later] and [report["step"] for report in found] == [2, 4, 6, 6]
    assert before[1]["seconds"] < found[3]["seconds"] < 99.0  # goes on from the checkpoint's
    assert read(folder / RESULT)["val/score"] == 6.0


def test_a_trial_killed_between_its_last_checkpoint_and_its_result_has_one(tmp_path):
    folder = tmp_path / "a"
    fit(folder)
    result = read(folder / RESULT)
    (folder / RESULT).unlink()
    fit(folder, resume=True)
    again = read(folder / RESULT)
    assert len(reports(folder)) == 3
    same = ("val/score", "steps", "parameters", "stopped")
    assert {key: again[key] for key in same} == {key: result[key] for key in same}
    assert again["perf/train_seconds"] == reports(folder)[-1]["seconds"]


def test_an_error_is_told_by_its_kind(tmp_path, untyped):
    with pytest.raises(DivergenceError):
        fit(tmp_path / "a", module=Line(breaks_at=3))
    assert read(tmp_path / "a" / FAILURE) == {"kind": "DivergenceError", "why": "training diverged at a step"}
    Trial(tmp_path / "a").on_exception(None, None, RuntimeError("connection closed"))  # another process, later
    assert read(tmp_path / "a" / FAILURE)["kind"] == "DivergenceError"
    assert read(tmp_path / "a" / RESULT) is None
    (tmp_path / "a" / FAILURE).unlink()
    Trial(tmp_path / "a").on_exception(None, None, RuntimeError("gloo/transport: connection closed"))  # the only one
    assert read(tmp_path / "a" / FAILURE)["kind"] == "LostProcessError"


@pytest.mark.usefixtures("untyped")  # stand-ins take the trainer's place
@pytest.mark.parametrize("there", [True, False])
def test_all_processes_do_what_the_first_one_sees(tmp_path, there):
    if there:
        (tmp_path / STOP).touch()
    told = []  # what the first process says, heard by the second

    def process(rank):
        def broadcast(value):
            told.append(value)
            return told[0]

        trainer = SimpleNamespace(
            global_step=3, log_every_n_steps=3, is_global_zero=rank == 0, should_stop=False,
            strategy=SimpleNamespace(broadcast=broadcast),
        )  # fmt: skip
        callback = Trial(tmp_path if rank == 0 else tmp_path / "another disk")
        callback.on_train_batch_end(trainer)
        return trainer.should_stop, callback.stopped

    assert process(0) == process(1) == (there, there)
    assert len(told) == 2  # both took part, or one would wait for ever
