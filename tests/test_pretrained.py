"""Models that ship with npexp, and runs as folders to give away: whole, small, as good as their cards say."""

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import npexp
from npexp.cli import main
from npexp.config import read_config
from npexp.errors import ConfigError, DataError, UnknownNameError
from npexp.metrics import Evaluation
from npexp.model_card import card, listing
from npexp.predict import load_predictor
from npexp.registry import instantiate
from npexp.trained import WEIGHTS, pretrained_dir

NAMES = list(npexp.available_pretrained())
BATCHES = 4  # of a test set that are scored again
SCALING = {"x_shift": [1.0], "x_scale": [2.0], "y_shift": [-3.0], "y_scale": [0.5]}
RNG = np.random.default_rng(0)
X, Y, XT = RNG.normal(size=(9, 1)), RNG.normal(size=(9, 1)), RNG.normal(size=(4, 1))


@pytest.fixture
def run(tmp_path):
    """The folder of a run that took seven steps and was tested."""
    torch.manual_seed(0)
    model = npexp.build("rmnp", dx=1, dy=1, num_features=8, dz=8, dim_feedforward=8, dim_head=8)
    model.adapt(torch.linspace(-1, 3, 5)[:, None])
    folder = tmp_path / "run" / "0"
    (folder / "checkpoints").mkdir(parents=True)
    weights = {f"net.{name}": value for name, value in model.state_dict().items()}
    content = {"hyper_parameters": {"net": model.spec}, "state_dict": weights, "scaling": SCALING, "global_step": 7}
    torch.save(content, folder / "checkpoints/best.ckpt")
    data = {"class_path": "datamodules.GPData", "init_args": {"num_context": [3, 46], "batch_size": 16}}
    config = {"name": "mine", "runs_dir": "/home/me", "trainer": {"max_steps": 9}, "data": data}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    facts = {"model": "rmnp", "data": "gp_rbf", "likelihood": "factorised", "dy": 1, "seed": 5, "steps": 7}
    facts |= {"parameters": 1234, "revision": "abc", "versions": "torch 2", "device": "cpu", "command": "npexp test"}
    scores = {"loglik_joint": 1.25, "loglik_marginal": 1.25, "oracle_gap_joint": 0.75, "oracle_gap_marginal": 0.5}
    scores |= {"rmse": 0.125, "coverage_95": 0.9375, "loglik_nc/00004-00007": 0.5}
    scores |= {f"{key}_sem": 0.0625 for key in scores if "/" not in key}
    (folder / "test_metrics.json").write_text(json.dumps({f"test/{k}": v for k, v in scores.items()} | facts))
    return folder


def export(run, out, *words):
    return main(["export", "--format", "safetensors", "--ckpt_path", str(run), "--out", str(out), *words])


def resign(folder):
    """Makes the checksum that of the weights as they are."""
    config = json.loads((folder / "config.json").read_text())
    config["sha256"] = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    (folder / "config.json").write_text(json.dumps(config))


def test_round_trip(run, tmp_path):
    """To the bit; in raw units."""
    out = tmp_path / "mine"
    assert export(run, out, "--notes", "Mind the gap.") == 0
    before, after = load_predictor(run), load_predictor(out)
    ours, theirs = (p.predict(p.condition(X, Y), XT) for p in (before, after))
    assert torch.equal(ours.mean, theirs.mean) and torch.equal(ours.stddev, theirs.stddev)
    assert after.scaling == before.scaling is not None
    assert all(torch.equal(v, after.model.state_dict()[k]) for k, v in before.model.state_dict().items())
    text = (out / "README.md").read_text()
    # by hand: 1.25 + 0.5; the domain [-1, 3] is [-1 * 2 + 1, 3 * 2 + 1] in raw units, and 0.75 / 4 of its width more
    assert "| `test` | each target alone | 1.250 ± 0.062 | 1.750 | 0.500 ± 0.062 | 0.125 ± 0.062 | 93.8 ± 6.2 |" in text
    assert "trained on inputs in [-1, 7] and refuses any outside [-2.5, 8.5]" in text
    assert "contexts of 3 to 46" in text and "* Mind the gap.\n" in text and "| 4 to 7 |" in text
    assert "9 steps, weights of step 7 (best validation), of 16 tasks, seed 5." in text
    assert set(read_config(out / "training.yaml")) == {"trainer", "data"}


