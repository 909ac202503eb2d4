"""Files that are there whole or not at all, whenever the process or the machine dies, and paths in messages."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from npexp.errors import StorageError


@contextmanager
def whole_file(path: str | Path, mode: str = "w", **kwargs: Any) -> Iterator[IO]:
    """Opens a file that takes its name only once it is on the disk; what stood there stays until then.

    The content is written beside it first: renaming is one act only within a file system, and a temporary folder often
    lies on another one.

    Args:
        path: the file; its folder is made.
        mode: "w" or "wb".
        **kwargs: for `open`.

    Raises:
        StorageError: it cannot be written.
    """
    path = Path(path)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")  # several processes may fail, and say so, at once
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open(mode, **kwargs) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        except BaseException:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            raise


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Says which file it was when the system refuses to write.

    Args:
        path: what is written in the block.

    Raises:
        StorageError: for any `OSError`.
    """
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(
            f"cannot write {path} ({error.strerror or error}): make room or give the folder its rights back"
        ) from error


def shown(path: Path) -> str:
    """A path as a reader would type it."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
