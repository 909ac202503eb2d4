"""A loss or gradient that is not finite ends the run before it does damage, and can be looked at."""

import json

import pytest
import torch

from npexp.errors import ConfigError, DivergenceError
from npexp.replay import again, tasks_per_step
from npexp.run_files import read_rows
from tests.faults.conftest import same

pytestmark = pytest.mark.filterwarnings("ignore:.*PEP 484 type hint.* deprecated by PEP 585")


@pytest.mark.parametrize("what", ["weight", "gradient"])
def test_the_run_stops_before_the_bad_step(here, capsys, what):
    assert here.fit(sabotage="Spoil", step=6, what=what) == DivergenceError.status == 3
    said = capsys.readouterr().err.strip()
    assert "\n" not in said and "diverged at step 6, batch 6, seed " in said
    assert ("weight head.network.0.weight, output of head.network.0" in said) == (what == "weight")
    assert ("finite: gradient of head.network.0.weight" in said) == (what == "gradient")
    assert "npexp replay runs/tiny/0, then go on with npexp fit --ckpt_path runs/tiny/0 with a lower --model" in said
    note = json.loads((here.run / "diverged.json").read_text())
    assert note["step"] == note["batch"] == 6
    assert here.steps() == 5  # the validation after the fifth step
    assert all(v.isfinite().all() for v in here.weights().values())
    assert list(here.rows()) == [0, 1, 2, 3, 4, 5]


def test_it_goes_on_with_a_lower_rate(here, unbroken):
    assert here.fit(sabotage="Spoil", step=6) == 3
    assert here.npexp("fit", "--ckpt_path", "runs/tiny", "--trainer.callbacks=null") == 0
    assert same(here.weights(), unbroken.weights())  # nothing of the bad step is left
    assert not (here.run / "diverged.json").exists()


def test_a_typed_rate_wins_over_the_checkpoints(here, unbroken):
    rate = "--model.optimizer.init_args.lr=1e-5"
    assert here.fit(sabotage="Spoil", step=6) == 3
    assert here.npexp("fit", "--ckpt_path", "runs/tiny", "--trainer.callbacks=null", rate) == 0
    mine, whole = here.rows(), unbroken.rows()
    for step, row in mine.items():
        factor = 1.0 if step < 5 else 1e-5 / 5e-4
        assert row["train/learning_rate"] == pytest.approx(factor * whole[step]["train/learning_rate"], rel=1e-6)
    assert here.checkpoint()["hyper_parameters"]["optimizer"]["init_args"]["lr"] == 1e-5


def test_replay_finds_the_tensors(here, capsys):
    assert here.fit("--model.optimizer.init_args.lr=1e30") == 3
    said = capsys.readouterr().err
    assert here.npexp("replay", "runs/tiny", "--out", "step.pt") == 0
    shown = capsys.readouterr().out
    step = json.loads((here.run / "diverged.json").read_text())["step"]
    assert f"at step {step}," in said and shown.startswith(f"step {step}: train/loss ")
    verdict = said.split("not finite: ")[1].split(". Look")[0]
    assert f"not finite: {verdict}" in shown.replace("\n", "")
    kept = torch.load("step.pt", weights_only=True)
    assert kept["step"] == step and kept["batches"][0]["number"] == step
    assert kept["batches"][0]["yc"].shape[0] == 2


@pytest.mark.parametrize(
    ("devices", "together", "tasks"), [(2, None, 24), ([0, 3], None, 24), ("0,1,5", None, 36), ("auto", 16, 16)]
)
def test_replay_knows_the_tasks_of_a_step(devices, together, tasks):
    trainer = {"devices": devices, "num_nodes": 2, "accumulate_grad_batches": 3}
    assert tasks_per_step({"global_batch_size": together, "trainer": trainer}, 2) == tasks


@pytest.mark.parametrize("devices", ["auto", -1])
def test_replay_asks_for_what_only_the_machine_knew(devices):
    with pytest.raises(ConfigError, match=f"got {devices}: write it into its config.yaml"):
        tasks_per_step({"global_batch_size": None, "trainer": {"devices": devices}}, 2)


@pytest.mark.parametrize("step", [0, 3, 4, 11])
def test_replay_gives_the_very_loss(unbroken, monkeypatch, capsys, step):
    monkeypatch.chdir(unbroken.path)
    before = sorted((p, p.stat().st_mtime_ns) for p in unbroken.run.rglob("*"))
    look, _ = again(unbroken.run, step, str(unbroken.run / "checkpoints/best.ckpt") if step == 11 else None)
    row = read_rows(unbroken.run / "metrics.csv")[step]
    assert look.losses["train/loss"] == row["train/loss"]
    assert sorted((p, p.stat().st_mtime_ns) for p in unbroken.run.rglob("*")) == before
