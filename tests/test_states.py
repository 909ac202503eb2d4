"""States in files: back bit for bit, and nothing else gets in."""

import numpy as np
import pytest
import torch

import npexp
from npexp.errors import ConfigError, DataError
from npexp.ops.tree import tensors
from tests.contracts.checks import MIXERS, MODELS, tiny, tiny_mixer

RNG = np.random.default_rng(0)
X, Y, XT = RNG.normal(size=(3, 24, 2)), RNG.normal(size=(3, 24, 2)), RNG.normal(size=(3, 6, 2))


def round_trip(model, path):
    """A saved state is the same to the last bit, and as good as the first for everything that follows."""
    p = npexp.Predictor(model)
    state = p.condition(X, Y)
    p.save(state, path)
    again = p.load(path)
    assert type(again.summary) is type(state.summary) and len(tensors(again)) == len(tensors(state))
    for a, b in zip(tensors(again), tensors(state), strict=True):
        assert a.dtype == b.dtype and torch.equal(a, b)
    steps = [lambda s: s, lambda s: p.update(s, XT, XT)]
    if model.traits["remove"] == "exact":
        steps.append(lambda s: p.remove(s, X[:, :2], Y[:, :2]))
    for step in steps:
        found, expected = p.predict(step(again), XT), p.predict(step(state), XT)
        assert torch.equal(found.mean, expected.mean) and torch.equal(found.stddev, expected.stddev)


@pytest.mark.parametrize("name", [name for name in MODELS if not name.startswith("paper/")])
def test_every_model(name, tmp_path):
    round_trip(tiny(name), tmp_path / "state.pt")


@pytest.mark.parametrize("mixer", MIXERS, ids="-".join)
def test_every_mixer(mixer, tmp_path):
    round_trip(tiny_mixer(*mixer), tmp_path / "state.pt")


@pytest.mark.parametrize("name", ["cnp", "np", "cmanp", "lbanp"])
def test_float32_and_ragged_tasks(name, tmp_path):
    model = tiny(name).float().eval()
    round_trip(model, tmp_path / "state.pt")
    mask = torch.arange(24) < torch.tensor([24, 3, 0])[:, None]
    x, y, xt = (torch.tensor(v, dtype=torch.float32) for v in (X, Y, XT))
    with torch.no_grad():
        state = model.encode(x, y, mask)
        p = npexp.Predictor(model)
        p.save(state, tmp_path / "state.pt")
        again = p.load(tmp_path / "state.pt")
        assert torch.equal(model.predict(again, xt).mean, model.predict(state, xt).mean)


def test_the_file_is_plain_and_holds_no_more_than_the_state(tmp_path):
    p = npexp.Predictor(tiny("cmanp"))
    state = p.condition(X, Y)
    p.save(state, tmp_path / "state.pt")
    content = torch.load(tmp_path / "state.pt", weights_only=True)
    assert {type(v) for v in content.values()} == {int, str, torch.Tensor}
    size = sum(t.nbytes for t in tensors(state))
    assert (tmp_path / "state.pt").stat().st_size < size + 1000 * len(content)
    assert [f.name for f in tmp_path.iterdir()] == ["state.pt"]  # nothing temporary stays behind


def test_another_model_is_refused(tmp_path):
    p = npexp.Predictor(tiny("cnp"))
    p.save(p.condition(X, Y), tmp_path / "state.pt")
    npexp.Predictor(tiny("cnp")).load(tmp_path / "state.pt")  # the same weights
    for other in (tiny("cnp", seed=1), tiny("cmanp"), tiny("cnp").float()):
        with pytest.raises(DataError, match="another CNP"):
            npexp.Predictor(other).load(tmp_path / "state.pt")


def test_damaged_and_foreign_files_are_refused(tmp_path):
    p = npexp.Predictor(tiny("cmanp"))
    good, bad = tmp_path / "good.pt", tmp_path / "bad.pt"
    p.save(p.condition(X, Y), good)
    data = good.read_bytes()
    tensor = data.index(p.condition(X, Y).summary.layers[0].part.out.numpy().tobytes())
    flipped = data[: tensor + 5] + bytes([data[tensor + 5] ^ 1]) + data[tensor + 6 :]  # one bit of one number
    for content in (b"", b"no state", data[:100], data[: len(data) // 2], data[:-1], flipped):
        bad.write_bytes(content)
        with pytest.raises(DataError, match="damaged"):
            p.load(bad)
    whole = torch.load(good, weights_only=True)
    missing = {k: v for k, v in whole.items() if k != "state.summary.layers.0.part.lse"}
    for content, message in (
        ({"state_dict": {}}, "no state"),
        ([1, 2], "no state"),
        (missing, "damaged"),
        (whole | {"state.n": 3}, "damaged"),
        (whole | {"npexp_state": 0}, "format 0"),
    ):
        torch.save(content, bad)
        with pytest.raises(DataError, match=message):
            p.load(bad)


class Evil:
    def __reduce__(self):
        import os

        return os.system, ("touch pwned",)


def test_nothing_in_a_file_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    p = npexp.Predictor(tiny("cnp"))
    torch.save({"npexp_state": 1, "model": Evil()}, "state.pt")
    with pytest.raises(DataError, match="no state"):
        p.load("state.pt")
    assert not (tmp_path / "pwned").exists()


def test_a_state_of_another_form_is_refused(tmp_path):
    """The same weights, put together differently."""
    a, b = (npexp.Predictor(tiny_mixer("linear", "raw", sort=sort)) for sort in (False, True))
    a.save(a.condition(X, Y), tmp_path / "state.pt")
    with pytest.raises(DataError, match="another form"):
        b.load(tmp_path / "state.pt")


def test_paths_that_cannot_be(tmp_path, untyped):
    p = npexp.Predictor(tiny("cnp"))
    state = p.condition(X, Y)
    with pytest.raises(ConfigError, match="no file"):
        p.load(tmp_path / "nowhere.pt")
    with pytest.raises(ConfigError, match="cannot write"):
        p.save(state, tmp_path / "nowhere" / "state.pt")
    p.save(state, tmp_path / "state.pt")
    before = (tmp_path / "state.pt").read_bytes()
    with pytest.raises(DataError, match="expected a state"):
        p.save((1, 2), tmp_path / "state.pt")
    assert (tmp_path / "state.pt").read_bytes() == before
