"""The predictor: arrays and streams in, distributions out."""

import numpy as np
import pandas as pd
import pytest
import torch

import npexp
from npexp.errors import ConfigError, DataError, PrecisionError, ShapeError, UnknownNameError, UnsupportedError
from npexp.likelihoods import DiagonalGaussian, SetMixture
from tests.contracts.checks import MODELS, tiny

RNG = np.random.default_rng(0)
X, Y, XT = RNG.normal(size=(40, 2)), RNG.normal(size=(40, 2)), RNG.normal(size=(6, 2))


def predictor(name="cmanp"):
    return npexp.Predictor(tiny(name))


def close(a, b, **tolerance):
    torch.testing.assert_close(a.mean, b.mean, **tolerance)
    torch.testing.assert_close(a.stddev, b.stddev, **tolerance)


def test_accepts_what_people_have():
    p = predictor()
    expected = p.predict(p.condition(X, Y), XT)
    assert expected.mean.shape == (1, 6, 2)
    frame = pd.DataFrame(np.hstack([X, Y]), columns=list("abcd"))
    for x, y in [
        (X[None], Y[None]),
        (torch.as_tensor(X), torch.as_tensor(Y)),
        (frame[["a", "b"]], frame[["c", "d"]]),
        (X.tolist(), Y.tolist()),
    ]:
        close(p.predict(p.condition(x, y), XT), expected)


def test_a_series_is_one_column():
    model = npexp.Predictor(npexp.build("cnp", dx=1, dy=1))
    frame = pd.DataFrame({"t": X[:, 0], "v": Y[:, 0]})
    pred = model.predict(model.condition(frame["t"], frame["v"]), XT[:, 0])
    assert pred.mean.shape == (1, 6, 1)


@pytest.mark.parametrize("name", ["cmanp", "lbanp", "np"])
def test_streams_equal_arrays(name):
    p = predictor(name)
    whole = p.predict(p.condition(X, Y), XT)
    close(p.predict(p.condition((X[i : i + 7], Y[i : i + 7]) for i in range(0, 40, 7)), XT), whole)
    state = p.update(p.condition(X[:10], Y[:10]), ((X[i : i + 5], Y[i : i + 5]) for i in range(10, 40, 5)))
    close(p.predict(state, XT), whole)


def test_remove():
    p = predictor("cnp")
    close(p.predict(p.remove(p.condition(X, Y), X[:30], Y[:30]), XT), p.predict(p.condition(X[30:], Y[30:]), XT))
    with pytest.raises(UnsupportedError, match="cannot remove"):
        predictor("lbanp").remove(predictor("lbanp").condition(X, Y), X, Y)


def test_sample_modes_keep_the_marginals(monkeypatch):
    """Joint draws move all targets together, shuffled ones do not; both against the exact variance of their sum."""
    torch.manual_seed(0)
    p = predictor("np")
    offset = torch.tensor([-1.0, 0.0, 2.0], dtype=torch.float64)[:, None, None, None]  # three components, far apart
    pred = SetMixture(DiagonalGaussian(offset.expand(3, 1, 6, 2), torch.full((3, 1, 6, 2), 0.5, dtype=torch.float64)))
    monkeypatch.setattr(p.model, "_predict", lambda *_: pred)
    state, n = p.condition(X, Y), 20_000
    draws = {mode: p.sample(state, XT, n=n, mode=mode) for mode in ("joint", "marginal")}
    for d in draws.values():
        assert ((d.mean(0) - pred.mean).abs() < 5 * pred.stddev / n**0.5).all()
        torch.testing.assert_close(d.std(0), pred.stddev, rtol=0.03, atol=0)
    spread = offset.var(unbiased=False)
    exact = {"joint": 6 * 0.25 + 36 * spread, "marginal": 6 * (0.25 + spread)}
    for mode, d in draws.items():
        torch.testing.assert_close(d[..., 0].sum(2).var(), exact[mode], rtol=0.05, atol=0)


