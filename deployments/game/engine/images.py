"""Read pictures of contexts as bytes, and keep those requested last in memory."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from respect_core.store.base import MissingKeyError, Store
from respect_core.store.images import image_key


class Images:
    """Pictures, which are read in threads of their own, so that a slow store holds up no game.

    Args:
        most: pictures in memory, some kilobytes each.
        absent: seconds after which a picture that the store lacked is looked for again.
        threads: how many may wait for the store.
    """

    def __init__(self, store: Store, *, most: int = 4096, absent: float = 5.0, threads: int = 4) -> None:
        self._store, self._most, self._absent = store, most, absent
        self._shown: set[str] = set()
        self._known: OrderedDict[str, bytes] = OrderedDict()
        self._missed: dict[str, float] = {}  # when
        self._reading: dict[str, asyncio.Future[bytes]] = {}
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="pictures")

    def show(self, names: Iterable[str]) -> None:
        """Allow the pictures of a context that somebody sees; no others are read."""
        self._shown.update(names)

    async def png(self, name: str) -> bytes | None:
        """Return a picture; None if nobody sees it, or the store lacks it. Raises StoreError."""
        if name not in self._shown or time.monotonic() - self._missed.get(name, -self._absent) < self._absent:
            return None
        if name in self._known:
            self._known.move_to_end(name)
            return self._known[name]
        try:
            found = await asyncio.shield(self._read(name))
        except MissingKeyError:  # it may come
            self._missed[name] = time.monotonic()
            return None
        self._missed.pop(name, None)
        self._known[name] = found
        if len(self._known) > self._most:
            self._known.popitem(last=False)
        return found

    def close(self) -> None:
        """Stop reading, without waiting for a store that does not answer."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _read(self, name: str) -> asyncio.Future[bytes]:
        """Read a picture once for all who ask at the same time."""
        reading = self._reading.get(name)
        if reading is None:
            loop = asyncio.get_running_loop()
            reading = self._reading[name] = loop.run_in_executor(self._pool, self._store.read, image_key(name))
            reading.add_done_callback(lambda _: self._reading.pop(name, None))
        return reading
