"""How far each variant gets on 1-D RBF Gaussian processes in the same computing time on one thread.

    OMP_NUM_THREADS=1 python results/learning.py [--seconds 180] [--only NAME ...]

Every `conf/experiment/gp_rbf_*.yaml` is timed for a moment, trained for as many steps as fit into the budget, with its
cosine schedule over just these, and tested on 3,008 tasks. The budget is processor time, so that other work on the
machine counts little. Finished rows of `learning.csv` are kept: delete one to run it again.
"""

import argparse
import csv
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
EXPERIMENTS = HERE.parent / "conf" / "experiment"
TABLE = HERE / "learning.csv"
NPEXP = [sys.executable, "-m", "npexp"]
COLUMNS = ["model", "parameters", "steps", "ms_per_step", "loglik_joint", "loglik_joint_sem"]
COLUMNS += ["loglik_marginal", "loglik_marginal_sem", "oracle_gap_marginal", "oracle_gap_joint"]


def run(*command: str) -> str:
    """Output of a command on one thread, which must succeed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=HERE.parent)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr[-3000:]}")
    return done.stdout


def fit(name: str, steps: int, runs: str, *options: str) -> float:
    """Trains a variant, its checkpoints in `runs`; the processor time that took, in seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run(
        *(*NPEXP, "fit", "--config", f"experiment/gp_rbf_{name}", f"--trainer.max_steps={steps}"),
        *(f"--runs_dir={runs}", f"--trainer.val_check_interval={(steps + 1) // 2}", "--figures.num_tasks=0"),
        *("--trainer.enable_progress_bar=false", *options),
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(name: str, seconds: float) -> dict[str, object]:
    """Trains and tests one variant; one row of the table."""
    with tempfile.TemporaryDirectory() as runs:
        short, long = (fit(name, n, runs, "--data.num_val_batches=1") for n in (40, 240))
        step = (long - short) / 200  # what starting and validating cost cancels
        steps = int(seconds / step)
        fit(name, steps, runs, "--name=run")
        run(
            *(*NPEXP, "test", f"--ckpt_path={runs}/run/0", f"--runs_dir={runs}", "--data.num_test_batches=188"),
            *("--trainer.enable_progress_bar=false", "--data.test_kernels={}", "--model.energy_score=false"),
        )
        found = json.loads((Path(runs) / "run" / "0" / "test_metrics.json").read_text())
    row = {key: found.get(f"test/{key}", "") for key in COLUMNS}
    return row | {"model": name, "parameters": found["parameters"], "steps": steps, "ms_per_step": 1000 * step}


def main() -> None:
    """Fills the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=180.0, help="processor time for training each variant")
    parser.add_argument("--only", nargs="+", help="these variants")
    args = parser.parse_args()
    every = sorted(p.stem.removeprefix("gp_rbf_") for p in EXPERIMENTS.glob("gp_rbf_*.yaml"))
    for name in args.only or every:
        if name in {row["model"] for row in read()}:
            continue
        start = time.time()
        row = measure(name, args.seconds)
        rows = [*read(), row]  # read again: several of these may run side by side
        temporary = TABLE.with_suffix(f".{os.getpid()}")
        with temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(sorted(rows, key=lambda r: str(r["model"])))
        temporary.replace(TABLE)
        print(f"{name}: {float(row['loglik_joint']):.3f} joint, {row['steps']} steps, {time.time() - start:.0f} s")


def read() -> list[dict[str, str]]:
    """The rows so far."""
    return list(csv.DictReader(TABLE.open())) if TABLE.exists() else []


if __name__ == "__main__":
    main()