def test_autoregressive_samples_follow_the_chain_rule():
    """The first target's law is the model's own; the second's is that of a model told the first draw."""
    torch.manual_seed(0)
    p = predictor("cnp")
    state, xt = p.condition(X[:3], Y[:3]), XT[:2]
    draws = p.sample(state, xt, n=4000, mode="autoregressive")
    assert draws.shape == (4000, 1, 2, 2)
    first = p.predict(state, xt[:1])
    assert ((draws[:, 0, 0].mean(0) - first.mean[0, 0]).abs() < 5 * first.stddev[0, 0] / 4000**0.5).all()
    told = p.model.update(
        p.model.encode(*(torch.as_tensor(v[:3])[None].expand(4000, -1, -1) for v in (X, Y))),
        torch.as_tensor(xt[:1])[None].expand(4000, -1, -1),
        draws[:, 0, :1],
    )
    second = p.model.predict(told, torch.as_tensor(xt[1:])[None].expand(4000, -1, -1))
    z = ((draws[:, 0, 1:] - second.mean) / second.stddev).detach()
    assert z.mean().abs() < 5 / 8000**0.5 and abs(z.std() - 1) < 0.05


def test_bad_input_is_refused(untyped):
    p = predictor()
    with pytest.raises(DataError, match="NaN or an infinity, first at task 0, point 3"):
        p.condition(np.where(np.arange(40)[:, None] == 3, np.nan, X), Y)
    with pytest.raises(ShapeError, match="expected"):
        p.condition(X[:, :1], Y)
    with pytest.raises(DataError, match="expected numbers"):
        p.condition([["a", "b"]], Y)
    with pytest.raises(DataError, match="empty stream"):
        p.condition([])
    with pytest.raises(ConfigError, match="expected mode"):
        p.sample(p.condition(X, Y), XT, mode="jiont")
    with pytest.raises(UnknownNameError, match="unknown run, checkpoint or pretrained model 'nowhere'"):
        npexp.load_predictor("nowhere")


@pytest.mark.parametrize("name", [name for name in MODELS if tiny(name).traits["remove"] == "exact"])
def test_float32_models_remove_without_a_trace(name):
    """States are made in float64 and read in float32, whatever the model."""
    model = tiny(name).float()
    p = npexp.Predictor(model)
    state = p.remove(p.update(p.condition(X[:30], Y[:30]), X[30:], Y[30:]), X[:5], Y[:5])
    found = p.predict(state, XT)
    assert found.mean.dtype == torch.float32 and next(model.parameters()).dtype == torch.float32
    x, y, xt = (torch.tensor(v, dtype=torch.float32)[None] for v in (X[5:], Y[5:], XT))
    close(found, model(x, y, xt), rtol=1e-5, atol=1e-5)
    nothing = p.predict(p.remove(state, X[5:], Y[5:]), XT)
    close(nothing, p.predict(p.condition(X[:0], Y[:0]), XT), rtol=0, atol=0)


class Evil:
    def __reduce__(self):
        import os

        return os.system, ("touch pwned",)


def checkpoint(path, spec, **extra):
    torch.save({"hyper_parameters": {"net": spec}, "state_dict": {}, **extra}, path)
    return path


CNP_SPEC = {"class_path": "npexp.models.CNP", "init_args": {"dx": 1, "dy": 1}}


@pytest.mark.parametrize(
    "class_path",
    [
        "os.system",
        "subprocess.Popen",
        "builtins.eval",
        "torch.nn.Linear",
        "datamodules.DigitsData",
        "npexp_evil.Model",
        "npexp.loggers.MetricsFile",  # ours, but it writes files
        "npexp.training_cli.CLI",
        "npexp.models.base.Any",  # imported there, not made there
        "npexp.likelihoods.base.nn",
        "npexp.models.cnp.DeepSet",
    ],
)
def test_checkpoints_cannot_name_other_classes(tmp_path, class_path):
    spec = {"class_path": class_path, "init_args": {"args": "touch pwned"}}
    nested = {**CNP_SPEC, "init_args": {**CNP_SPEC["init_args"], "likelihood": spec}}
    deep = {**CNP_SPEC, "init_args": {**CNP_SPEC["init_args"], "likelihood": {"a": [{"b": spec}]}}}
    for case in (spec, nested, deep):
        with pytest.raises(ConfigError, match=r"refusing to load|is none"):
            npexp.load_predictor(checkpoint(tmp_path / "evil.ckpt", case))


def test_nothing_in_a_checkpoint_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="does not describe its model"):
        npexp.load_predictor(checkpoint("evil.ckpt", CNP_SPEC, callbacks=Evil()))
    assert not (tmp_path / "pwned").exists()


def test_checkpoints_must_fit_their_model(tmp_path):
    with pytest.raises(ConfigError, match="weights in"):
        npexp.load_predictor(checkpoint(tmp_path / "a.ckpt", CNP_SPEC))
    with pytest.raises(ConfigError, match="describe a neural process, got a Gaussian"):
        npexp.load_predictor(checkpoint(tmp_path / "b.ckpt", {"class_path": "npexp.likelihoods.Gaussian"}))


