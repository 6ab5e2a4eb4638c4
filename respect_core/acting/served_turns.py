"""Record every served turn, with version and hash of the policy as evidence, and without any text of a user.

A line is on this machine's disk before the turn is answered (it survives the process, not a power cut), and soon after
in the store: ``served/2026-11-24/<name>.jsonl``, immutable objects of JSON lines.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import uuid
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from respect_core.store.base import Store

SERVED = "served"


class ServedTurn(BaseModel):
    """One answer. With seed and temperature the draw can be repeated from the interaction log."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    time: str  # ISO 8601, UTC
    game: str
    turn: int  # from 0
    variant: str
    version: str  # as 'respect.b-fft/3'
    adapter_hash: str
    action: str
    legal: bool
    probability: float
    seed: int
    temperature: float
    latency_ms: float


class TurnLog:
    """An append-only log of served turns. Several servers may share store and folder.

    Args:
        folder: for lines that are not in the store yet, including those of a killed server.
    """

    def __init__(self, store: Store, folder: Path) -> None:
        self._store, self._folder = store, folder
        self._lock, self._flushing = threading.Lock(), threading.Lock()
        self._file: FileIO | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, turn: ServedTurn) -> None:
        """Append a turn. Raises OSError if the line cannot be written to disk; the log is then unchanged."""
        line = turn.model_dump_json().encode() + b"\n"
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
        """Move every finished file, and the turns added so far, to the store.

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
        except FileNotFoundError:  # another server moved it first
            return
        with closing(file):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            data = file.read()
            lines = data[: data.rfind(b"\n") + 1]  # a killed server may have left half a line, of an unanswered turn
            if lines:
                self._store.put_if_absent(f"{SERVED}/{path.name[:10]}/{path.name}", lines)
            path.unlink(missing_ok=True)


def read(store: Store, day: str = "") -> Iterator[ServedTurn]:
    """Yield every turn in the store, or in a day such as '2026-11-24', by the start time of its object."""
    for key in store.keys(f"{SERVED}/{day}"):
        with closing(store.open(key)) as file:
            for line in file:
                yield ServedTurn.model_validate_json(line)
