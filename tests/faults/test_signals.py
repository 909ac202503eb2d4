"""A run that is asked to end does so with its newest state written, and goes on as if nothing had been."""

import signal

import pytest

from tests.faults.conftest import same

pytestmark = pytest.mark.filterwarnings("ignore:.*PEP 484 type hint.* deprecated by PEP 585")


@pytest.mark.parametrize(
    ("number", "step", "validating", "after"),
    [
        (signal.SIGTERM, 2, False, 3),  # the step is done first
        (signal.SIGINT, 4, False, 5),  # with the validation that follows it
        (signal.SIGTERM, 5, True, 5),  # a validation is not cut short
        (signal.SIGTERM, 6, False, 7),  # the last step of an epoch
    ],
)
def test_a_signal_ends_the_run_well(here, unbroken, capsys, number, step, validating, after):
    words = {"number": int(number), "step": step, "validating": str(validating).lower()}
    handlers = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    assert here.fit(sabotage="Signal", **words) == 128 + number
    said = capsys.readouterr().err.strip()
    assert said.startswith(f"npexp: {number.name}: stopped after {after} steps; go on with") and "\n" not in said
    assert here.steps() == after
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == handlers

    assert here.npexp("fit", "--ckpt_path", "runs/tiny", "--trainer.callbacks=null") == 0
    assert same(here.weights(), unbroken.weights())
    assert here.rows() == unbroken.rows()


def test_a_signal_between_two_batches_of_a_step(here, capsys):
    together = "--global_batch_size=6"  # three batches
    assert here.fit(together, sabotage="Signal", number=15, step=2) == 143
    assert "stopped after 2 steps" in capsys.readouterr().err and here.steps() == 2
    assert here.npexp("fit", "--ckpt_path", "runs/tiny", "--trainer.callbacks=null") == 0
    assert here.fit(together, "--name=whole") == 0
    stopped, rows = here.weights(), here.rows()
    here.run = here.run.parents[1] / "whole/0"
    assert same(stopped, here.weights())
    assert rows == here.rows()
