"""Peak memory of a stretch of time: what PyTorch allocated on a GPU, the whole process on a Linux CPU."""

import ctypes
import re
from contextlib import suppress
from pathlib import Path

import torch


def reset_peak_memory(device: torch.device) -> bool:
    """Starts a new measurement of peak memory: the peak is now what is in use.

    What a process has freed but not given back to the system would otherwise hide as much of what comes after it.

    Returns:
        Whether that was possible. Where it is not, on systems other than Linux and in some containers, a CPU's peak
        counts from the start of the process.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True
    with suppress(OSError, AttributeError):  # glibc only
        ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def peak_memory(device: torch.device) -> int | None:
    """Peak memory in bytes since `reset_peak_memory`, or None where it cannot be known."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None
