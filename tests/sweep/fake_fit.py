"""Stands in for `npexp fit` in tests of sweeps: writes the same files, in milliseconds.

`--x` is what the metric comes to, in equal parts over `--steps`; `--does` says how it ends. The folder above the run's
keeps the process number and the arguments of each attempt.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from npexp.exchange import FAILURE, REPORTS, RESULT, STOP, TRIAL, end_with_worker, read, write


def main(words: list[str]) -> int:
    if TRIAL in os.environ:
        end_with_worker()
    given = dict(word.removeprefix("--").split("=", 1) for word in words if "=" in word)
    if "--print_config" in words:
        if "unknown" in given:
            print("npexp: unknown option 'unknown'", file=sys.stderr)
        return 2 if "unknown" in given else 0
    folder = Path(given["runs_dir"]) / given["name"] / given["version"]
    folder.mkdir(parents=True, exist_ok="ckpt_path" in given)
    attempts = folder.parent / "attempts.jsonl"
    with attempts.open("a") as file:
        file.write(json.dumps([os.getpid(), given]) + "\n")
    x, steps, does = float(given["x"]), int(given.get("steps", 4)), given.get("does", "well")
    begin = read(Path(given["ckpt_path"]))["step"] if "ckpt_path" in given else 0
    if does == "fails" or (does == "fails if negative" and x < 0):
        print("Traceback ...\nValueError: no luck")
        return 1
    if does == "needs memory" and x > 1:
        print("RuntimeError: [enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory\n")
        return 1
    if does == "is killed" and x > 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if does == "diverges" and x > 1:
        write(folder / FAILURE, {"kind": "DivergenceError", "why": "training diverged at step 3"})
        return 3
    stopped, step = False, begin
    for step in range(begin + 1, steps + 1):
        report = {"step": step, "seconds": 0.5 * step, "peak": 100.0, "metrics": {"val/score": x * step / steps}}
        write(folder / "checkpoints" / "last.ckpt", {"step": step})
        with (folder / REPORTS).open("a") as file:
            file.write(json.dumps(report) + "\n")
        first = begin == 0 and given["name"].endswith(("_0000", "_0001"))
        if does == "waits" or (does == "waits at first" and first) or (does == "waits to be stopped" and x < 0):
            while not (folder / STOP).exists():
                time.sleep(0.01)
        if (folder / STOP).exists():
            stopped = step < steps
            break
    result = {"val/score": x, "parameters": 10 * x, "perf/peak_memory_mb": 100 * x, "steps": step, "stopped": stopped}
    write(folder / RESULT, result)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
