"""The predictor: arrays and streams in, distributions out."""

import numpy as np
import pandas as pd
import pytest
import torch

import npexp
from npexp.errors import ConfigError, DataError, ShapeError, UnsupportedError
from npexp.likelihoods import DiagonalGaussian, SetMixture
from tests.contracts.checks import tiny

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
    with pytest.raises(ConfigError, match="found nothing"):
        npexp.load_predictor("nowhere")
