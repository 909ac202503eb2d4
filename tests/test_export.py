"""ONNX files: the same numbers as PyTorch, at sizes that were not traced, without PyTorch."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from onnxruntime import InferenceSession

import npexp
from datamodules import Frame
from npexp import export
from npexp.cli import main
from npexp.errors import ConfigError, UnsupportedError
from npexp.export import export_onnx
from npexp.scaling import Scaling
from tests.contracts.checks import tiny
from tests.datamodules.frames import ROWS, weather

pytestmark = pytest.mark.usefixtures("untyped")  # shape checks would be traced along

SCALING = {"x_shift": [2e4, 0.0], "x_scale": [3.0, 1.0], "y_shift": [-5.0, 1e3], "y_scale": [0.1, 100.0]}
CASES = {
    "np": {},
    "cmanp": {"num_layers": 1},
    "linear_tnp_raw": {"num_layers": 1},
    "hypermixer_tnp_raw": {"num_layers": 1},
    "rmnp": {"num_refined": 1, "num_layers": 1},  # 64 features, as by default
    "rmnp_joint": {"num_features": 18, "num_refined": 0, "num_layers": 1},
    "lpnp": {"num_locations": 4, "num_widths": 2, "num_features": 6, "num_layers": 1},
}
LONG = {  # what the two before it can, together
    "rmnp_hybrid": {"num_features": 6, "num_refined": 0, "num_locations": 4, "num_widths": 2, "num_layers": 1},
}


def load(folder):
    """The graphs and the manifest, as a reader of files has them."""
    graphs = {name: InferenceSession(folder / f"{name}.onnx") for name in ("encode", "update", "predict")}
    return graphs, json.loads((folder / "manifest.json").read_text())


def stream(graphs, manifest, chunks, xt):
    """What the files predict after a stream of chunks, and the state."""
    names = [tensor["name"] for tensor in manifest["state"]]
    state = None
    for x, y, mask in chunks:
        feed = {"x": x, "y": y, "mask": mask}
        state = graphs["encode"].run(None, feed) if state is None else graphs["update"].run(None, feed | state)
        state = dict(zip(names, state, strict=True))
    return graphs["predict"].run(None, {"xt": xt} | state), state


def draw(rng, b, n, d=2):
    return rng.normal(size=(b, n, d)).astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*CASES, *(pytest.param(name, marks=pytest.mark.faults) for name in LONG)])
def test_a_stream_through_the_files_is_one_encode_in_pytorch(name, tmp_path):
    model = tiny(name, **(CASES | LONG)[name]).float()
    export_onnx(npexp.Predictor(model), tmp_path / "new" / "files")
    graphs, manifest = load(tmp_path / "new" / "files")
    assert (manifest["dx"], manifest["dy"], manifest["inputs"]) == (2, 2, "float32")
    assert manifest["domain"] == ([[-6.0, -6.0], [6.0, 6.0]] if hasattr(model, "domain") else None)
    assert manifest["model"] == json.loads(json.dumps(model.spec)) and manifest["scaling"] is None
    assert manifest["columns"] is None
    for name in graphs:  # nothing of the machine they were written on
        assert str(Path(export.__file__).parent).encode() not in (tmp_path / f"new/files/{name}.onnx").read_bytes()
    rng = np.random.default_rng(0)
    for b, sizes, nt in [(1, (1,), 1), (4, (30, 1, 0, 9), 13), (2, (0, 6), 3), (3, (200, 100), 50)]:
        x, y, xt = draw(rng, b, sum(sizes)), draw(rng, b, sum(sizes)), draw(rng, b, nt)
        mask = rng.random((b, sum(sizes))) < 0.7
        x[~mask] = np.nan  # padding may hold anything
        chunks = [
            [part[:, end - n : end] for part in (x, y, mask)] for n, end in zip(sizes, np.cumsum(sizes), strict=True)
        ]
        (mean, stddev), state = stream(graphs, manifest, chunks, xt)
        with torch.no_grad():
            law = model(*(torch.as_tensor(part) for part in (x, y, xt, mask)))
        np.testing.assert_allclose(mean, law.mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(stddev, law.stddev, rtol=1e-4)
        for tensor in manifest["state"]:
            found = state[tensor["name"]]
            assert (found.dtype.name, list(found.shape)) == (tensor["dtype"], [b, *tensor["shape"][1:]])


@pytest.mark.slow
def test_raw_units_and_nothing_but_files(tmp_path):
    """The command, on data that float32 cannot hold; the files are then run by a process without PyTorch."""
    model = tiny("cnp").float()
    state_dict = {f"net.{k}": v for k, v in model.state_dict().items()}
    content = {"state_dict": state_dict, "hyper_parameters": {"net": model.spec}, "scaling": SCALING}
    torch.save(content, tmp_path / "model.ckpt")
    assert main(["export", "--ckpt_path", str(tmp_path / "model.ckpt"), "--out", str(tmp_path / "files")]) == 0
    rng = np.random.default_rng(0)
    x, xt = (np.array([2e4, 0.0]) + 1e-3 * rng.normal(size=(1, n, 2)) for n in (40, 6))
    y = np.array([-5.0, 1e3]) + rng.normal(size=(1, 40, 2))
    np.savez(tmp_path / "data.npz", x=x, y=y, xt=xt)
    code = """
