"""Trains a neural process to complete handwritten digits, and shows how well it does: `make demo`.

Everything goes through the `npexp` command and its Python interface, as in any other experiment:

1. `npexp fit` trains CMANP and, as a baseline, a CNP for as many steps, one thread each, side by side;
2. `npexp test` scores both on new images of the classes seen in training, and on classes never seen;
3. a third line of the table is the law that knows no context: each pixel's mean and variance over the training images;
4. `npexp.load_predictor` completes a few images while more and more of their pixels come in.

Results are in runs/demo/: the table as JSON, and completions.png. Arguments are passed on to `npexp fit`, e.g.
`--trainer.max_steps=500`.
"""

import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import numpy as np
import torch
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

import npexp
from datamodules.digits import PIXELS, SIDE, WHITE
from npexp.likelihoods import DiagonalGaussian
from npexp.metrics import Evaluation

MODELS = {"CMANP": "digits_cmanp", "CNP": "digits_cnp"}
SETS = {"test": "new images", "test_unseen": "new classes"}
OUT = Path("runs/demo")
FLOOR = 0.05  # on every standard deviation of the table, as in the models' heads
SHARES = (0.05, 0.10, 0.30, 0.50)


def start(command: str, name: str, log: IO[str] | None, extra: list[str]) -> subprocess.Popen:
    """Starts `npexp` on one thread; its output is kept in a log, or shown where there is none."""
    words = [sys.executable, "-m", "npexp", command, "--config", f"experiment/{name}", "--name", f"demo/{name}", *extra]
    return subprocess.Popen(words, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"})


def run(command: str, show: str | None, extra: list[str]) -> None:
    """Runs a command for both models side by side; when one fails, the other is stopped."""
    logs = {name: OUT / f"{name}.{command}.log" for name in MODELS.values() if name != show}
    with ExitStack() as leaving:
        jobs = {}
        for name in MODELS.values():
            log = leaving.enter_context(logs[name].open("w")) if name in logs else None
            jobs[name] = leaving.enter_context(start(command, name, log, extra))  # leaving waits for its end ...
            leaving.callback(jobs[name].terminate)  # ... which this brings about, and does nothing after it
        for name, job in jobs.items():
            if job.wait() != 0:
                where = f"see {logs[name]}" if name in logs else "see above"
                raise SystemExit(f"npexp {command} failed for {name}; {where}")


def newest(name: str) -> Path:
    """The newest run folder of a demo run."""
    return max((OUT / name).iterdir(), key=lambda p: int(p.name))


def baseline(data) -> dict[str, float]:
    """Scores of each pixel's mean and standard deviation over the training images, whatever the context."""
    images = torch.as_tensor(data.images("train")).flatten(1)
    mean, stddev = images.mean(0), images.std(0).clamp_min(FLOOR)
    results = {}
    for name in SETS:
        scores = Evaluation()
        for batch in data.eval_batches(name):
            row, column = ((batch.xt + 1) / 2 * (SIDE - 1)).round().long().unbind(-1)
            pixel = (row * SIDE + column)[..., None]
            scores.update(DiagonalGaussian(mean[pixel], stddev[pixel]), batch)
        results |= {f"{name}/{key}": value for key, value in scores.compute().items()}
    return results


def print_table(rows: dict[str, dict[str, float]], console: Console) -> None:
    """Log-likelihood per pixel and root mean squared error, with standard errors over images."""
    table = Table(title="Completing 8 x 8 digits from 3 to 32 of their 64 pixels", title_justify="left", box=SIMPLE)
    table.add_column("", no_wrap=True)
    for words in SETS.values():
        table.add_column(f"{words}\nnats/pixel", justify="right", no_wrap=True)
        table.add_column("\nRMSE", justify="right", no_wrap=True)
    for label, scores in rows.items():
        cells = []
        for name in SETS:
            cells.append(f"{scores[f'{name}/loglik_joint']:.3f} ± {scores[f'{name}/loglik_joint_sem']:.3f}")
            cells.append(f"{scores[f'{name}/rmse']:.3f} ± {scores[f'{name}/rmse_sem']:.3f}")
        table.add_row(label, *cells)
    # A row in pieces is worse than a line that the terminal breaks.
    Console(width=max(console.width, Console(width=1000).measure(table).maximum)).print(table)


def completions(data, path: Path, per_set: int = 3) -> None:
    """Draws images completed from 5, 10, 30 and 50 % of their pixels, each state an update of the one before."""
    from matplotlib.figure import Figure

    predictor = npexp.load_predictor(newest(MODELS["CMANP"]))
    # The predictor takes and gives raw values: rows and columns from 0 to 7, intensities from 0 to 16.
    images = (np.concatenate([data.images(name)[:per_set] for name in SETS]).reshape(-1, PIXELS) + 0.5) * WHITE
    grid = np.tile(np.stack(np.divmod(np.arange(PIXELS), SIDE), -1), (len(images), 1, 1))
    order = np.random.default_rng(0).permuted(np.tile(np.arange(PIXELS), (len(images), 1)), axis=1)
    columns = 1 + 2 * len(SHARES)
    figure = Figure(figsize=(1.05 * columns, 1.08 * len(images) + 0.55), layout="constrained", dpi=150)
    axes = figure.subplots(len(images), columns)
    gray = {"cmap": "gray", "vmin": 0, "vmax": WHITE}

    def show(column: int, title: str, pictures: np.ndarray, **style) -> None:
        axes[0, column].set_title(title, fontsize=9)
        for axis, picture in zip(axes[:, column], pictures, strict=True):
            axis.imshow(picture.reshape(SIDE, SIDE), **style)

    show(0, "image", images, **gray)
    state, known = None, 0
    for i, share in enumerate(SHARES):
        upto = round(share * PIXELS)
        new = order[:, known:upto, None]
        x, y = np.take_along_axis(grid, new, 1), np.take_along_axis(images[..., None], new, 1)
        state = predictor.condition(x, y) if state is None else predictor.update(state, x, y)
        known = upto
        unknown = np.ones(images.shape, dtype=bool)
        np.put_along_axis(unknown, order[:, :known], False, 1)
        show(1 + 2 * i, f"{share:.0%} known", np.ma.array(images, mask=unknown), **gray)
        predicted = predictor.predict(state, grid).mean[..., 0].numpy()
        show(2 + 2 * i, "completed", np.where(unknown, predicted, images), **gray)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[], facecolor="#9ecae1")  # unseen pixels are blue
        axis.spines[:].set_visible(False)
    for row, words in ((0, "new images"), (per_set, "new classes")):
        axes[row, 0].set_ylabel(words, fontsize=9)
    figure.savefig(path)


def main() -> None:
    """Trains, tests, prints and draws."""
    began, console = time.monotonic(), Console()
    OUT.mkdir(parents=True, exist_ok=True)
    console.print("Training CMANP (shown) and, unseen, a CNP of equally many steps ...")
    run("fit", MODELS["CMANP"], sys.argv[1:])
    console.print("Testing both ...")
    run("test", None, [])
    data = npexp.build_data("digits")
    rows = {"pixel mean and variance": baseline(data)}
    for label in ("CNP", "CMANP"):
        rows[label] = json.loads((newest(MODELS[label]) / "test_metrics.json").read_text())
    print_table(rows, console)
    (OUT / "table.json").write_text(json.dumps(rows, indent=1))
    completions(data, OUT / "completions.png")
    console.print(f"{OUT}/completions.png shows completions from 5, 10, 30 and 50 % of the pixels.")
    console.print(f"TensorBoard: .venv/bin/tensorboard --logdir {OUT}    ({time.monotonic() - began:.0f} s in all)")


if __name__ == "__main__":
    main()