def test_refusals(run, tmp_path, capsys):
    def refused(*words, run=run):
        assert export(run, *words) == 2
        return capsys.readouterr().err

    (tmp_path / "full").mkdir()
    (tmp_path / "full/README.md").write_text("mine")
    assert "expected a new or empty folder" in refused(tmp_path / "full")
    assert main(["export", "--ckpt_path", str(run), "--out", str(tmp_path / "x"), "--notes", "a"]) == 2
    assert "--notes stand in a model card" in capsys.readouterr().err
    results = run / "test_metrics.json"
    results.write_text(results.read_text().replace('"steps": 7', '"steps": 6'))
    assert "is of step 6, best.ckpt of step 7" in refused(tmp_path / "x")
    results.unlink()
    assert "first npexp test" in refused(tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_damage_is_noticed(run, tmp_path):
    out = tmp_path / "mine"
    export(run, out)
    weights = bytearray((out / WEIGHTS).read_bytes())
    weights[-1] ^= 1  # one bit
    (out / WEIGHTS).write_bytes(weights)
    with pytest.raises(DataError, match="damaged"):
        load_predictor(out)
    resign(out)
    load_predictor(out)  # whoever writes both may write anything
    (out / WEIGHTS).write_bytes(weights[: len(weights) // 2])
    resign(out)
    with pytest.raises(DataError, match="damaged"):
        load_predictor(out)
    save_file({"a": torch.zeros(1)}, out / WEIGHTS)
    resign(out)
    with pytest.raises(ConfigError, match="not those of the model"):
        load_predictor(out)
    for text, reason in {"{": "cannot read", "[]": "expected", "{}": "does not describe its model"}.items():
        (out / "config.json").write_text(text)
        with pytest.raises(ConfigError, match=reason):
            load_predictor(out)


@pytest.mark.parametrize("class_path", ["os.system", "torch.nn.Linear", "npexp.loggers.MetricsFile"])
def test_only_models_are_made(run, tmp_path, class_path):
    out = tmp_path / "mine"
    export(run, out)
    config = json.loads((out / "config.json").read_text())
    config["net"]["class_path"] = class_path
    (out / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="refusing to load"):
        load_predictor(out)


def test_names(tmp_path, monkeypatch):
    with pytest.raises(UnknownNameError, match="did you mean 'rmnp-gp-rbf'"):
        load_predictor("rmnp_gp_rbf")
    monkeypatch.chdir(tmp_path)
    Path("rmnp-gp-rbf").mkdir()  # what lies there comes before what ships
    with pytest.raises(ConfigError, match="found nothing at"):
        load_predictor("rmnp-gp-rbf")


def test_command_takes_a_name(tmp_path, capsys):
    np.savez(tmp_path / "points.npz", xc=X, yc=Y, xt=XT)
    words = ["--context", str(tmp_path / "points.npz"), "--out", str(tmp_path / "out.npz")]
    assert main(["predict", "--ckpt_path", "rmnp-gp-rbf", *words]) == 0
    predictor = load_predictor("rmnp-gp-rbf")
    expected = predictor.predict(predictor.condition(X, Y), XT).mean[0]
    np.testing.assert_allclose(np.load(tmp_path / "out.npz")["mean"], expected, rtol=1e-5, atol=1e-6)
    assert main(["predict", "--ckpt_path", "rmnp-rbf", *words]) == 2
    assert "did you mean 'rmnp-gp-rbf'" in capsys.readouterr().err


@pytest.mark.parametrize("name", NAMES)
def test_shipped(name):
    """Small, described as it is, and free of paths of the machine that made it."""
    folder, facts = pretrained_dir() / name, npexp.available_pretrained()[name]
    assert (folder / WEIGHTS).stat().st_size < 6e6
    model = load_predictor(name).model
    assert (model.dx, model.dy) == (facts["dx"], facts["dy"])
    assert sum(p.numel() for p in model.parameters()) == facts["parameters"]
    assert all(v.dtype in (torch.float32, torch.bool) for v in load_file(folder / WEIGHTS).values())
    assert card(folder) == (folder / "README.md").read_text(), f"write npexp.model_card.card(folder) to {folder}"
    for path in folder.iterdir():
        if path.name != WEIGHTS:
            assert not any(place in path.read_text() for place in ("=/", " /", '"/', "'/", "/tmp", "/home")), path


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_reproduced(name, tmp_path):
    """A few batches of the test set score what the card says, within the error of so few; against the exact posterior,
    where there is one, that error is a tenth."""
    folder = pretrained_dir() / name
    data = read_config(folder / "training.yaml")["data"]
    data = instantiate({**data, "init_args": {**data["init_args"], "cache_dir": str(tmp_path)}})
    results, found = json.loads((folder / "test_metrics.json").read_text()), Evaluation(energy=False)
    model = load_predictor(name).model
    with torch.inference_mode():
        for i in range(BATCHES):
            batch = data.make_batch("test", i)
            found.update(model(batch.xc, batch.yc, batch.xt, batch.mask_c, batch.mask_t), batch)
    key = "oracle_gap_joint" if data.oracle else "loglik_joint"
    scores = found.compute()
    error = results[f"test/{key}_sem"] * math.sqrt(data.num_batches("test") / BATCHES)
    assert abs(scores[key] - results[f"test/{key}"]) < 4 * error
    assert abs(scores["coverage_95"] - results["test/coverage_95"]) < 0.05


def test_readme_lists_them():
    assert listing() in (pretrained_dir().parent / "README.md").read_text()
