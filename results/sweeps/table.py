"""Writes sweeps.md from trials.csv: what became of the trials, and the complete ones, best first.

python results/sweeps/table.py
"""

import csv
from collections import Counter
from pathlib import Path

from npexp.tables import markdown, plus_minus

HERE = Path(__file__).parent
TO = HERE / "sweeps.md"
SETTINGS = ("num_latents", "num_block_latents", "block_size")
SCORE = "val/loglik_joint"


def text() -> str:
    """Counts, then the table."""
    with (HERE / "trials.csv").open(newline="") as file:
        trials = list(csv.DictReader(file))
    counts = Counter(trial["state"] for trial in trials)
    complete = [trial for trial in trials if trial["state"] == "complete"]
    complete.sort(key=lambda trial: -float(trial[SCORE]))
    rows = [
        (
            trial["number"] + (" (published)" if trial["number"] == "0" else ""),
            *(trial[f"model.net.init_args.{name}"] for name in SETTINGS),
            plus_minus(float(trial[SCORE]), float(trial[f"{SCORE}_sem"])),
            f"{float(trial['perf/train_seconds']):.0f}",
            f"{float(trial['perf/peak_memory_mb']):.0f}",
        )
        for trial in complete
    ]
    header = ("trial", *SETTINGS, "joint log-likelihood", "training time, s", "peak memory, MiB")
    said = ", ".join(f"{number} {state}" for state, number in counts.most_common())
    return f"{len(trials)} trials: {said}.\n\n{markdown(header, rows)}"


if __name__ == "__main__":
    TO.write_text(text())
    print(text(), end="")
