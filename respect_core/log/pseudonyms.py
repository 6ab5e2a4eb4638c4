"""Make pseudonyms of users: no user id is stored raw."""

from __future__ import annotations

import hashlib
import hmac

from respect_core.settings import settings

_PUBLIC_KEY = "respect"


def pseudonym(user: str) -> str:
    """Return a stable pseudonym for a user id: 16 hex digits of an HMAC under RESPECT_USER_KEY.

    Set the variable to a secret in production; without it pseudonyms are stable but can be recomputed by
    anyone who knows the ids.
    """
    return hmac.new(_key(), user.encode(), hashlib.sha256).hexdigest()[:16]


def key_fingerprint() -> str:
    """Return an HMAC under RESPECT_USER_KEY, which tells keys apart without giving them away."""
    return hmac.new(_key(), b"fingerprint", hashlib.sha256).hexdigest()


def chance(seed: str, name: str) -> float:
    """Return a number in [0, 1) that is the same on every machine with RESPECT_USER_KEY, and known to nobody else."""
    drawn = hmac.new(hmac.new(_key(), seed.encode(), hashlib.sha256).digest(), name.encode(), hashlib.sha256).digest()
    return int.from_bytes(drawn[:6]) / 2**48


def _key() -> bytes:
    key = settings().user_key
    return (key.get_secret_value() if key else _PUBLIC_KEY).encode()


def pseudonyms_are_secret() -> bool:
    """Tell whether RESPECT_USER_KEY is set, and not to the public default."""
    return _key() != _PUBLIC_KEY.encode()
