"""What the machine can do: its names, and the rates that figures are held against."""

import os
import platform
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

SIDES = {"cpu": 1024, "cuda": 8192}  # of square matrices
COPIED = 2**28  # bytes
ROUNDS = 10


def clocks(run: Callable[[], Any], device: torch.device) -> tuple[float, float]:
    """Seconds of a call by two clocks: of all processors by this process, and of the wall; a GPU is waited for."""
    _wait(device)
    cpu, wall = time.process_time(), time.perf_counter()
    run()
    _wait(device)
    return time.process_time() - cpu, time.perf_counter() - wall


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def rates(device: str, dtype: str) -> dict[str, Any]:
    """The machine's name and its best of ten rounds by either clock, `[cpu, wall]`.

    Returns:
        `device`: what it is. `cores`: processors of this machine. `matmul`: operations per second of a product of
        square matrices of 1,024 rows, 8,192 on a GPU, a multiplication and an addition being two. `copy`: bytes per
        second of a copy of 256 MiB, which are read and written.
    """
    where, kind = torch.device(device), getattr(torch, dtype)
    side = SIDES.get(where.type, 1024)
    a, b = (torch.randn(side, side, device=where, dtype=torch.float32).to(kind) for _ in range(2))
    source = torch.ones(COPIED // 4, device=where)
    target = torch.empty_like(source)
    return {
        "device": _name(where),
        "cores": os.cpu_count(),
        "matmul": _best(lambda: torch.mm(a, b), 2 * side**3, where),
        "copy": _best(lambda: target.copy_(source), 2 * COPIED, where),
    }


def _best(run: Callable[[], Any], work: int, device: torch.device) -> list[float]:
    run()
    rounds = [clocks(run, device) for _ in range(ROUNDS)]
    return [work / max(min(seconds), 1e-9) for seconds in zip(*rounds, strict=True)]


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()
