"""One key of pseudonyms for a store: under another RESPECT_USER_KEY the same people would be others.

Caps, seen contexts and payments go by pseudonym, so the store remembers a fingerprint of the key under which ids of its
users became pseudonyms, and whoever comes with another key is refused.
"""

from __future__ import annotations

import json

from respect_core.errors import ExpectedError
from respect_core.log.pseudonyms import key_fingerprint, pseudonyms_are_secret
from respect_core.store.base import MissingKeyError, Store

PLACE = "users/key.json"


class KeyChangedError(ExpectedError, ValueError):
    """RESPECT_USER_KEY is another than the one under which users became pseudonyms."""

    def __init__(self, where: str) -> None:
        now = "RESPECT_USER_KEY is another one" if pseudonyms_are_secret() else "RESPECT_USER_KEY is not set"
        super().__init__(
            f"{where}: {now} than when its users got their pseudonyms, so the same people would count as others; set "
            "the key that it began with (unset it if there was none), or begin a new run with --run"
        )


def require(store: Store) -> None:
    """Raises KeyChangedError where the store's users have pseudonyms under another key."""
    try:
        known = json.loads(store.read(PLACE))["fingerprint"]
    except MissingKeyError:
        return
    if known != key_fingerprint():
        raise KeyChangedError(store.uri)


def claim(store: Store) -> None:
    """Remember the key as the store's from here on. Raises KeyChangedError where it has another one."""
    store.put_if_absent(PLACE, json.dumps({"fingerprint": key_fingerprint()}).encode())
    require(store)
