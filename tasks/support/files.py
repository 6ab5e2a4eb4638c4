"""Files that are written whole or not at all, and lock files for what only one process may do at a time."""

from __future__ import annotations

import fcntl
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

_LEFT_OVER_SECONDS = 24 * 3600


def write_whole(file: Path, text: str) -> None:
    """Write a text file; a reader finds the previous version or this one, never half of it."""
    unfinished = file.with_name(f"{file.name}.tmp")
    unfinished.write_text(text)
    unfinished.replace(file)


@contextmanager
def passing(folder: Path, prefix: str) -> Iterator[Path]:
    """Make a temporary folder inside `folder`, deleted afterwards; also delete those that killed processes left there.

    Args:
        prefix: prefix of its name, and of leftovers, which are deleted once they have not changed for a day.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(f"{prefix}*"):
        with suppress(FileNotFoundError):  # somebody else was first
            if time.time() - left.stat().st_mtime > _LEFT_OVER_SECONDS:
                shutil.rmtree(left, ignore_errors=True)
    with TemporaryDirectory(dir=folder, prefix=prefix) as made:
        yield Path(made)


@contextmanager
def alone(file: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold a lock file that no other process of this machine holds, waiting if necessary.

    A process that ends releases it, however it ends. A signal to the main thread ends the wait.

    Args:
        waiting: called before waiting, if it is necessary to wait.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(held, fcntl.LOCK_EX)
        yield
