"""Seal what must not be changed on its way: a purpose and fields, with an HMAC of both under a key.

A seal hides nothing. The purpose keeps what was sealed for one use from being accepted for another.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from typing import Any

from respect_core.errors import ExpectedError


class SealError(ExpectedError, ValueError):
    """What was presented was not sealed with this key for this purpose, or its time is over."""


def sign(key: str, purpose: str, *fields: str) -> str:
    """Return the HMAC of purpose and fields, in hex."""
    message = json.dumps([purpose, *fields], ensure_ascii=False).encode()
    return hmac.new(key.encode(), message, hashlib.sha256).hexdigest()


def signed(signature: str, key: str, purpose: str, *fields: str) -> bool:
    """Return whether it is their HMAC, in constant time."""
    return hmac.compare_digest(signature.encode(errors="replace"), sign(key, purpose, *fields).encode())


def seal(key: str, purpose: str, fields: Mapping[str, Any]) -> str:
    """Return fields and signature as text that a URL may contain."""
    body = json.dumps(fields, ensure_ascii=False, sort_keys=True)
    return f"{base64.urlsafe_b64encode(body.encode()).decode().rstrip('=')}.{sign(key, purpose, body)}"


def unseal(key: str, purpose: str, text: str, now: float | None = None) -> dict[str, Any]:
    """Return the fields of a seal.

    Args:
        now: seconds since 1970, by default the clock's; a field `until` may not be earlier.

    Raises:
        SealError: it is none of this key and purpose, or is over.
    """
    encoded, _, signature = text.partition(".")
    try:
        body = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).decode()
    except (binascii.Error, ValueError):
        body = ""
    if not signed(signature, key, purpose, body):
        raise SealError("the signature is not ours: it was changed, or made under another key")
    fields: dict[str, Any] = json.loads(body)
    if fields.get("until", float("inf")) < (time.time() if now is None else now):
        raise SealError("its time is over; ask for a new one")
    return fields
