"""What most of the time goes into, for pytest-benchmark: `make bench` shows what is slower than in the run before.

Not part of the test suite, and with a pytest.ini beside it: the suite's checks of shapes would be measured too.
"""

import time
from types import SimpleNamespace

import pytest
import torch

import npexp
from benchmarks.train_step import BATCH, CONTEXT, TARGETS, Protocol, our_step

MODELS = ("tnp", "lbanp", "cmanp", "rmnp")
NC, NEW, NT = 1024, 10, 256

pytestmark = pytest.mark.benchmark(timer=time.process_time, warmup=True, warmup_iterations=2, min_rounds=10)


def points(b, n):
    """Of a sine."""
    x = torch.rand(b, n, 1) * 4 - 2
    return x, x.sin()


@pytest.fixture
def one_thread():
    """However many there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=MODELS)
def model(request, one_thread):
    torch.manual_seed(0)
    return npexp.build(request.param, dx=1, dy=1)


@pytest.fixture
def asked(model):
    """A model that has seen a thousand points, and what it is asked."""
    model.eval()
    seen = points(1, NC)
    with torch.inference_mode():
        yield SimpleNamespace(
            model=model, seen=seen, state=model.encode(*seen), new=points(1, NEW), xt=points(1, NT)[0]
        )


def test_train_step(benchmark, model):
    (xc, yc), (xt, yt) = points(BATCH, CONTEXT), points(BATCH, TARGETS)
    benchmark(our_step(model.train(), Protocol(), npexp.TaskBatch(xc, yc, xt, yt)))


def test_encode(benchmark, asked):
    benchmark(asked.model.encode, *asked.seen)


def test_update(benchmark, asked):
    benchmark(asked.model.update, asked.state, *asked.new)


def test_predict(benchmark, asked):
    law = benchmark(lambda: asked.model.predict(asked.state, asked.xt).stddev)
    assert law.shape == (1, NT, 1)


def test_gp_batch(benchmark, one_thread):
    data = npexp.build_data("gp_rbf", num_context=[25, 25], num_target=[25, 25], max_points=50)
    benchmark(data.make_batch, "train", 0)
