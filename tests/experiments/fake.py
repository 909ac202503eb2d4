"""Stands in for `npexp fit` and `npexp test` in tests of tables: leaves the same files, in milliseconds."""

import json
import signal
import sys
import time
from pathlib import Path

from npexp.exchange import RESULT, end_with_worker, write
from npexp.run_files import METRICS, RESULTS

FIT, TEST = ((sys.executable, "-m", "tests.experiments.fake", word) for word in ("fit", "test"))


def fit(given: dict[str, str]) -> int:
    """Trains in `--trainer.max_steps` steps; `--does` says how it ends."""
    folder = Path(given["runs_dir"], given["name"], given["version"])
    folder.mkdir(parents=True, exist_ok="ckpt_path" in given)
    begin = json.loads(Path(given["ckpt_path"]).read_text()) if "ckpt_path" in given else 0
    with (folder.parent / "attempts").open("a") as file:
        file.write(f"{begin} {given['seed_everything']}\n")
    if given["does"] == "fails":
        print("Traceback ...\nnpexp: no luck")
        return 1
    steps, rows = int(given["trainer.max_steps"]), ["step,val/loglik_joint,train/loss"]
    (folder / "config.yaml").write_text(json.dumps({"trainer": {"max_steps": steps}, "seed_everything": 0}))

    def save(*_):
        write(folder / "checkpoints" / "last.ckpt", step + 1)
        sys.exit(143)

    if given["does"] == "waits":  # and writes its only checkpoint when it is told to end, as `npexp fit` does
        signal.signal(signal.SIGTERM, save)
    for step in range(begin, steps):
        rows.append(f"{step},{-step if step % 10 == 9 else ''},1.0")
        (folder / METRICS).write_text("\n".join(rows) + "\n")
        while given["does"] == "waits" and not begin and step == 2:
            time.sleep(0.01)
    write(folder / "checkpoints" / "last.ckpt", steps)
    write(folder / RESULT, {"stopped": False})
    return 0


def test(given: dict[str, str]) -> int:
    """Measures as many batches as it is told."""
    if given["does"] == "is not tested":
        print("npexp: no file")
        return 1
    write(Path(given["ckpt_path"], RESULTS), {"test/loglik_joint": float(given["batches"])})
    return 0


if __name__ == "__main__":
    end_with_worker()
    found = dict(word.removeprefix("--").split("=", 1) for word in sys.argv[2:] if "=" in word)
    sys.exit({"fit": fit, "test": test}[sys.argv[1]](found))
