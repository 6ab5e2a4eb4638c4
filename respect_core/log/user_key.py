"""Bind a store to one key of pseudonyms: under another RESPECT_USER_KEY the same people would count as others.

Caps, seen contexts and payments go by pseudonym, so the store keeps a fingerprint of the key that made its users'
pseudonyms, and a process with another key is refused.
"""

from __future__ import annotations

import json

from respect_core.errors import ExpectedError
from respect_core.log.pseudonyms import key_fingerprint, pseudonyms_are_secret
from respect_core.store.base import MissingKeyError, Store

PLACE = "users/key.json"


class KeyChangedError(ExpectedError, ValueError):
    """RESPECT_USER_KEY is not the key that made the pseudonyms of the store's users."""

    def __init__(self, where: str) -> None:
        now = "RESPECT_USER_KEY is another one" if pseudonyms_are_secret() else "RESPECT_USER_KEY is not set"
        super().__init__(
            f"{where}: {now} than when its users got their pseudonyms, so the same people would count as others; set "
            "the key that it began with (unset it if there was none), or begin a new run with --run"
        )


def require(store: Store) -> None:
    """Check the key against the store's. Raises KeyChangedError where users have pseudonyms under another key."""
    try:
        fingerprint = json.loads(store.read(PLACE))["fingerprint"]
    except MissingKeyError:
        return
    if fingerprint != key_fingerprint():
        raise KeyChangedError(store.uri)


def claim(store: Store) -> None:
    """Record the key as the store's, unless it has one. Raises KeyChangedError where it has another one."""
    store.put_if_absent(PLACE, json.dumps({"fingerprint": key_fingerprint()}).encode())
    require(store)
