"""Every command of the README and of `RUN`, and every snippet, runs as it stands there, only shorter."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from npexp.cli import main
from npexp.mixers import base
from npexp.sweep.storage import default_url
from npexp.sweep.study import open_study, read, suggest_all

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# Pages whose commands run, in this order. `bench`, `report`, `sweep` and several processes have tests elsewhere.
RUN = [PAGES[0], *(ROOT / f"docs/{name}.md" for name in ("train", "use", "data", "models", "likelihoods"))]
FENCE = r"```(\w*)\n(.*?)```"


def commands(text):
    """First those in blocks, then those in the prose."""
    blocks = "\n".join(block for kind, block in re.findall(FENCE, text, re.DOTALL) if kind != "python")
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    return re.findall(r"^(npexp .*?)(?:\s+#.*)?$", blocks, re.MULTILINE) + re.findall(r"`(npexp [^`]*)`", prose)


COMMANDS = list(dict.fromkeys(c for page in RUN for c in commands(page.read_text())))  # some stand on two pages
SHORT = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]


def shorter(words, steps):
    if words[0] == "bench":
        fewer = [re.sub(r"64,.*", "8", word) for word in words if word != "tnp"]
        return [*fewer, "--modes", "encode", "--repeats", "3"]
    if words[0] == "table":  # `tests/experiments` trains
        return [*words, "--list"]
    if words[0] not in ("fit", "test"):
        return words
    fewer = (
        []
        if "digits" in " ".join(words) or "my.csv" in words
        else ["--data.num_val_batches=1", "--data.num_test_batches=1", "--data.batch_size=4"]
    )
    fit = [f"--trainer.max_steps={steps}", "--figures.num_tasks=0"] if words[0] == "fit" else []
    return [*words, *SHORT, *fewer, *fit]


def finish_sweep(name, folder):
    """Leaves the study of a shipped sweep with all of its trials done: `tests/sweep` has real ones."""
    sweep, content = read(name)
    study, _ = open_study(name, default_url(folder, name), content)
    study.optimize(lambda trial: float(sum(suggest_all(trial, sweep.space).values())), n_trials=sweep.trials)


def test_commands(tmp_path, monkeypatch, untyped):
    """In their order, in one folder: later ones build on earlier ones."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    pd.DataFrame({"x": [0.0, 0.5, 1.0, 0.7], "y": [0.1, -0.2, 0.3, None]}).to_csv("points.csv", index=False)
    times = {"station": np.repeat(list("abcdefgh"), 8), "time": np.tile(np.arange(8.0), 8)}
    table = pd.DataFrame({**times, "t": np.arange(64.0) % 7, "p": np.arange(64.0) % 5})
    table.to_csv("my.csv", index=False)
    table.assign(**{name: table[name].where(table["time"] < 6) for name in ("t", "p")}).to_csv("new.csv", index=False)
    finish_sweep("latents", tmp_path / "runs")
    monkeypatch.setattr(sys, "argv", ["npexp"])
    x = "fit --config base --config model/cnp --config data/gp_rbf --name x"  # the run that stands for the reader's own
    assert main(shorter(x.split(), 1)) == 0
    assert len(COMMANDS) >= 8, COMMANDS
    for steps, command in enumerate(COMMANDS, start=2):
        words = shlex.split(command)[1:]
        if "foo" in command:  # the model that the reader is about to write
            words = shlex.split(command.replace("model/foo", "model/cnp"))[1:]
        monkeypatch.setattr(sys, "argv", ["npexp"])
        assert main(shorter(words, steps)) == 0, command
    written = pd.read_csv("predictions.csv")
    assert {"y_mean", "y_stddev"} <= set(written.columns) and written["y_mean"].notna().all()
    assert (tmp_path / "conf/experiment/mine.yaml").is_file() and (tmp_path / "figures/history.png").is_file()
    answers = pd.read_csv("answers.csv")
    assert len(answers) == 16 and {"station", "time", "t_mean", "p_q0.025"} <= set(answers.columns)


@pytest.mark.parametrize("page", [p for p in PAGES if "```python" in p.read_text()], ids=lambda page: page.name)
def test_snippets(page, tmp_path, monkeypatch, capsys):
    base.registered()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(base, "_REGISTRY", dict(base._REGISTRY))  # what a snippet registers is forgotten
    snippets = [block for kind, block in re.findall(FENCE, page.read_text(), re.DOTALL) if kind == "python"]
    for snippet in snippets:
        exec(compile(snippet, page.name, "exec"), {})
    assert "torch.Size" in capsys.readouterr().out


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_files_exist(page):
    text = page.read_text()
    for name in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (page.parent / name).exists(), name
    assert "@@" not in text


@pytest.mark.slow
def test_demo(tmp_path):
    """`make demo`, with fewer steps."""
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, ROOT / "examples/digits.py", "--trainer.max_steps=2", "--trainer.val_check_interval=2"]
    done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert all(row in done.stdout for row in ("pixel mean and variance", "CNP", "CMANP"))
    assert (tmp_path / "runs/demo/completions.png").stat().st_size > 10_000
