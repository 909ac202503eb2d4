"""Processes of one run end together, and one of them says why."""

import ctypes
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

PR_SET_PDEATHSIG = 1  # of Linux, <sys/prctl.h>
OBSERVER = "lightning.fabric.strategies.launchers.subprocess_script"  # ends a run whose process has died


def is_launched() -> bool:
    """Whether this is a further process of a run on several devices."""
    return int(os.environ.get("LOCAL_RANK", "0")) > 0


def end_with_parent() -> None:
    """Has the system kill this process when the one that started it ends, on Linux; elsewhere it lives on."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


@contextmanager
def hearing(hear: Callable[[int, Any], Any]) -> Iterator[None]:
    """Has a function called in place of what Ctrl-C, SIGTERM and SIGHUP do.

    The second is how schedulers end a job, the third comes from a terminal that is closed. A signal that is ignored, as
    nohup has it, stays so.
    """
    found = {which: signal.getsignal(which) for which in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    before = {which: handler for which, handler in found.items() if handler != signal.SIG_IGN}
    for which in before:
        signal.signal(which, hear)
    try:
        yield
    finally:
        for which, handler in before.items():
            signal.signal(which, handler)


def lost_contact(error: BaseException) -> bool:
    """Whether PyTorch means that another process does not answer any more."""
    import torch.distributed as dist

    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo/transport" in str(error))


def lost(way_on: str) -> str:
    """What to say when a process has died.

    Args:
        way_on: what to do about it.
    """
    return f"a process of this run has died and the others are ended: see what it said above, then {way_on}"


def announce_losses(way_on: Callable[[], str]) -> None:
    """Has Lightning's observer say in our words that a process has died, before it kills the others.

    Args:
        way_on: gives what to do about it.
    """

    def announce(record: logging.LogRecord) -> bool:
        print(f"npexp: {lost(way_on())}", file=sys.stderr, flush=True)
        return False

    logger = logging.getLogger(OBSERVER)
    logger.setLevel(logging.INFO)
    logger.filters[:] = [announce]
