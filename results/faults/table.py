"""Writes faults.md from kills.json, which `make test-faults` leaves here.

python results/faults/table.py
"""

import json
from pathlib import Path

from npexp.tables import markdown

HERE = Path(__file__).parent
TO = HERE / "faults.md"
FIT = (
    "what",
    "kills",
    "of which while starting",
    "steps",
    "checkpoints that the kills left, from and to step",
    "files read in full after kills",
    "rows of metrics.csv that differ",
    "same weights as the unbroken run",
)
SWEEP = (
    "what",
    "kills",
    "of a worker, the command, all processes",
    "of which while a trial ran",
    "starts of the command",
    "complete trials",
    "of which killed once before",
    "settings given up, killed twice",
    "waiting for a longer study",
    "copies dropped, queued by two",
    "lost",
    "doubled",
    "files read in full after kills",
    "trials with other weights than the unbroken fit",
)


def text() -> str:
    """The tables."""
    kills = json.loads((HERE / "kills.json").read_text())
    fits, sweeps = [], []
    for name, found in sorted(kills.items()):
        if "processes" in found:
            at = found["newest_checkpoints"]
            counts = (found["kills"], found["during_start"], found["steps"], f"{at[0]} to {at[-1]}")
            same = f"{'yes' if found['same_weights'] else 'no'}, SHA-256 {found['weights'][:12]}"
            label = f"{name} process" + ("" if found["processes"] == 1 else "es")
            fits.append((label, *map(str, (*counts, found["files_read"], found["wrong_rows"])), same))
        else:
            of = ", ".join(str(found["of"].get(whom, 0)) for whom in ("a worker", "the command", "all"))
            label = f"{name} worker" + ("" if found["workers"] == 1 else "s")
            counts = ("while_training", "commands", "complete", "after_a_kill", "given_up", "waiting", "dropped")
            ends = ("lost", "doubled", "files_read", "other_weights")
            sweeps.append((label, str(found["kills"]), of, *(str(found[key]) for key in (*counts, *ends))))
    return "\n".join([markdown(FIT, fits), markdown(SWEEP, sweeps)])


if __name__ == "__main__":
    TO.write_text(text())
    print(text(), end="")
