"""Processes of one run end together, and one of them says why."""

import ctypes
import logging
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # of Linux, <sys/prctl.h>
OBSERVER = "lightning.fabric.strategies.launchers.subprocess_script"  # ends a run whose process has died
GO_ON = "see what it said above, and go on with --ckpt_path last"


def is_launched() -> bool:
    """Whether this is a further process of a run on several devices."""
    return int(os.environ.get("LOCAL_RANK", "0")) > 0


def end_with_parent() -> None:
    """Has the system kill this process when the one that started it ends, on Linux; elsewhere it lives on."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def lost_contact(error: BaseException) -> bool:
    """Whether PyTorch means that another process does not answer any more."""
    import torch.distributed as dist

    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo/transport" in str(error))


def announce_losses() -> None:
    """Has Lightning's observer say in our words that a process has died, before it kills the others."""
    logger = logging.getLogger(OBSERVER)
    logger.setLevel(logging.INFO)
    logger.addFilter(_announce)


def _announce(record: logging.LogRecord) -> bool:
    print(f"npexp: a process of this run has died and the others are ended: {GO_ON}", file=sys.stderr, flush=True)
    return False
