"""Noise that depends on the number of the batch alone."""

import itertools
from types import SimpleNamespace

import pytest
import torch

from npexp.callbacks.seeding import StepSeed, mix
from npexp.errors import ConfigError

pytestmark = pytest.mark.usefixtures("untyped")  # stand-ins take the trainer's place


def draw(seed: int, number: int, **rest: int) -> float:
    trainer = SimpleNamespace(train_dataloader=SimpleNamespace(number=number), **rest)
    StepSeed(seed).on_train_batch_start(trainer, None, None, 0)
    return torch.rand(()).item()


def test_noise_is_a_function_of_seed_and_batch():
    assert draw(0, 7, global_rank=1, global_step=3) == draw(0, 7, global_rank=0, global_step=1)
    assert len({draw(*words) for words in itertools.product(range(9), repeat=2)}) == 81


def test_batches_without_numbers_are_refused():
    with pytest.raises(ConfigError, match="with the `number` of its newest batch, got list"):
        StepSeed().on_train_batch_start(SimpleNamespace(train_dataloader=[]), None, None, 0)


def test_seeds_do_not_collide_where_sums_do():
    assert len({mix(a, b, c) for a in range(20) for b in range(20) for c in range(4)}) == 1600
    assert 0 <= mix(2**40, 1) < 2**32
