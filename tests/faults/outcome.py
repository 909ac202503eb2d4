"""What a run has come to: its weights as a number, its files read in full, and the record of what was counted."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from npexp.exchange import REPORTS, reports
from npexp.resume import steps_in
from npexp.run_files import read_rows

RECORD = Path(__file__).parents[2] / "results/faults/kills.json"


def weights_hash(run: Path) -> str:
    """SHA-256 of all weights in the last checkpoint of a run folder, in order."""
    digest = hashlib.sha256()
    state = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    for name, value in sorted(state.items()):
        digest.update(name.encode() + value.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def parse_all(run: Path) -> int:
    """Reads every file of a run folder in full; what a kill left half written has no name.

    Returns:
        How many there are.
    """
    files = [p for p in run.rglob("*") if p.is_file() and p.suffix != ".part"]
    for path in files:
        if path.suffix == ".ckpt":
            steps_in(path)
        elif path.suffix == ".yaml":
            assert yaml.safe_load(path.read_text())["seed_everything"] == 0
        elif path.suffix == ".csv":
            assert read_rows(path)
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.name == REPORTS:
            reports(run)
        else:
            assert path.name.startswith("events."), path
            EventAccumulator(str(path)).Reload()
    return len(files)


def keep(name: str, found: dict[str, Any]) -> None:
    """Puts what was counted into the record, under a name."""
    kept = json.loads(RECORD.read_text()) if RECORD.is_file() else {}
    kept[name] = found
    RECORD.parent.mkdir(exist_ok=True)
    RECORD.write_text(json.dumps(kept, indent=1) + "\n")
