"""Calls a function in a Python process of its own: a peak of memory is one of the process, and what fails stays there.

`python -m npexp.fresh` is that process: it reads what to call from its argument, and its last line says what came out.
"""

import json
import os
import re
import subprocess
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

OK, NO_MEMORY, NO_TIME, FAILED = "ok", "out of memory", "timed out", "failed"
EXHAUSTED = re.compile(r"allocate memory|bad_alloc|out of memory", re.IGNORECASE)  # PyTorch, C++, CUDA
KILLED = -9  # how Linux ends a process when memory runs out


class Outcome(NamedTuple):
    """What became of a call.

    Args:
        status: "ok", "out of memory", "timed out" or "failed".
        value: what the function returned, plain data.
        why: what went wrong, one line; "" when nothing did.
    """

    status: str
    value: Any
    why: str


def call(
    target: str, *args: Any, timeout: int | float, memory: int | None = None, threads: int | None = None
) -> Outcome:
    """Calls `module:name` with plain arguments; nothing that happens to it raises here.

    Args:
        target: e.g. "npexp.bench.cell:measure"; must return plain data.
        *args: its arguments, as JSON can carry them.
        timeout: seconds, the start of the process included.
        memory: bytes that it may take beyond what its module takes, on Linux; None is as many as there are.
        threads: that PyTorch may use; None is its own choice.
    """
    words = [sys.executable, "-m", "npexp.fresh", json.dumps([target, args, memory])]
    env = os.environ if threads is None else {**os.environ, "OMP_NUM_THREADS": str(threads)}
    try:
        done = subprocess.run(words, capture_output=True, text=True, errors="replace", timeout=timeout, env=env)
    except subprocess.TimeoutExpired:
        return Outcome(NO_TIME, None, f"more than {timeout:g} s")
    if done.returncode == 0 and done.stdout:
        return Outcome(*json.loads(done.stdout.splitlines()[-1]))
    if done.returncode == KILLED:
        return Outcome(NO_MEMORY, None, "ended by the system")
    said = done.stderr.strip().splitlines()
    why = said[-1] if said else f"ended with status {done.returncode}"
    return Outcome(NO_MEMORY if EXHAUSTED.search(why) else FAILED, None, why)  # C++ ends a process with its last word


def _answer(target: str, args: list[Any], memory: int | None) -> Outcome:
    """Calls the function in this process."""
    module, name = target.split(":")
    function = getattr(import_module(module), name)
    if memory is not None:
        _limit(memory)
    try:
        return Outcome(OK, function(*args), "")
    except Exception as error:  # whatever it is, it is the result
        said = f"{type(error).__name__}: {error}"
        # PyTorch's own class has to be told by its name, as nothing here imports PyTorch.
        exhausted = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
        exhausted = exhausted or (isinstance(error, RuntimeError) and EXHAUSTED.search(said) is not None)
        return Outcome(NO_MEMORY if exhausted else FAILED, None, " ".join(said.split())[:300])


def _limit(memory: int) -> None:
    """Lets this process take no more than so many bytes beyond what it has, where that can be said."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        found = re.search(r"VmData:\s+(\d+) kB", Path("/proc/self/status").read_text())
        most = memory + (int(found[1]) * 1024 if found else 0)
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))


if __name__ == "__main__":
    print("\n" + json.dumps(_answer(*json.loads(sys.argv[1]))))
