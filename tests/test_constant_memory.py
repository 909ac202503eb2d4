"""Constant memory is a measurement: the peak of conditioning on many points against that on a few thousand."""

import json
import subprocess
import sys

import pytest

SCRIPT = """
import json, sys, torch, npexp
from pathlib import Path

def peak():
    return int(next(l for l in Path("/proc/self/status").read_text().splitlines() if l.startswith("VmHWM")).split()[1])

torch.manual_seed(0)
predictor = npexp.Predictor(npexp.build(sys.argv[1], dx=1, dy=1, **json.loads(sys.argv[4])))
def stream(n, chunk=1000):
    for i in range(0, n, chunk):
        x = torch.linspace(-2, 2, chunk) + 1e-6 * i
        yield x, x.sin()

predictor.predict(predictor.condition(stream(20_000)), torch.zeros(1))  # warm-up: pools, workspaces, a settled heap
before = peak()
state = predictor.condition(stream(int(sys.argv[2]), int(sys.argv[3])))
assert predictor.predict(state, torch.zeros(1)).mean.isfinite().all() and int(state.n) == int(sys.argv[2])
print(peak() - before)
"""


def growth(name: str, points: int, chunk: int = 1000, **settings: int) -> float:
    """MiB by which the peak grows beyond that of twenty thousand points, in a process of its own."""
    words = [sys.executable, "-c", SCRIPT, name, str(points), str(chunk), json.dumps(settings)]
    done = subprocess.run(words, capture_output=True, text=True, env={"OMP_NUM_THREADS": "1"}, timeout=300)
    assert done.returncode == 0, done.stderr
    return int(done.stdout) / 1024


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("name", ["cmanp", "np", "rmnp_hybrid"])
def test_a_stream_needs_no_memory(name):
    assert growth(name, 100_000) < 8


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_measurement_sees_a_model_that_keeps_its_points():
    assert growth("lbanp", 100_000) > 40


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_million_points_need_no_memory():
    """In chunks that are larger than what the model takes in at once, and with a small model, for speed."""
    assert growth("cmanp", 1_000_000, 10_000, dz=16, num_layers=1, num_latents=8, num_block_latents=8) < 64
