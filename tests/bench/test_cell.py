"""What is measured of a cell: operations and bytes by hand, and what each mode runs."""

import pytest
import torch
from torch import nn

import npexp
from npexp.bench import cell as cells
from npexp.bench import command
from npexp.bench.cell import MODES, Cell, inputs, measured, prepare
from npexp.bench.subjects import Subject, load, recipe
from npexp.likelihoods.gaussian import DiagonalGaussian
from npexp.mixers.base import find_mixer
from npexp.models.base import NeuralProcess, State

CELL = Cell("", "encode", 40, 6, 1, "cpu", "float32", 3)


class Linear(NeuralProcess):
    """y = W x of the targets; the state is the context through a matrix."""

    def __init__(self):
        super().__init__(3, 5)
        self.pool, self.map = nn.Linear(8, 7, bias=False), nn.Linear(3, 5, bias=False)

    def _encode(self, points):
        return self.pool(torch.cat([points.x, points.y], -1))

    def _predict(self, state, xt, mask_t):
        mean = self.map(xt) + 0 * state.summary.mean()
        return DiagonalGaussian(mean, torch.ones_like(mean))


@pytest.fixture
def linear():
    return Subject(Linear(), recipe(["base"]))


def test_modes_are_those_of_the_command():
    assert tuple(MODES) == command.MODES


@pytest.mark.parametrize(
    ("mode", "flops"),
    [
        ("encode", 2 * 40 * 8 * 7),
        ("predict", 2 * 6 * 3 * 5),
        ("update", 2 * 50 * 8 * 7),  # encodes anew
        ("sample", 2 * 6 * 3 * 5),
        # forward, and the gradients of weights; inputs need none
        ("train", 2 * (2 * 40 * 8 * 7 + 2 * 6 * 3 * 5)),
    ],
)
def test_operations_are_counted(linear, mode, flops):
    found = measured(linear, CELL._replace(mode=mode))
    assert found["flops"] == flops
    assert found["rounds"] == 3 and all(len(found[clock]) == 3 for clock in ("cpu", "wall"))
    assert 0 < found["cpu"][0] <= found["cpu"][1] <= found["cpu"][2]


def test_bytes(linear):
    """Of the state: what is pooled, points and their number; a hundred weights."""
    held = {n: 4 * n * (7 + 3 + 5) + 8 for n in (40, 50)}
    weights = 4 * (8 * 7 + 3 * 5)
    found = {mode: measured(linear, CELL._replace(mode=mode)) for mode in MODES}
    assert {mode: f["state"] for mode, f in found.items()} == {
        "train": None,
        "encode": held[40],
        "predict": held[40],
        "update": held[50],
        "sample": held[40],
    }
    assert {mode: f["least"] - weights for mode, f in found.items()} == {
        "train": 0,
        "encode": held[40],
        "predict": held[40],
        "update": held[40] + held[50],
        "sample": held[40],
    }
    cnp = measured(Subject(npexp.build("cnp", dx=1, dy=1, dz=4), recipe(["base"])), CELL)
    assert cnp["state"] == 4 * 4 + 8 + 8  # sums, their number, and the number of points


def test_what_each_mode_runs(linear):
    given = inputs(linear.net, CELL)
    assert given.context[0].shape == (1, 40, 3) and given.context[1].shape == (1, 40, 5)
    assert given.context[0].min() >= -2 and given.context[0].max() <= 2
    state = prepare(linear, CELL).run()
    assert isinstance(state, State) and state.n.tolist() == [40]
    assert prepare(linear, CELL._replace(mode="update")).run().n.tolist() == [50]
    mean, stddev = prepare(linear, CELL._replace(mode="predict")).run()
    torch.testing.assert_close(mean, linear.net.map(given.targets[0]), check_layout=False)
    assert stddev.shape == (1, 6, 5) and not mean.requires_grad
    assert prepare(linear, CELL._replace(mode="sample")).run().shape == (50, 1, 6, 5)
    before = linear.net.map.weight.detach().clone()
    step = prepare(linear, CELL._replace(mode="train", batch=4))
    step.run()
    rate = recipe(["base"])["model"]["optimizer"]["init_args"]["lr"]
    moved = (linear.net.map.weight - before).abs()  # by Adam's first step
    torch.testing.assert_close(moved, torch.full_like(moved, rate), rtol=1e-3, atol=0)


@pytest.mark.parametrize(("dtype", "inside"), [("float64", torch.float64), ("bfloat16", torch.bfloat16)])
def test_precision(linear, dtype, inside):
    seen = []
    linear.net.map.register_forward_hook(lambda module, args, out: seen.append(out.dtype))
    measured(linear, CELL._replace(mode="predict", dtype=dtype))
    assert set(seen) == {inside}
    assert linear.net.map.weight.dtype == (torch.float64 if dtype == "float64" else torch.float32)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("mode", MODES)
def test_a_gpu_counts_the_same(linear, mode):
    here, there = (measured(linear, CELL._replace(mode=mode, device=device)) for device in ("cpu", "cuda"))
    assert all(here[name] == there[name] for name in ("flops", "state", "least"))
    assert there["peak"] > 0 and there["wall"][0] > 0


def test_rounds_end_in_time(linear, monkeypatch):
    monkeypatch.setattr(cells, "clocks", lambda run, device: (0.5, 1.5))
    assert measured(linear, CELL._replace(repeats=30))["rounds"] == 3  # at least, though two would do
    monkeypatch.setattr(cells, "clocks", lambda run, device: (0.5, 0.25))
    assert measured(linear, CELL._replace(repeats=30))["rounds"] == 8
    found = measured(linear, CELL._replace(repeats=5))
    assert (found["rounds"], found["cpu"], found["wall"]) == (5, [0.5] * 3, [0.25] * 3)


def test_subjects():
    """Training is that of the model's experiment."""
    anp = load("paper/anp")
    assert anp.training["model"]["objective"] == "importance_weighted" and anp.training["model"]["include_context"]
    assert "objective" not in load("paper/tnpd").training["model"]
    assert type(load("tnp:linear").net.stack.mixer) is find_mixer("linear")[0]
    wheel = load("experiment/wheel_tnp").net
    assert (wheel.dx, wheel.dy) == (2, 5)


def test_a_run_is_a_subject(tmp_path, monkeypatch):
    """A checkpoint, and the settings beside it."""
    net = npexp.build("cnp", dx=2, dy=1, dz=4)
    (tmp_path / "run/0/checkpoints").mkdir(parents=True)
    weights = {f"net.{k}": v for k, v in net.state_dict().items()}
    torch.save({"hyper_parameters": {"net": net.spec}, "state_dict": weights}, tmp_path / "run/0/checkpoints/best.ckpt")
    (tmp_path / "run/0/config.yaml").write_text("model: {include_context: true}\ntrainer: {}\n")
    found = load(str(tmp_path / "run"))
    assert found.training["model"] == {"include_context": True}
    assert found.net.dx == 2 and all(
        torch.equal(a, b) for a, b in zip(found.net.parameters(), net.parameters(), strict=True)
    )


def test_the_callers_random_numbers_stay_as_they_are(linear):
    before = torch.get_rng_state()
    measured(linear, CELL._replace(mode="train"))
    assert torch.equal(torch.get_rng_state(), before)
