"""Leases in a store: one process at a time, on whatever machine, as long as the store is one.

A lease is the object ``leases/<name>.json``. Who holds it writes it anew at intervals; who waits takes it over when it
has not changed for as long as it stands, by the waiting process's own clock, so that no two clocks are compared. A
holder that was killed on this machine is seen to be dead, and not waited for. A holder that slept beyond its time does
not know that it lost the lease: leases save work that would be done twice, and `Store.put_if` protects the data.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from respect_core.store.base import Store, StoreError

SECONDS = 60.0
"""How long a lease stands without a sign of its holder."""
_POLLS = (0.05, 0.1, 0.2, 0.5, 1.0)  # seconds between looks at a lease that another holds; the last again and again
_FREE = b"{}\n"


@contextmanager
def lease(
    store: Store, name: str, waiting: Callable[[], None] = lambda: None, seconds: float = SECONDS
) -> Iterator[bool]:
    """Wait until nobody else holds the lease of this name in the store, and hold it; tells whether there was a wait.

    Args:
        waiting: called before the wait, if there is one.
        seconds: how long the lease stands without a sign of its holder.

    Raises:
        StoreError: the store cannot be read or written.
    """
    held = _Lease(store, f"leases/{name}.json", seconds)
    waited = held.take(waiting)
    ended = threading.Event()
    beats = threading.Thread(target=held.keep, args=(ended,), name=f"lease {name}", daemon=True)
    beats.start()
    try:
        yield waited
    finally:
        ended.set()
        beats.join()
        with suppress(StoreError):  # then it lapses; what was done under it stands
            held.end()


class _Lease:
    def __init__(self, store: Store, key: str, seconds: float) -> None:
        self._store, self._key, self._seconds = store, key, seconds
        self._holder, self._beat = uuid.uuid4().hex, 0
        self._version: str | None = None

    def write(self, data: bytes) -> bool:
        """Whether the lease was still as last seen, and is this now."""
        written = self._store.put_if(self._key, data, self._version)
        self._version = written or self._version
        return written is not None

    def end(self) -> None:
        """Let the lease go, if it is still held. It is deleted where there is no room to write that it is free."""
        try:
            self.write(_FREE)
        except StoreError:
            if (held := self._store.read_version(self._key)) and held[1] == self._version:
                self._store.delete(self._key)

    def take(self, waiting: Callable[[], None]) -> bool:
        """Return once this is the holder: whether there was another."""
        waited, polls = False, iter(_POLLS)
        since, seen = time.monotonic(), b""
        while True:
            data, self._version = self._store.read_version(self._key) or (_FREE, None)
            if data != seen:
                since, seen = time.monotonic(), data
            holder = _read(data)
            if holder.get("holder") == self._holder:
                return waited  # it was written, and the answer was lost on the way
            lapsed = time.monotonic() - since >= holder.get("seconds", 0)
            if (lapsed or _is_dead(holder)) and self.write(self._record()):
                return waited
            if holder and not waited:
                waiting()
            waited = True
            time.sleep(next(polls, _POLLS[-1]))

    def keep(self, ended: threading.Event) -> None:
        """Give a sign at intervals, until the end or another holder."""
        while not ended.wait(self._seconds / 4):
            with suppress(StoreError):  # away for a moment; if for longer, another may take over
                if not self.write(self._record()):
                    return

    def _record(self) -> bytes:
        self._beat += 1
        record = {"holder": self._holder, "beat": self._beat, "seconds": self._seconds, "place": _place()}
        return json.dumps(record | {"process": os.getpid()}).encode() + b"\n"


def _read(data: bytes) -> dict[str, Any]:
    try:
        record = json.loads(data)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def _is_dead(holder: dict[str, Any]) -> bool:
    """Whether the holder was a process of this machine, and is no more."""
    if holder.get("place") != _place():
        return False
    try:
        os.kill(holder["process"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


@cache
def _place() -> str:
    """The machine since it was started, and on it the space in which process numbers mean something."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)