@pytest.mark.parametrize("name", MODELS)
def test_every_model_loads_from_its_checkpoint(name, tmp_path):
    """No shipped model needs a class that checkpoints must not name."""
    model = npexp.build(name, dx=1, dy=1)
    weights = {f"net.{k}": v for k, v in model.state_dict().items()}
    path = checkpoint(tmp_path / "model.ckpt", model.spec, state_dict=weights)
    assert type(npexp.load_predictor(path).model) is type(model)


def test_kept_points_rescue_removals_that_rounding_would_spoil():
    """A window that slides along x leaves the places of latents behind; float64 cannot hold what is left there."""
    x, y = np.linspace(-1, 1, 60)[:, None].repeat(2, 1), RNG.normal(size=(60, 2))
    plain, keeping = (npexp.Predictor(tiny("cmanp", location_range=2.0), keep_points=k) for k in (False, True))
    with pytest.raises(PrecisionError, match="encode the points that remain"):
        plain.remove(plain.condition(x, y), x[:50], y[:50])
    state = keeping.condition((x[i : i + 7], y[i : i + 7]) for i in range(0, 60, 7))
    for i in range(50):
        state = keeping.remove(state, x[[i]], y[[i]])
    state = keeping.update(state, X[:3], Y[:3])
    assert state.context.x.shape == (1, 13, 2) and int(state.n) == 13
    expected = plain.predict(plain.condition(np.vstack([x[50:], X[:3]]), np.vstack([y[50:], Y[:3]])), XT)
    close(keeping.predict(state, XT), expected, rtol=1e-6, atol=1e-6)


def test_kept_points_are_taken_out_one_for_one(tmp_path):
    p = npexp.Predictor(tiny("cnp"), keep_points=True)
    state = p.condition(np.vstack([X, X[:2]]), np.vstack([Y, Y[:2]]))  # two points seen twice
    state = p.remove(state, X[:2], Y[:2])
    assert state.context.x.shape == (1, 40, 2)
    close(p.predict(state, XT), p.predict(p.condition(X, Y), XT))
    with pytest.raises(DataError, match="point 1 of task 0 is not among"):
        p.remove(state, X[:2], np.vstack([Y[:1], Y[:1]]))
    p.save(state, tmp_path / "state.pt")
    left = p.remove(p.load(tmp_path / "state.pt"), X[:30], Y[:30])
    close(p.predict(left, XT), p.predict(p.condition(X[30:], Y[30:]), XT))


def test_marginal_draws_of_a_decoding_model_are_of_its_law_in_one_step():
    torch.manual_seed(0)
    scaling = {"x_shift": [0.0, 0.0], "x_scale": [1.0, 1.0], "y_shift": [3.0, 0.0], "y_scale": [2.0, 1.0]}
    p = npexp.Predictor(tiny("tnpa"), scaling=scaling)
    state, n = p.condition(X, Y), 20_000
    law, draws = p.predict(state, XT), p.sample(state, XT, n=n, mode="marginal")
    assert ((draws.mean(0) - law.mean).abs() < 5 * law.stddev / n**0.5).all()
    torch.testing.assert_close(draws.std(0), law.stddev, rtol=0.05, atol=0)


def test_points_that_nobody_kept_are_not_invented():
    """A state from elsewhere has no points to keep; forgetting its old ones would be a silent wrong answer."""
    plain, keeping = (npexp.Predictor(tiny("cmanp"), keep_points=k) for k in (False, True))
    state = keeping.update(plain.condition(X[:20], Y[:20]), X[20:], Y[20:])
    assert state.context is None and int(state.n) == 40
    close(keeping.predict(state, XT), plain.predict(plain.condition(X, Y), XT))


def test_kept_points_are_copies():
    p, x, y = npexp.Predictor(tiny("cnp"), keep_points=True), torch.tensor(X), torch.tensor(Y)
    state = p.condition(x, y)
    x.zero_()
    np.testing.assert_array_equal(state.context.x[0], X)


def test_single_marginal_draws_are_independent(monkeypatch):
    """However few are asked for at a time: on a law whose targets move together."""
    torch.manual_seed(0)
    p = predictor("np")
    offset = torch.tensor([-3.0, 3.0], dtype=torch.float64)[:, None, None, None].expand(2, 1, 6, 2)
    monkeypatch.setattr(
        p.model, "_predict", lambda *_: SetMixture(DiagonalGaussian(offset, torch.full_like(offset, 0.1)))
    )
    state = p.condition(X, Y)
    draws = torch.cat([p.sample(state, XT, n=1, mode="marginal") for _ in range(400)])[:, 0, :, 0]
    assert abs(np.corrcoef(draws.T)[0, 1]) < 4 / 400**0.5


