"""Gridded TNPs beyond the contract: settings the YAMLs do not use, and what a state is."""

import pytest
import torch

import npexp
from npexp.errors import ConfigError, DataError, UnknownNameError
from npexp.models import GriddedTNP
from npexp.ops.tree import tensors
from tests.contracts import checks
from tests.contracts.checks import CLOSE, same, tasks, tiny

SETTINGS = [
    {"encoder": "kernel"},
    {"window": [5, 2], "patch": [1, 2], "num_neighbours": 2},
    {"window": None, "patch": 1},
    {"points_per_unit": [1.0, 0.5], "domain": [[-6.0, 6.0], [-5.0, 7.0]], "periodic": [False, True], "window": 3},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_contract(settings):
    for check in [*checks.ALWAYS, checks.chunks_do_not_matter]:
        check(tiny("gridded_swin", **settings))


def test_points_can_be_removed_from_a_kernel():
    model = tiny("gridded_swin", encoder="kernel")
    assert model.traits["remove"] == "exact"
    checks.remove_undoes_update(model)


@pytest.mark.parametrize("dx", [1, 2, 3])
def test_space_and_time(dx):
    model = GriddedTNP(
        dx,
        1,
        [[0.0, 7.0], [0.0, 10.0], [-5.0, 5.0]][:dx],
        [1.0, 0.5, 0.5][:dx],
        dz=8,
        num_heads=2,
        window=[8, 3, 3][:dx],
    )
    assert model.lattice.shape == (8, 6, 6)[:dx]
    x = torch.rand(2, 20, dx) * 5
    assert model(x, torch.randn(2, 20, 1), x[:, :3]).mean.isfinite().all()


@pytest.mark.parametrize("name", ["gridded_swin", "gridded_vit"])
def test_the_processor_runs_once_per_state(name):
    model, t, runs = tiny(name), tasks(nc=20), []
    model.chunk_size = 4
    model.processor.register_forward_hook(lambda *_: runs.append(1))
    with torch.no_grad():
        state = model.encode(t.xc, t.yc)
        assert len(runs) == 1
        first = model.predict(state, t.xt)
        same(model.predict(state, t.xt), first, rtol=0, atol=0)
        assert len(runs) == 1
        model.update(state, t.xt, t.yt)
        assert len(runs) == 2


def test_far_points_are_not_seen():
    """One layer of windows, so that what reaches a target is known: its neighbours' window."""
    model = tiny("gridded_swin", num_layers=1, window=4)  # lattice points at -6, -5, ..., 6; windows begin at -6, -2, 2
    t = tasks()
    xt = torch.full_like(t.xt, 0.0)  # reads -1, 0, 1
    near, far = torch.full_like(t.xc, -2.4), torch.full_like(t.xc, -2.6)
    assert checks.differ(model(near, t.yc, xt), model(near, t.yc + 1, xt))
    same(model(far, t.yc, xt), model(far, t.yc + 1, xt), rtol=0, atol=0)


def test_a_circle_has_no_seam():
    model = tiny("gridded_swin", domain=[0.0, 12.0], periodic=True, window=4)
    t = tasks()
    a = model(t.xc % 12, t.yc, t.xt % 12)
    same(a, model((t.xc + 4) % 12, t.yc, (t.xt + 4) % 12))  # the lattice turned by one window
    assert checks.differ(a, model((t.xc + 0.5) % 12, t.yc, (t.xt + 0.5) % 12))


def test_empty_context_gives_the_prior_between_lattice_points_only():
    """Without data and with relative places alone, what is predicted repeats from one window to the next."""
    model = tiny("gridded_swin", domain=[0.0, 12.0], periodic=True, window=4)
    t = tasks(nc=0)
    same(model(t.xc, t.yc, t.xt % 12), model(t.xc, t.yc, (t.xt + 4) % 12))


def test_sums_are_float32_under_autocast():
    t = tasks()
    for encoder in ("attention", "kernel"):
        model = tiny("gridded_swin", encoder=encoder).float()
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            state = model.encode(t.xc.float(), t.yc.float())
        assert all(s.dtype == torch.float32 for s in tensors(state.summary.pool))
        with torch.no_grad():
            whole = model.encode(t.xc.float(), t.yc.float())
        for low, high in zip(tensors(state.summary.pool), tensors(whole.summary.pool), strict=True):
            torch.testing.assert_close(low, high, rtol=0.1, atol=0.1)


def test_inputs_outside_the_domain_are_refused():
    model, t = tiny("gridded_swin", domain=[[-6.0, 6.0], [-1.0, 6.0]]), tasks()
    t.xc[:, :, 1], t.xt[:, :, 1] = 0.0, 0.0
    t.xc[1, 2, 1] = -3.0
    with pytest.raises(DataError, match=r"context x .*\[-1, 6\], got -3 at task 1, point 2, column 1"):
        model.encode(t.xc, t.yc)
    mask = torch.ones(3, 7, dtype=torch.bool)
    mask[1, 2] = False
    state = model.encode(t.xc, t.yc, mask)
    with pytest.raises(DataError, match="target x"):
        model.predict(state, t.xt - 7)


def test_padding_may_lie_outside_the_domain():
    """Padded slots are zero inside the model, and zero need not be in the domain."""
    model, t = tiny("gridded_swin", domain=[94.0, 106.0]), tasks()
    mask, mask_t = torch.arange(7) < torch.tensor([[7], [3], [0]]), torch.arange(5) < torch.tensor([[5], [2], [1]])
    padded = model(t.xc + 100, t.yc, t.xt + 100, mask, mask_t)
    alone = model(t.xc[1:2, :3] + 100, t.yc[1:2, :3], t.xt[1:2, :2] + 100)
    torch.testing.assert_close(padded.mean[1:2, :2], alone.mean, **CLOSE)


def test_impossible_settings_are_refused(untyped):
    with pytest.raises(UnknownNameError, match="unknown encoder"):
        npexp.build("gridded_swin", dx=1, dy=1, encoder="attentive")
    with pytest.raises(ConfigError, match="dx of 1, 2 or 3"):
        npexp.build("gridded_vit", dx=4, dy=1)
    for name in ("num_neighbours", "num_layers", "patch", "window", "num_heads"):
        for value in (0, 1.5):
            with pytest.raises(ConfigError, match="at least 1, got"):
                npexp.build("gridded_swin", dx=1, dy=1, **{name: value})
    with pytest.raises(ConfigError, match="window to be one value, or a list of dx=2"):
        npexp.build("gridded_swin", dx=2, dy=1, window=[4, 4, 4])


def test_the_kernel_encoder_serves_a_predictor():
    """It can be undone, so a predictor makes its states in float64; the float32 model reads them."""
    predictor = npexp.Predictor(npexp.build("gridded_swin", dx=1, dy=1, encoder="kernel"))
    state = predictor.condition([0.0, 0.5], [1.0, 2.0])
    left = predictor.remove(state, [0.5], [2.0])
    expected = predictor.predict(predictor.condition([0.0], [1.0]), [0.1]).mean
    torch.testing.assert_close(predictor.predict(left, [0.1]).mean, expected)
