"""Seal what must not be changed on its way: a purpose and fields, with an HMAC of both under a key.

A seal hides nothing. The purpose keeps what was sealed for one use from being accepted for another.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from typing import Any

from itsdangerous import BadData, Signer, URLSafeSerializer

from respect_core.errors import ExpectedError

_HMAC: dict[str, Any] = {"key_derivation": "hmac", "digest_method": hashlib.sha256}


class SealError(ExpectedError, ValueError):
    """What was presented was not sealed with this key for this purpose, or its time is over."""


def sign(key: str, purpose: str, *fields: str) -> str:
    """Return the signature of fields for a purpose, as text that a URL may contain."""
    return Signer(key, salt=purpose, **_HMAC).get_signature(json.dumps(fields)).decode()


def signed(signature: str, key: str, purpose: str, *fields: str) -> bool:
    """Return whether it is their signature, in constant time."""
    return Signer(key, salt=purpose, **_HMAC).verify_signature(json.dumps(fields), signature.encode(errors="replace"))


def seal(key: str, purpose: str, fields: Mapping[str, Any]) -> str:
    """Return fields and signature as text that a URL may contain."""
    return str(_serializer(key, purpose).dumps(fields))


def unseal(key: str, purpose: str, text: str, now: float | None = None) -> dict[str, Any]:
    """Return the fields of a seal.

    Args:
        now: seconds since 1970, by default the clock's; a field `until` may not be earlier.

    Raises:
        SealError: it is none of this key and purpose, or is over.
    """
    try:
        fields: dict[str, Any] = _serializer(key, purpose).loads(text)
    except (BadData, UnicodeError):
        raise SealError("the signature is not ours: it was changed, or made under another key") from None
    if fields.get("until", float("inf")) < (time.time() if now is None else now):
        raise SealError("its time is over; ask for a new one")
    return fields


def _serializer(key: str, purpose: str) -> URLSafeSerializer:
    return URLSafeSerializer(key, salt=purpose, signer_kwargs=_HMAC)