def test_large_shifts_drown_nothing():
    """Raw outputs of a hundred million and a bit, on a float32 model."""
    model = npexp.build("cnp", dx=1, dy=1)
    scaling = {"x_shift": [0.0], "x_scale": [1.0], "y_shift": [1e8 + 3], "y_scale": [1.0]}
    raw, plain = npexp.Predictor(model, scaling=scaling), npexp.Predictor(model)
    x, y, yt = np.array([0.0, 1.0]), np.array([1.0, -0.5]), torch.tensor([[[0.7]]], dtype=torch.float64)
    a = raw.predict(raw.condition(x, y + 1e8 + 3), [0.5])
    b = plain.predict(plain.condition(x, y), [0.5])
    torch.testing.assert_close(a.joint_log_prob(yt + 1e8 + 3).float(), b.joint_log_prob(yt.float()))
    torch.testing.assert_close((a.quantile([0.1, 0.9]) - 1e8 - 3).float(), b.quantile([0.1, 0.9]), rtol=1e-4, atol=1e-5)


def test_states_belong_to_their_units(tmp_path):
    scaling = {"x_shift": [0.0, 0.0], "x_scale": [1.0, 1.0], "y_shift": [3.0, 0.0], "y_scale": [2.0, 1.0]}
    p, q = npexp.Predictor(tiny("cnp"), scaling=scaling), predictor("cnp")
    p.save(p.condition(X, Y), tmp_path / "state.pt")
    p.load(tmp_path / "state.pt")
    with pytest.raises(DataError, match="the scaling that made them"):
        q.load(tmp_path / "state.pt")


def test_slips_are_explained(untyped):
    p = npexp.Predictor(npexp.build("cnp", dx=1, dy=1))
    for wrong in (([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]), [0.1, 0.2], {"x": [1.0], "y": [2.0]}, None):
        with pytest.raises(DataError, match="chunks"):
            p.condition(wrong)
    with pytest.raises(DataError, match="infinity"):
        p.condition([0.0], [1e39])  # finite, but not in the model's float32
    with pytest.raises(ConfigError, match="levels between 0 and 1"):
        p.predict(p.condition([0.0], [1.0]), [0.0]).quantile([1.5])
    with pytest.raises(ConfigError, match="no device"):
        npexp.Predictor(p.model, device="cuda:99")
    with pytest.raises(ConfigError, match="expected a likelihood such as"):
        npexp.build("cnp", dx=1, dy=1, likelihood="StudentT")
    with pytest.raises(ConfigError, match="multiple of num_heads"):
        npexp.build("isanp", dx=1, dy=1, dz=63)


@pytest.mark.parametrize("name", ["rmnp", "rmnp_joint", "lpnp", "rmnp_hybrid"])
def test_sums_merge_and_slide(name):
    p = predictor(name)
    whole = p.predict(p.condition(X, Y), XT)
    shards = [p.condition(X[i::4], Y[i::4]) for i in range(4)]
    state = shards[0]
    for shard in shards[1:]:
        state = p.merge(state, shard)
    close(p.predict(state, XT), whole)
    for i in range(30):
        state = p.remove(state, X[i : i + 1], Y[i : i + 1])
    close(p.predict(state, XT), p.predict(p.condition(X[30:], Y[30:]), XT))
    kept = npexp.Predictor(p.model, keep_points=True)
    merged = kept.merge(kept.condition(X[:20], Y[:20]), kept.condition(X[20:], Y[20:]))
    assert merged.context.x.shape == (1, 40, 2)


def test_old_points_fade():
    p = predictor("rmnp")
    old, new = p.condition(X[:30], Y[:30]), p.condition(X[30:], Y[30:])
    fading, distance = old, []
    for _ in range(6):
        fading = p.decay(fading, 0.01)
        law = p.predict(p.update(fading, X[30:], Y[30:]), XT)
        distance.append(float((law.mean - p.predict(new, XT).mean).abs().max()))
    assert distance[-1] < 1e-6 < distance[0] and sorted(distance, reverse=True) == distance
    assert fading.n.tolist() == [30]
    with pytest.raises(UnsupportedError, match="rmnp"):
        predictor("cmanp").decay(old, 0.5)
    with pytest.raises(UnsupportedError, match="rmnp"):
        predictor("lbanp").merge(old, new)
