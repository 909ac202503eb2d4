"""Writes faults.md from kills.json, which `make test-faults` leaves here.

python results/faults/table.py
"""

import json
from pathlib import Path

from npexp.tables import markdown

HERE = Path(__file__).parent
TO = HERE / "faults.md"
HEADS = (
    "what",
    "kills",
    "of which while starting",
    "steps",
    "checkpoints that the kills left, from and to step",
    "files read in full after kills",
    "rows of metrics.csv that differ",
    "same weights as the unbroken run",
)


def text() -> str:
    """The table."""
    rows = []
    for name, found in sorted(json.loads((HERE / "kills.json").read_text()).items()):
        at = found["newest_checkpoints"]
        counts = (found["kills"], found["during_start"], found["steps"], f"{at[0]} to {at[-1]}", found["files_read"])
        same = f"{'yes' if found['same_weights'] else 'no'}, SHA-256 {found['weights'][:12]}"
        rows.append((f"{name} process" + ("" if found["processes"] == 1 else "es"), *map(str, counts)))
        rows[-1] += (str(found["wrong_rows"]), same)
    return markdown(HEADS, rows)


if __name__ == "__main__":
    TO.write_text(text())
    print(text(), end="")
