"""Going on with a run: what its checkpoints hold, and what to type.

Slow to import: PyTorch reads the checkpoints.
"""

import zipfile
from contextlib import suppress
from pathlib import Path

import torch

from npexp.errors import ConfigError, DataError
from npexp.files import shown


def checkpoint_steps(path: str | None) -> int:
    """Training steps behind a checkpoint; 0 without one.

    Raises:
        ConfigError: the file is no checkpoint.
    """
    if path is None:
        return 0
    try:
        return steps_in(path)
    except Exception as error:  # torch raises many kinds, and a file of another program holds anything
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ConfigError(f"{path} is no checkpoint of npexp fit ({reason}): {_other_checkpoint(path)}") from error


def steps_in(path: str | Path) -> int:
    """Training steps behind a checkpoint, whose checksums are compared first: PyTorch itself does not."""
    with zipfile.ZipFile(path) as archive:
        if damaged := archive.testzip():
            raise DataError(f"{damaged} is damaged")
    return int(dict(torch.load(path, weights_only=True, map_location="cpu", mmap=True))["global_step"])


def _other_checkpoint(path: str) -> str:
    """What to use in place of a damaged checkpoint: the other one of its run, where that is whole."""
    for other in sorted(Path(path).parent.glob("*.ckpt"), key=lambda file: file.stat().st_mtime, reverse=True):
        with suppress(Exception):
            if other != Path(path):
                return f"use --ckpt_path {other}, which has {steps_in(other)} steps"
    return "give another --ckpt_path"


def resumable(folder: Path) -> bool:
    """Whether the run in a folder has come as far as its first `last.ckpt`."""
    return (folder / "checkpoints/last.ckpt").is_file()


def go_on(folder: Path) -> str:
    """How to go on with the run in a folder, in words."""
    return f"go on with npexp fit --ckpt_path {shown(folder)}" if resumable(folder) else "start the run again"
