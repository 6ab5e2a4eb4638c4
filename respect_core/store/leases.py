"""Hold leases in a store: one process at a time, on any machine that shares the store.

A lease is the object ``leases/<name>.json``. The holder renews it at intervals; a waiting process takes it over once it
has not changed for the length of the lease, by the waiting process's own clock, so that no two clocks are compared. A
holder that was killed on this machine is recognised as dead, and loses the lease at once. A holder that slept past its
lease does not know that it lost it: leases save duplicate work, and `Store.put_if` protects the data.
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
"""How long a lease lasts if its holder does not renew it."""
_POLLS = (0.05, 0.1, 0.2, 0.5, 1.0)  # seconds between polls of a lease that another process holds; the last repeats
_FREE = b"{}\n"


@contextmanager
def lease(
    store: Store,
    name: str,
    waiting: Callable[[], None] = lambda: None,
    seconds: float = SECONDS,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[bool]:
    """Acquire the lease of this name in the store, hold it, and yield whether there was a wait.

    Args:
        waiting: called before the wait, if there is one.
        seconds: how long the lease lasts if its holder does not renew it.
        sleep: waits between two looks; what it raises ends the wait.

    Raises:
        StoreError: the store cannot be read or written.
    """
    own = _Lease(store, f"leases/{name}.json", seconds)
    waited = own.acquire(waiting, sleep)
    ended = threading.Event()
    renewal = threading.Thread(target=own.renew, args=(ended,), name=f"lease {name}", daemon=True)
    renewal.start()
    try:
        yield waited
    finally:
        ended.set()
        renewal.join()
        with suppress(StoreError):  # then it lapses; the work done under it stays
            own.release()


class _Lease:
    def __init__(self, store: Store, key: str, seconds: float) -> None:
        self._store, self._key, self._seconds = store, key, seconds
        self._holder, self._beat = uuid.uuid4().hex, 0
        self._version: str | None = None

    def write(self, data: bytes) -> bool:
        """Replace the lease and return True, unless it has changed since it was last read."""
        version = self._store.put_if(self._key, data, self._version)
        self._version = version or self._version
        return version is not None

    def release(self) -> None:
        """Release the lease, if it is still held. It is deleted where there is no room to write that it is free."""
        try:
            self.write(_FREE)
        except StoreError:
            if (current := self._store.read_version(self._key)) and current[1] == self._version:
                self._store.delete(self._key)

    def acquire(self, waiting: Callable[[], None], sleep: Callable[[float], None]) -> bool:
        """Become the holder; return whether that took a wait for another one."""
        waited, told, polls = False, False, iter(_POLLS)
        since, seen = time.monotonic(), b""
        while True:
            data, self._version = self._store.read_version(self._key) or (_FREE, None)
            if data != seen:
                since, seen = time.monotonic(), data
            holder = _read(data)
            if holder.get("holder") == self._holder:
                return waited  # the write succeeded, but its answer was lost
            lapsed = time.monotonic() - since >= holder.get("seconds", 0)
            if (lapsed or _is_dead(holder)) and self.write(self._record()):
                return waited
            if holder and not told:
                waiting()
                told = True
            waited = True
            sleep(next(polls, _POLLS[-1]))

    def renew(self, ended: threading.Event) -> None:
        """Renew the lease at intervals, until the end or another process holds it."""
        while not ended.wait(self._seconds / 4):
            with suppress(StoreError):  # briefly unreachable; if for longer, another process may take over
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
    """Tell whether the holder was a process of this machine that no longer runs."""
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
    """Identify this boot of this machine, and the namespace in which its process ids count."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)
