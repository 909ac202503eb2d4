"""Trains one model on 1, 2 and 4 processes with the same global batch, and draws the loss curves.

`python results/ddp/run.py` writes curves.csv and curves.png beside this file. Minutes on two cores; every process
computes on one thread.
"""

import csv
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from matplotlib import rc_context
from matplotlib.figure import Figure

from npexp.callbacks.figures import BLACK, BLUE, STYLE, VERMILION
from npexp.run_files import read_rows

HERE = Path(__file__).parent
GREEN, GREY = "#009e73", "#888888"
STEPS = 60
WORDS = [  # the latent of an NP is drawn anew for every micro-batch; four of 4 tasks make a step
    *("--config", "experiment/gp_rbf_np", "--data.batch_size=4", "--global_batch_size=16", "--data.steps_per_epoch=25"),
    *("--model.net.dz=64", "--model.optimizer.lr=2e-3", f"--model.lr_scheduler.total_steps={STEPS}"),
    *("--data.num_val_batches=8", "--trainer.val_check_interval=20", "--trainer.log_every_n_steps=1"),
    *("--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--figures.num_tasks=0", "--version=0"),
]
LOSS, SCORE = "train/loss", "val/loglik_joint"


class Curve(NamedTuple):
    """One run.

    Args:
        label: names it in the table and the legend.
        processes: how many; a second number is that after a restart in the middle.
        color: of its line or points.
        line: its style.
        precision: the trainer's.
    """

    label: str
    processes: tuple[int, ...]
    color: str
    line: str = "-"
    precision: str = "32-true"


CURVES = [
    Curve("1", (1,), BLACK),
    Curve("2", (2,), BLUE, "--"),
    Curve("4", (4,), VERMILION, ":"),
    Curve("1, then 4", (1, 4), GREEN, "-."),
    Curve("1, float64", (1,), GREY, precision="64-true"),
    Curve("4, float64", (4,), GREY, precision="64-true"),
]


Rows = dict[int, dict[str, float]]  # metrics by step


def fit(curve: Curve, runs: str) -> Rows:
    """What `npexp fit` logs."""
    name = curve.label.replace(", ", "_").replace(" ", "_")
    for part, processes in enumerate(curve.processes, 1):
        ddp = ["--config", "trainer/ddp", f"--trainer.devices={processes}"] if processes > 1 else []
        words = [*WORDS, *ddp, f"--trainer.precision={curve.precision}", f"--runs_dir={runs}", f"--name={name}"]
        words += [f"--trainer.max_steps={STEPS * part // len(curve.processes)}"]
        words += ["--ckpt_path=last"] if part > 1 else []
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run([sys.executable, "-m", "npexp", "fit", *words], check=True, env=environment, timeout=1800)
    return read_rows(Path(runs, name, "0", "metrics.csv"))


def write(found: dict[str, Rows]) -> None:
    """One row per step: the loss of each run, and at each validation its score."""
    with (HERE / "curves.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["step", *(f"{key} on {label}" for key in (LOSS, SCORE) for label in found)])
        for step in range(STEPS):
            table.writerow([step + 1, *(run[step].get(key) for key in (LOSS, SCORE) for run in found.values())])


def draw(found: dict[str, Rows]) -> None:
    """The curves on top of each other, and below how far they are apart, where they are at all."""
    with rc_context(STYLE):
        figure = Figure(figsize=(6.4, 4.8), layout="constrained")
        above, below = figure.subplots(2, sharex=True, height_ratios=(3, 2))
        for i, curve in enumerate(CURVES):
            run, first = found[curve.label], f"1{', float64' * (curve.precision == '64-true')}"
            loss = {step + 1: row[LOSS] for step, row in run.items()}
            if curve.precision == "32-true":
                above.plot(*zip(*loss.items(), strict=True), curve.line, color=curve.color, lw=4 - i, label=curve.label)
            if curve.label != first:
                gaps = {step + 1: abs(row[LOSS] - found[first][step][LOSS]) for step, row in run.items()}
                apart = {step: gap for step, gap in gaps.items() if gap > 0}
                below.plot(*zip(*apart.items(), strict=True), "o", markersize=3, color=curve.color, label=curve.label)
        above.set(ylabel="training loss\n(nats per target)")
        above.legend(title="processes", ncols=2)
        below.set(xlabel="training step of 16 tasks", ylabel="difference from\none process", yscale="log")
        below.legend(ncols=2)
        figure.savefig(HERE / "curves.png", dpi=110)


def main() -> None:
    """Trains, writes and draws."""
    with tempfile.TemporaryDirectory() as runs:
        found = {curve.label: fit(curve, runs) for curve in CURVES}
    write(found)
    draw(found)


if __name__ == "__main__":
    main()
