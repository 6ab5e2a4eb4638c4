"""The journal: every acknowledged event on this machine's disk, in order, so that a killed server goes on.

A line is a checksum and one JSON event. `write` returns once the line is synced; whoever waits at the same time shares
the sync (group commit), so that two hundred games cost a disk no more than a few. Each process has a file of its own,
and nothing ever changes a line: a torn last line, of an event that nobody was told is done, is passed over.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import threading
import uuid
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

log = logging.getLogger(__name__)
Event = dict[str, Any]
"""'kind' says what happened; the rest is JSON."""
_MOST = 512  # lines in one sync


class NotWritten(RuntimeError):
    """The disk does not take the line. Nothing of it is there, and what it says did not happen."""


class InUse(ValueError):
    """Another server writes this journal."""


class Journal:
    """Append-only; of one server at a time.

    Args:
        folder: of the journal's files.
        sync: makes what was written durable, for tests of disks that fail.
    """

    def __init__(self, folder: Path, sync: Callable[[int], None] = os.fsync) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._sync = folder, sync
        self._lock = (folder / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise InUse(f"{folder}: another game server writes this journal; stop it first") from None
        self._file: FileIO | None = None
        self._end = 0
        self._queue: SimpleQueue[tuple[bytes, Future[None]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    async def write(self, event: Event) -> None:
        """Raises NotWritten."""
        await asyncio.wrap_future(self.submit(event))

    def submit(self, event: Event) -> Future[None]:
        """As `write`, for callers outside of asyncio. Events are written in the order of the calls."""
        future: Future[None] = Future()
        future.set_running_or_notify_cancel()  # what is submitted is written, whoever does not wait for it any more
        self._queue.put((_line(event), future))
        return future

    def events(self) -> Iterator[Event]:
        """What earlier servers wrote, in order. A line that is damaged is passed over, and told of in the log."""
        for path in sorted(self._folder.glob("*.jsonl")):
            if self._file is not None and path == Path(str(self._file.name)):
                continue
            lines = path.read_bytes().split(b"\n")
            torn = lines.pop()
            if torn:
                log.warning(
                    "%s: its last line was cut short when the server ended; it was of nothing acknowledged", path
                )
            for number, line in enumerate(lines, 1):
                event = _read(line)
                if event is None:
                    log.error("%s, line %d: damaged on the disk; passed over", path, number)
                else:
                    yield event

    def close(self) -> None:
        """Write what was submitted, and end."""
        self._queue.put(None)
        self._thread.join()
        if self._file is not None:
            self._file.close()
        self._lock.close()

    def _run(self) -> None:
        while self._commit():
            pass

    def _commit(self) -> bool:
        taken = [self._queue.get()]
        while taken[-1] is not None and len(taken) < _MOST:
            try:
                taken.append(self._queue.get_nowait())
            except Empty:
                break
        batch = [each for each in taken if each is not None]
        if batch:
            try:
                self._append(b"".join(line for line, _ in batch))
            except OSError as error:
                log.error("the journal cannot be written: %s", error)
                for _, future in batch:
                    future.set_exception(NotWritten(f"the journal cannot be written ({os.strerror(error.errno or 0)})"))
            else:
                for _, future in batch:
                    future.set_result(None)
        return taken[-1] is not None

    def _append(self, data: bytes) -> None:
        if self._file is None:
            name = f"{datetime.now(UTC):%Y-%m-%dT%H%M%S.%f}-{uuid.uuid4().hex[:8]}.jsonl"
            self._file = (self._folder / name).open("xb", buffering=0)
            _sync_folder(self._folder)
        try:
            written = 0
            while written < len(data):
                written += self._file.write(data[written:])
            self._sync(self._file.fileno())
        except OSError:
            # Whether a failed sync left something on the disk nobody knows: a file that goes on would hold it in front
            # of what follows. What is left here is cut off, and a new file begins.
            broken, self._file = self._file, None
            with broken:
                os.ftruncate(broken.fileno(), self._end)
            self._end = 0
            raise
        self._end += len(data)


def _line(event: Event) -> bytes:
    text = json.dumps(event, separators=(",", ":"), ensure_ascii=True).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _read(line: bytes) -> Event | None:
    checksum, _, text = line.partition(b" ")
    if checksum != b"%08x" % zlib.crc32(text):
        return None
    event: Event = json.loads(text)
    return event


def _sync_folder(folder: Path) -> None:
    """A new file's name is durable once its folder is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
