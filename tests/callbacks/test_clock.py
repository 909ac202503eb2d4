"""Schedules that know the length of the run."""

from types import SimpleNamespace

import pytest
import torch

from npexp.callbacks.clock import RunClock
from npexp.errors import ConfigError
from npexp.schedules import WarmupCosine

pytestmark = pytest.mark.usefixtures("untyped")  # stand-ins take the trainer's place


def scheduler(**kwargs) -> WarmupCosine:
    return WarmupCosine(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0), **kwargs)


def rates(schedule: WarmupCosine, steps: int) -> list[float]:
    found = []
    for _ in range(steps):
        found.append(schedule.optimizer.param_groups[0]["lr"])
        schedule.optimizer.step()
        schedule.step()
    return found


def test_the_rate_rises_to_the_full_one_and_falls_to_zero():
    found = rates(scheduler(warmup=0.25, total_steps=13), 15)
    assert found[:4] == pytest.approx([0.5, 1.0, 1.5, 2.0])
    assert found[8] == pytest.approx(1.0) and found[13:] == [0.0, 0.0]


def test_the_length_of_the_run_is_filled_in():
    for warmup in (0.0, 0.3):
        schedule = scheduler(warmup=warmup)
        trainer = SimpleNamespace(
            lr_scheduler_configs=[SimpleNamespace(scheduler=schedule)],
            estimated_stepping_batches=10,
            accumulate_grad_batches=1,
            num_training_batches=4,
        )
        RunClock().on_train_start(trainer, None)
        assert rates(schedule, 10) == pytest.approx(rates(scheduler(warmup=warmup, total_steps=10), 10))


def test_a_resumed_schedule_follows_the_new_length():
    old = scheduler(total_steps=10)
    rates(old, 5)
    new = scheduler(total_steps=20)
    new.load_state_dict(old.state_dict())
    assert new.last_epoch == 5 and rates(new, 2)[1] == pytest.approx(2 * new.factor(6)) and new.total_steps == 20


@pytest.mark.parametrize("kwargs", [{"warmup": -0.1}, {"warmup": 1.0}, {"total_steps": 0}])
def test_impossible_schedules_are_refused(kwargs):
    with pytest.raises(ConfigError):
        scheduler(**kwargs)


def test_a_run_without_end_is_refused():
    trainer = SimpleNamespace(
        lr_scheduler_configs=[SimpleNamespace(scheduler=scheduler())], estimated_stepping_batches=float("inf")
    )
    with pytest.raises(ConfigError, match="max_steps"):
        RunClock().on_train_start(trainer, None)
