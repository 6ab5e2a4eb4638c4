"""Pictures of contexts, as bytes; those that were asked for last stay in memory."""

from __future__ import annotations

from functools import lru_cache

from respect_core.images import image_key
from respect_core.store import MissingKeyError, Store


class Images:
    """Args: `kept`: pictures in memory, some kilobytes each."""

    def __init__(self, store: Store, kept: int = 4096) -> None:
        self._store = store
        self._read = lru_cache(maxsize=kept)(self._stored)

    def png(self, name: str) -> bytes | None:
        """None where the store has no such picture. Raises StoreError."""
        try:
            return self._read(name)
        except MissingKeyError:  # not remembered, as it may come
            return None

    def _stored(self, name: str) -> bytes:
        return self._store.read(image_key(name))