import json, sys
import numpy as np
from onnxruntime import InferenceSession
folder, data = sys.argv[1], np.load(sys.argv[2])
encode, update, predict = (InferenceSession(f"{folder}/{name}.onnx") for name in ("encode", "update", "predict"))
names = [tensor["name"] for tensor in json.load(open(f"{folder}/manifest.json"))["state"]]
def part(rows):
    return {"x": data["x"][:, rows], "y": data["y"][:, rows], "mask": np.ones(data["x"][:, rows].shape[:2], bool)}
state = encode.run(None, part(slice(0, 25)))
state = update.run(None, part(slice(25, 40)) | dict(zip(names, state)))
mean, stddev = predict.run(None, {"xt": data["xt"]} | dict(zip(names, state)))
assert "torch" not in sys.modules
np.savez(sys.argv[2], mean=mean, stddev=stddev)
"""
    words = [sys.executable, "-c", code, str(tmp_path / "files"), str(tmp_path / "data.npz")]
    subprocess.run(words, check=True, timeout=60)
    found, predictor = np.load(tmp_path / "data.npz"), npexp.load_predictor(tmp_path / "model.ckpt")
    law = predictor.predict(predictor.condition(x, y), xt)
    np.testing.assert_allclose(found["mean"], law.mean, rtol=1e-5)
    np.testing.assert_allclose(found["stddev"], law.stddev, rtol=1e-4)


def points(about, rows, latest, observed):
    """Points `[1, p, dx]` and `[1, p, dy]` of a task's rows, as `npexp.export` says that the manifest is to be read.

    Args:
        about: `columns` of a manifest.
        rows: of a table.
        latest: what relative first inputs are measured from; None for the latest of these rows.
        observed: whether outputs are known; else every output is a point.
    """
    inputs = []
    for column in about["x"]:
        values = rows[column["name"]]
        if column["kind"] == "number":
            inputs.append(values.to_numpy(float)[:, None])
        elif column["kind"] == "date":
            origin, unit = pd.Timestamp(about["dates"]["origin"]), pd.Timedelta(1, about["dates"]["unit"])
            since = pd.to_datetime(values, format=about["date_format"], utc=True) - origin
            inputs.append((since / unit).to_numpy()[:, None])
        else:
            inputs.append(np.stack([values == level for level in column["levels"]], 1).astype(float))
    x = np.concatenate(inputs, 1)
    y = rows[about["y"]].to_numpy(float) if observed else np.zeros((len(rows), len(about["y"])))
    if about["relative"]:
        latest = x[:, 0].max() if latest is None else latest
        x[:, 0] -= latest
    if about["separate"] is not None:
        shift, scale = map(np.array, about["separate"])
        at, which = np.nonzero(~np.isnan(y))
        x = np.concatenate([x[at], np.eye(len(shift))[which]], 1)
        y = ((y[at, which] - shift[which]) / scale[which])[:, None]
    return x[None], y[None], latest


@pytest.mark.slow
@pytest.mark.parametrize("outputs", ["joint", "separate"])
def test_raw_columns_with_nothing_but_the_manifest(tmp_path, outputs):
    """What `npexp predict` writes for a table comes out of the files: dates, categories, numbers and two outputs."""
    table = weather().assign(height=np.arange(len(weather())) % 7 * 100.0)
    settings = {"y": ["t", "p"], "task": "station", "date_format": "%d.%m.%Y %H:%M", "outputs": outputs}
    settings["x"] = ["sky", "day", "height"] if outputs == "joint" else ["day", "height", "sky"]
    settings["relative"] = outputs == "separate"
    table["day"] = table.day.dt.strftime("%d.%m.%Y %H:%M")
    data = Frame(table, **settings, num_context=(2, 5), num_target=(2, 5), cache_dir=str(tmp_path))
    torch.manual_seed(0)
    model = npexp.build("cnp", dx=data.dx, dy=data.dy, dz=16)
    content = {"state_dict": {f"net.{k}": v for k, v in model.state_dict().items()}, "columns": data.columns}
    content |= {"hyper_parameters": {"net": model.spec}, "scaling": data.scaling}
    torch.save(content, tmp_path / "model.ckpt")
    context, targets = table[: 2 * ROWS].iloc[::2].copy(), table[: 2 * ROWS].iloc[1::2].drop(columns=["t", "p"])
    if outputs == "separate":
        context.loc[context.index[:3], "p"] = np.nan
    for name, part in (("context", context), ("targets", targets)):
        part.to_csv(tmp_path / f"{name}.csv", index=False)
    words = [f"--{name}={tmp_path / name}.csv" for name in ("context", "targets")]
    assert main(["predict", f"--ckpt_path={tmp_path / 'model.ckpt'}", *words, f"--out={tmp_path / 'found.csv'}"]) == 0
    assert main(["export", f"--ckpt_path={tmp_path / 'model.ckpt'}", f"--out={tmp_path / 'files'}"]) == 0

    graphs, manifest = load(tmp_path / "files")
    about, found = manifest["columns"], pd.read_csv(tmp_path / "found.csv")
    context, targets = (pd.read_csv(tmp_path / f"{name}.csv") for name in ("context", "targets"))
    for name, rows in targets.groupby(about["task"]):
        x, y, latest = points(about, context[context[about["task"]] == name], None, observed=True)
        xt, *_ = points(about, rows, latest, observed=False)
        (mean, stddev), _ = stream(graphs, manifest, [(x, y, np.ones(x.shape[:2], bool))], xt)
        mean, stddev = (values.reshape(len(rows), len(about["y"])).astype(float) for values in (mean, stddev))
        if about["separate"] is not None:
            shift, scale = map(np.array, about["separate"])
            mean, stddev = shift + scale * mean, scale * stddev
        expected = found[found[about["task"]] == name]
        for i, output in enumerate(about["y"]):
            np.testing.assert_allclose(mean[:, i], expected[f"{output}_mean"], rtol=1e-5, atol=1e-4)
            np.testing.assert_allclose(stddev[:, i], expected[f"{output}_stddev"], rtol=1e-4)


@pytest.mark.slow
def test_wrong_graphs_are_not_kept(tmp_path, monkeypatch):
    class Wrong(export._Predict):
        def forward(self, xt, *flat):
            mean, stddev = super().forward(xt, *flat)
            return mean + 0.05 * stddev, stddev

    monkeypatch.setattr(export, "_Predict", Wrong)
    with pytest.raises(UnsupportedError, match=r"CNP .* differ from PyTorch by 0\.05 standard"):
        export_onnx(npexp.Predictor(tiny("cnp")), tmp_path / "files")
    assert list(tmp_path.iterdir()) == []


def test_what_is_tried_lies_in_the_domain():
    model, scaling = tiny("lpnp", domain=(10.0, 11.0)).float(), Scaling(**SCALING)
    scaled, raw = export._example(model, scaling, export.Sizes(4, 200, 200))
    low, high = (torch.tensor(ends) for ends in export._ends(export._domain(model), scaling))
    assert low.tolist() == [2e4 + 30, 10.0] and high.tolist() == [2e4 + 33, 11.0]
    for name in ("x", "xt"):
        assert (scaled[name] >= 10).all() and (scaled[name] <= 11).all() and scaled[name].std() > 0.2
        assert (raw[name] >= low - 1e-6).all() and (raw[name] <= high + 1e-6).all()


def test_models_that_cannot_are_told_which_can(tmp_path):
    for name, message in {
        "lbanp": "LBANP cannot be exported, since it needs its whole context again; models that can be: rmnp, lpnp",
        "linear_tnp": "TNP cannot be exported, since it needs its whole context",
        "tnp": "TNP cannot be exported, since it needs its whole context",
        "cmanpand": "CMANP cannot be exported as it decodes targets in several steps",
        "convcnp": "ConvCNP cannot be exported, since it refuses inputs outside its domain",
    }.items():
        with pytest.raises(UnsupportedError, match=message):
            export_onnx(npexp.Predictor(tiny(name)), tmp_path / "files")
    assert list(tmp_path.iterdir()) == []


def test_mistakes(tmp_path, monkeypatch, capsys):
    predictor = npexp.Predictor(tiny("cnp"))
    (tmp_path / "file").write_text("something")
    for place in (tmp_path, tmp_path / "file"):
        with pytest.raises(ConfigError, match="new or empty folder"):
            export_onnx(predictor, place)
    with pytest.raises(ConfigError, match="cannot write to"):
        export_onnx(predictor, tmp_path / "file" / "folder")
    assert main(["export", "--ckpt_path", str(tmp_path / "none.ckpt"), "--out", str(tmp_path / "files")]) == 2
    assert main(["export", "--ckpt", "x"]) == 2
    assert "unknown run, checkpoint or pretrained model" in capsys.readouterr().err
    monkeypatch.setattr(export, "find_spec", lambda package: None if package == "onnxscript" else package)
    with pytest.raises(ConfigError, match=r"needs onnxscript: pip install \"npexp\[onnx\]\""):
        export_onnx(predictor, tmp_path / "files")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_command_line_imports_it_only_when_asked():
    code = "import sys, npexp.cli, npexp.commands; print('npexp.export' in sys.modules, 'onnx' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"
