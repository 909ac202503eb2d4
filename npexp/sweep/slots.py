"""What a worker may use of the machine, for one training after the other."""

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from typing import Any, NamedTuple

from npexp.errors import ConfigError
from npexp.exchange import TRIAL

# A trial is a run of its own, whatever launcher the worker itself was started by.
FOREIGN = re.compile(
    r"(LOCAL_RANK|RANK|WORLD_SIZE|LOCAL_WORLD_SIZE|NODE_RANK|GROUP_RANK|MASTER_ADDR|MASTER_PORT|PL_GLOBAL_SEED)$"
    r"|SLURM_|TORCHELASTIC_|ROLE_|GROUP_WORLD_SIZE|PMI_|OMPI_"
)


class Slot(NamedTuple):
    """What a worker's trials may use, one after the other.

    Args:
        devices: GPUs, as CUDA_VISIBLE_DEVICES names them; none where there are none.
        processes: of a trial.
        threads: of each process; None leaves that to PyTorch.
    """

    devices: Sequence[str] = ()
    processes: int = 1
    threads: int | None = None

    def environment(self) -> dict[str, str]:
        """The environment of a trial."""
        kept = {key: value for key, value in os.environ.items() if not FOREIGN.match(key)}
        kept[TRIAL] = str(os.getpid())
        if self.devices:
            kept["CUDA_VISIBLE_DEVICES"] = ",".join(self.devices)
        if self.threads is not None:
            kept["OMP_NUM_THREADS"] = str(self.threads)
        return kept

    def settings(self) -> dict[str, Any]:
        """Options of `npexp fit` that a trial needs for it."""
        return {"trainer.devices": self.processes, "trainer.strategy": "ddp"} if self.processes > 1 else {}


def share(workers: int, per_trial: int, devices: Sequence[str]) -> list[Slot]:
    """What each worker may use: disjoint devices, or some processors.

    Args:
        workers: how many.
        per_trial: processes of a trial, each with a device of its own where there are any.
        devices: the GPUs there are; none for the CPU.

    Raises:
        ConfigError: there are fewer GPUs than that takes.
    """
    needed = workers * per_trial
    if devices and needed > len(devices):
        raise ConfigError(
            f"{workers} workers with {per_trial} devices each need {needed} GPUs, and there are {len(devices)}: "
            "take fewer of them"
        )
    threads = None
    if needed > 1 and "OMP_NUM_THREADS" not in os.environ:
        ours = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        threads = max(1, ours // needed)
    groups = [list(devices[i * per_trial : (i + 1) * per_trial]) for i in range(workers)]
    return [Slot(group, per_trial, threads) for group in groups]


def gpus() -> list[str]:
    """The GPUs that may be used, as CUDA_VISIBLE_DEVICES names them; asked without PyTorch, which takes seconds."""
    if (chosen := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [word.strip() for word in chosen.split(",") if word.strip() and word.strip() != "-1"]
    if shutil.which("nvidia-smi") is None:
        return []
    words = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return []  # there is no working driver
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]
