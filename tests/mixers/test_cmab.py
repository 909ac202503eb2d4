"""CMAB's pools: exact in and out, no drift over long streams, and a refusal where rounding would win."""

import copy
import math
import os
import subprocess
import sys

import pytest
import torch

import npexp
from npexp.errors import PrecisionError
from npexp.mixers.base import Site, Tokens, make_mixer
from npexp.mixers.cmab import TOLERANCE
from npexp.ops.tree import tensors
from tests.contracts.checks import tiny

SMALL = {"dz": 16, "num_layers": 2, "num_heads": 2, "dim_feedforward": 16, "num_latents": 8, "num_block_latents": 8}


def tokens(h, s=slice(None)):
    return Tokens(h[:, s], h[:, s, :2], None, torch.full((len(h),), h[:, s].shape[1]))


def unit(**settings):
    torch.manual_seed(0)
    return make_mixer("cmab", Site(dx=2, dz=16, num_heads=2, layer=0), {"num_latents": 3, **settings}).double()


@pytest.mark.parametrize("gone", [1, 10, 39])
def test_retract_is_a_softmax_over_what_is_left(gone):
    """Against the softmax spelt out, for the pool and its normaliser."""
    mixer, h = unit(), torch.randn(3, 40, 16, dtype=torch.float64)
    state, _ = mixer.summarise(tokens(h))
    left, _ = mixer.retract(state, tokens(h, slice(gone)))
    k, v, _ = mixer.pool.project(h[:, gone:])
    q = mixer.pool.to_q(mixer.norm_pool(mixer.block_latents)).unflatten(-1, (2, 8)).transpose(0, 1)  # [h, m, dh]
    logits = q @ k.mT / math.sqrt(8)
    torch.testing.assert_close(left.part.lse, logits.logsumexp(-1), rtol=0, atol=1e-12)
    torch.testing.assert_close(left.part.out, logits.softmax(-1) @ v, rtol=0, atol=1e-12)


def test_pools_are_float64_only_where_nothing_is_learnt():
    mixer, h = unit().float(), torch.randn(3, 5, 16)
    assert {t.dtype for t in tensors(mixer.summarise(tokens(h))[0])} == {torch.float32}
    with torch.no_grad():
        state = mixer.summarise(tokens(h))[0]
    assert {t.dtype for t in state.part} == {torch.float64} and state.z.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_not_refused_is_right(dtype):
    """A point at the centre is removed, what is left lies ever farther away: right to the tolerance, or refused."""
    mixer = unit(location_range=1.0)
    exact, mixer = copy.deepcopy(mixer), mixer.to(dtype)
    h = torch.randn(1, 9, 16, dtype=torch.float64)
    refused = []
    for distance in torch.linspace(0, 4, 21).tolist():
        h[..., :2] = torch.randn(1, 9, 2) / 10 + distance * (torch.arange(9) > 0)[None, :, None]
        ctx = tokens(h.to(dtype))
        first = tokens(h.to(dtype), slice(1))
        with torch.no_grad():
            state, expected = mixer.summarise(ctx)[0], exact.summarise(tokens(h.to(dtype).double(), slice(1, 9)))[0]
            try:
                left = mixer.retract(state, first)[0]
            except PrecisionError as error:
                assert "encode the points that remain" in str(error)
                refused.append(distance)
                continue
        assert not refused
        torch.testing.assert_close(left.part.lse, expected.part.lse, rtol=0, atol=TOLERANCE)
        torch.testing.assert_close(left.part.out, expected.part.out, rtol=0, atol=3 * TOLERANCE)
    assert refused and refused[0] > {torch.float32: 0.1, torch.float64: 0.3}[dtype]


def stream(n, seed=1):
    g = torch.Generator().manual_seed(seed)
    x = 4 * torch.rand(1, n, 1, generator=g) - 2
    return x, (3 * x).sin() + 0.1 * torch.randn(x.shape, generator=g)


def gap(a, b):
    return max((a.mean - b.mean).abs().max().item(), (a.stddev - b.stddev).abs().max().item())


def test_a_thousand_single_updates_equal_one_encoding():
    torch.manual_seed(0)
    model = npexp.build("cmanp", dx=1, dy=1, **SMALL).eval()
    (x, y), xt = stream(1034), torch.linspace(-2, 2, 40)[None, :, None]
    with torch.inference_mode():
        state = model.encode(x[:, :0], y[:, :0])
        for i in range(1034):
            state = model.update(state, x[:, i : i + 1], y[:, i : i + 1])
        assert gap(model.predict(state, xt), model(x, y, xt)) < 1e-5


DRIFT = """
import sys, torch, npexp
n = int(sys.argv[1])
torch.manual_seed(0)
small = dict(dz=16, num_layers=1, num_heads=2, dim_feedforward=16, num_latents=8, num_block_latents=8)
model = npexp.build("cmanp", dx=1, dy=1, **small)  # float32, latents with places
predictor, xt, window = npexp.Predictor(model), torch.linspace(-2, 2, 40), 50
x = 4 * torch.rand(window + n, generator=torch.Generator().manual_seed(1)) - 2
y, worst = (3 * x).sin(), 0.0
state = predictor.condition(x[:window], y[:window])
for i in range(n):
    state = predictor.update(state, x[window + i : window + i + 1], y[window + i : window + i + 1])
    state = predictor.remove(state, x[i : i + 1], y[i : i + 1])
    if i % 500 == 499:
        found, left = predictor.predict(state, xt), slice(i + 1, i + 1 + window)
        expected = model(x[None, left, None], y[None, left, None], xt[None, :, None])
        worst = max(worst, *((getattr(found, m) - getattr(expected, m)).abs().max().item() for m in ("mean", "stddev")))
assert int(state.n) == window
print(worst)
"""


@pytest.mark.parametrize("n", [1_000, pytest.param(10_000, marks=pytest.mark.faults)])
def test_insertions_and_removals_leave_no_trace(n):
    """A window over a stream, conditioned at once, then point by point; without type checks, which take longer."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", DRIFT, str(n)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=500)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1e-4


def test_the_predictor_removes_what_a_float32_model_cannot():
    """A whole region goes: the model alone refuses, the predictor's float64 copy does not."""
    torch.manual_seed(0)
    model = npexp.build("cmanp", dx=1, dy=1, **SMALL, location_range=2.0).eval()
    predictor, xt = npexp.Predictor(model), torch.linspace(-2, 2, 40)
    x = torch.linspace(-2, 2, 80)[:, None]
    y, gone = x.sin(), x[:, 0].abs() < 0.8
    with torch.inference_mode(), pytest.raises(PrecisionError, match=r"npexp\.Predictor"):
        model.remove(model.encode(x[None], y[None]), x[None, gone], y[None, gone])
    left = predictor.remove(predictor.condition(x, y), x[gone], y[gone])
    assert gap(predictor.predict(left, xt), model(x[None, ~gone], y[None, ~gone], xt[None, :, None])) < 1e-5


def test_a_predictor_notices_that_its_model_was_trained_on():
    model = tiny("cmanp").float()
    predictor, t = npexp.Predictor(model), torch.randn(30, 2)
    predictor.condition(t, t)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1)
    assert gap(predictor.predict(predictor.condition(t, t), t), model(t[None], t[None], t[None])) < 1e-5
