"""Keep a journal of every acknowledged event on this machine's disk, in order, so that a killed server resumes.

A line is a checksum and one JSON event. `write` returns once the line is synced; writers that wait at the same time
share the sync (group commit), so that two hundred games cost a disk no more than a few. Each process has a file of its
own, numbered by order of start regardless of the clock, and lines never change: a torn last line, whose event was never
acknowledged, is skipped. A refused line is cut off before anything else is written. `rewrite` replaces all earlier
files by one, whose first line says so.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from io import FileIO
from pathlib import Path
from queue import Empty, SimpleQueue

from deployments.game.domain.events import Event
from respect_core.errors import ExpectedError

log = logging.getLogger(__name__)
_MOST = 512  # lines in one sync
_REPLACES = "replaces"  # kind of the first line of a file that stands for those before it
_TELL = 60.0  # seconds between two lines of the log about a disk that fails


class NotWrittenError(ExpectedError):
    """The disk did not take the line. Nothing of it was kept, and its event did not happen."""


class JournalInUseError(ExpectedError, ValueError):
    """Another server writes this journal."""


class Journal:
    """Append-only; of one server at a time.

    Args:
        folder: of the journal's files.
        sync: makes what was written durable, for tests of disks that fail.
        pause: seconds after a failure in which events are refused without asking the disk again.
    """

    def __init__(self, folder: Path, sync: Callable[[int], None] = os.fsync, pause: float = 0.5) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._sync, self._pause = folder, sync, pause
        self._lock = (folder / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise JournalInUseError(f"{folder}: another game server writes this journal; stop it first") from None
        self._file: FileIO | None = None
        self._end = 0  # of what was acknowledged in the file
        self._uncut = False  # whether refused bytes may stand after the last acknowledged line
        self._failed: tuple[float, str] | None = None  # when and why the disk failed last
        self._told = -_TELL
        self.damaged = 0  # lines that `events` has passed over
        for path in self._files():
            if not path.stat().st_size:  # of a disk that was full
                path.unlink()
        self._drop_replaced()
        self._queue: SimpleQueue[tuple[bytes, Future[None]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    async def write(self, event: Event) -> None:
        """Write an event, and wait until it is durable. Raises NotWrittenError."""
        await asyncio.wrap_future(self.submit(event))

    def submit(self, event: Event) -> Future[None]:
        """Do what `write` does, for callers outside asyncio. Events are written in the order of the calls."""
        future: Future[None] = Future()
        future.set_running_or_notify_cancel()  # a submitted event is written even if nobody waits for it any more
        self._queue.put((_line(event), future))
        return future

    @property
    def alive(self) -> bool:
        """Whether the writer is running, even if a disk refuses the events."""
        return self._thread.is_alive()

    def events(self) -> Iterator[Event]:
        """Yield what earlier servers wrote, in order. A damaged line is skipped and logged."""
        for path in self._files():
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
                    self.damaged += 1
                    log.error("%s, line %d: damaged on the disk; passed over", path, number)
                elif event["kind"] != _REPLACES:
                    yield event

    def size(self) -> int:
        """Bytes of earlier servers' files since the last `rewrite`."""
        return sum(path.stat().st_size for path in self._files() if _replaced_by(path) is None)

    def rewrite(self, events: Iterable[Event]) -> None:
        """Put these events in the place of all files, before anything is written. Raises OSError.

        The old files are left where that fails. Killed in the midst of it, the next server finds them or the new one.
        """
        assert self._file is None, "something was written already"
        number = max(map(_number, self._files()), default=0) + 1
        scratch = self._folder / "rewriting"
        try:
            with scratch.open("wb") as file:
                file.write(_line({"kind": _REPLACES, "through": number - 1}))
                file.writelines(map(_line, events))
                file.flush()
                self._sync(file.fileno())
            scratch.rename(self._folder / f"{number:08}.jsonl")
            _sync_folder(self._folder)
        finally:
            scratch.unlink(missing_ok=True)
        self._drop_replaced()

    def close(self) -> None:
        """Write what was submitted, and end."""
        self._queue.put(None)
        self._thread.join()
        if self._file is not None:
            if self._uncut:
                with suppress(OSError):
                    self._cut(self._file)
            self._file.close()
            if not self._end:
                Path(str(self._file.name)).unlink()
        self._lock.close()

    def _drop_replaced(self) -> None:
        """Delete what a `rewrite` has put another file in the place of."""
        through = max((number for path in self._files() if (number := _replaced_by(path)) is not None), default=-1)
        for path in self._files():
            if _number(path) <= through:
                path.unlink()

    def _files(self) -> list[Path]:
        """In the order of the starts: those with a name of earlier releases, which was the time, come first."""
        return sorted(self._folder.glob("*.jsonl"), key=lambda path: (_number(path), path.name))

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
            except Exception as error:  # whatever it is, nobody must wait forever
                refusal = self._refusal(error)
                for _, future in batch:
                    future.set_exception(NotWrittenError(f"the journal cannot be written ({refusal})"))
            else:
                for _, future in batch:
                    future.set_result(None)
        return taken[-1] is not None

    def _append(self, data: bytes) -> None:
        if self._failed is not None and time.monotonic() - self._failed[0] < self._pause:
            raise _Paused
        if self._file is None:
            number = max(map(_number, self._files()), default=0) + 1
            self._file = _new_file(self._folder / f"{number:08}.jsonl")
        if self._uncut:
            self._cut(self._file)
        try:
            written = 0
            while written < len(data):
                written += self._file.write(data[written:])
            self._sync(self._file.fileno())
        except BaseException:
            # Whether a failed sync left something on the disk nobody knows. It must not come back at the next start,
            # where what is acknowledged from here on would not follow from it.
            self._uncut = True
            with suppress(Exception):  # tried again before the next line
                self._cut(self._file)
            raise
        self._end += len(data)
        if self._failed is not None:
            self._failed = None
            log.info("the journal is written again")

    def _cut(self, file: FileIO) -> None:
        os.ftruncate(file.fileno(), self._end)
        os.lseek(file.fileno(), self._end, os.SEEK_SET)
        self._sync(file.fileno())
        self._uncut = False

    def _refusal(self, error: Exception) -> str:
        """Return the message for those who wait; it is logged once a minute."""
        if not isinstance(error, _Paused):
            now = time.monotonic()
            reason = os.strerror(error.errno or 0) if isinstance(error, OSError) else type(error).__name__
            self._failed = now, reason
            if now - self._told >= _TELL:
                self._told = now
                log.error("the journal cannot be written: %s; what players do is refused until it can", reason)
        assert self._failed is not None
        return self._failed[1]


class _Paused(Exception):
    """The disk has failed a moment ago."""


def _number(path: Path) -> int:
    return int(path.stem) if path.stem.isdigit() else 0


def _line(event: Event) -> bytes:
    text = json.dumps(event, separators=(",", ":"), ensure_ascii=True).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _read(line: bytes) -> Event | None:
    checksum, _, text = line.partition(b" ")
    if checksum != b"%08x" % zlib.crc32(text):
        return None
    event: Event = json.loads(text)
    return event


def _replaced_by(path: Path) -> int | None:
    """Return the number of the last file in whose place this one is; None for a file of one server."""
    with path.open("rb") as file:
        event = _read(file.readline().removesuffix(b"\n"))
    return int(event["through"]) if event is not None and event["kind"] == _REPLACES else None


def _new_file(path: Path) -> FileIO:
    """Empty, its name durable; nothing of it stays where that fails."""
    file = path.open("xb", buffering=0)
    try:
        _sync_folder(path.parent)
    except OSError:
        file.close()
        path.unlink()
        raise
    return file


def _sync_folder(folder: Path) -> None:
    """Sync a folder: a new file's name is durable once its folder is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
