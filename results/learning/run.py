"""How far each variant gets on 1-D RBF Gaussian processes in the computing time of 8,000 CNP steps on one thread.

    OMP_NUM_THREADS=1 python results/learning/run.py [--cnp_steps 8000] [--only NAME ...] [--table FILE]

The training step of every `conf/experiment/gp_rbf_*.yaml` is timed in turns with CNP's, so that other work on the
machine slows both alike; then the variant is trained for as many steps as fit, with its cosine schedule over just
these, and tested on 3,008 tasks. Finished rows of the table are kept: delete one to run it again.
"""

import argparse
import csv
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from npexp.config import expand
from npexp.objectives import OBJECTIVES
from npexp.training_cli import make_cli

HERE = Path(__file__).parent
EXPERIMENTS = HERE.parents[1] / "conf" / "experiment"
NPEXP = [sys.executable, "-m", "npexp"]
COLUMNS = ["model", "parameters", "steps", "step_in_cnp_steps", "loglik_joint", "loglik_joint_sem"]
COLUMNS += ["loglik_marginal", "loglik_marginal_sem", "oracle_gap_marginal", "oracle_gap_joint"]


def run(*command: str) -> str:
    """Output of a command on one thread, which must succeed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=HERE.parents[1])
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr[-3000:]}")
    return done.stdout


def cost(name: str, rounds: int = 12, steps: int = 6) -> tuple[float, float]:
    """Processor time of a training step of the variant and of CNP, in seconds: medians over rounds in turns."""
    takers, times = {}, {"cnp": [], name: []}
    sys.argv = sys.argv[:1]  # or Lightning warns of two sources of arguments
    for model in times:
        layers = expand(["base", f"experiment/gp_rbf_{model}"])
        cli = make_cli(run=False, args=[word for path in layers for word in ("--config", str(path))])
        takers[model] = (cli.model, torch.optim.Adam(cli.model.net.parameters(), 5e-4))
    batches = itertools.cycle(cli.datamodule.make_batch("train", i) for i in range(24))
    for _ in range(rounds):
        for model, (module, optimizer) in takers.items():
            start = time.process_time()
            for batch in itertools.islice(batches, steps):
                objective = OBJECTIVES[module.objective]
                loss = objective(module.net, batch, module.num_samples, module.include_context).total
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(module.net.parameters(), 1.0)
                optimizer.step()
            times[model].append((time.process_time() - start) / steps)
    return statistics.median(times[name]), statistics.median(times["cnp"])


def measure(name: str, cnp_steps: int) -> dict[str, object]:
    """Trains and tests one variant; one row of the table."""
    own, cnp = cost(name)
    steps = int(cnp_steps * cnp / own) if name != "cnp" else cnp_steps
    steps += steps % 2  # validated half way and at the end: a run that ends elsewhere would be tested half way
    with tempfile.TemporaryDirectory() as runs:
        run(
            *(*NPEXP, "fit", "--config", f"experiment/gp_rbf_{name}", f"--trainer.max_steps={steps}", "--name=run"),
            *(f"--runs_dir={runs}", f"--trainer.val_check_interval={steps // 2}", "--figures.num_tasks=0"),
            *("--trainer.enable_progress_bar=false", "--data.num_val_batches=16"),
        )
        run(
            *(*NPEXP, "test", f"--ckpt_path={runs}/run/0", f"--runs_dir={runs}", "--data.num_test_batches=188"),
            *("--trainer.enable_progress_bar=false", "--data.test_kernels={}", "--model.energy_score=false"),
        )
        found = json.loads((Path(runs) / "run" / "0" / "test_metrics.json").read_text())
    row = {key: found.get(f"test/{key}", "") for key in COLUMNS}
    return row | {"model": name, "parameters": found["parameters"], "steps": steps, "step_in_cnp_steps": own / cnp}


def main() -> None:
    """Fills the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cnp_steps", type=int, default=8_000, help="steps of CNP whose time each variant gets")
    parser.add_argument("--only", nargs="+", help="these variants")
    parser.add_argument("--table", type=Path, default=HERE / "learning.csv", help="the table to fill")
    args = parser.parse_args()
    every = sorted(p.stem.removeprefix("gp_rbf_") for p in EXPERIMENTS.glob("gp_rbf_*.yaml"))
    for name in args.only or every:
        if name in {row["model"] for row in read(args.table)}:
            continue
        start = time.time()
        row = measure(name, args.cnp_steps)
        rows = [*read(args.table), row]  # read again: several of these may run side by side
        temporary = args.table.with_suffix(f".{os.getpid()}")
        with temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(sorted(rows, key=lambda r: str(r["model"])))
        temporary.replace(args.table)
        print(f"{name}: {float(row['loglik_joint']):.3f} joint, {row['steps']} steps, {time.time() - start:.0f} s")


def read(table: Path) -> list[dict[str, str]]:
    """The rows so far."""
    return list(csv.DictReader(table.open())) if table.exists() else []


if __name__ == "__main__":
    main()
