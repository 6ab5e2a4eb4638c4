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
        self._allowed: set[str] = set()
        self._cache: OrderedDict[str, bytes] = OrderedDict()
        self._missing_since: dict[str, float] = {}
        self._reading: dict[str, asyncio.Future[bytes]] = {}
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="pictures")

    def show(self, names: Iterable[str]) -> None:
        """Allow the pictures of a context that somebody sees; no others are read."""
        self._allowed.update(names)

    async def png(self, name: str) -> bytes | None:
        """Return a picture; None if nobody sees it, or the store lacks it. Raises StoreError."""
        if name not in self._allowed or time.monotonic() - self._missing_since.get(name, -self._absent) < self._absent:
            return None
        if name in self._cache:
            self._cache.move_to_end(name)
            return self._cache[name]
        try:
            picture = await asyncio.shield(self._read(name))
        except MissingKeyError:  # it may come
            self._missing_since[name] = time.monotonic()
            return None
        self._missing_since.pop(name, None)
        self._cache[name] = picture
        if len(self._cache) > self._most:
            self._cache.popitem(last=False)
        return picture

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
