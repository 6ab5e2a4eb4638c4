"""Keep lines on this machine's disk at once, and move them to the store soon after.

A line survives the process (not a power cut), and is soon in the store, in immutable objects of JSON lines such as
``served/2026-11-24/<name>.jsonl``.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import uuid
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path

from pydantic import BaseModel

from respect_core.store.base import Store


class LineLog:
    """An append-only log. Several processes may share store and folder.

    Args:
        folder: for lines that are not in the store yet, including those of a killed process.
        prefix: of the objects in the store.
        kept: returns those of the lines that may be stored. It is asked before and after they are, and may have
            changed its mind.
    """

    def __init__(
        self, store: Store, folder: Path, prefix: str, kept: Callable[[bytes], bytes] = lambda lines: lines
    ) -> None:
        self._store, self._folder, self._prefix, self._kept = store, folder, prefix, kept
        self._lock, self._flushing = threading.Lock(), threading.Lock()
        self._file: FileIO | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, record: BaseModel) -> None:
        """Append a record. Raises OSError if the line cannot be written to disk; the log is then unchanged."""
        line = record.model_dump_json().encode() + b"\n"
        with self._lock:
            if self._file is None:
                self._file = self._new_file()
            end = self._file.tell()
            try:
                if self._file.write(line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._file.name)
            except OSError:
                self._file.truncate(end)
                self._file.seek(end)
                raise

    def flush(self) -> None:
        """Move every finished file, and the lines added so far, to the store.

        Raises:
            StoreError: the store is unreachable; the lines wait for the next call.
        """
        with self._flushing:
            with self._lock:
                if self._file is not None:
                    self._file.close()
                    self._file = None
            for path in sorted(self._folder.glob("*.jsonl")):
                self._put(path)

    def _new_file(self) -> FileIO:
        while True:
            path = self._folder / f"{datetime.now(UTC):%Y-%m-%dT%H%M%S.%f}-{uuid.uuid4().hex[:12]}.jsonl"
            file = path.open("xb", buffering=0)
            fcntl.flock(file, fcntl.LOCK_EX)  # held while it is open, so that no flush takes it
            if os.fstat(file.fileno()).st_nlink:  # else a flush took it for a finished file before it was locked
                return file
            file.close()

    def _put(self, path: Path) -> None:
        try:
            file = path.open("rb")
        except FileNotFoundError:  # another process moved it first
            return
        with closing(file):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            data = file.read()
            # A killed process may have left half a line, of nothing acknowledged.
            lines = self._kept(data[: data.rfind(b"\n") + 1])
            key = f"{self._prefix}/{path.name[:10]}/{path.name}"
            if lines:
                self._store.put_if_absent(key, lines)
                if (kept := self._kept(lines)) != lines:
                    self._store.put(key, kept) if kept else self._store.delete(key)
            path.unlink(missing_ok=True)
