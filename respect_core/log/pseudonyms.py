"""Make pseudonyms of users: no user id is stored raw."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress

from respect_core.settings import settings

_PUBLIC_KEY = "respect"


def pseudonym(user: str) -> str:
    """Return a stable pseudonym for a user id: 16 hex digits of an HMAC under RESPECT_USER_KEY.

    Set the variable to a secret in production; without it pseudonyms are stable but can be recomputed by
    anyone who knows the ids.
    """
    return hmac.new(_key(), user.encode(), hashlib.sha256).hexdigest()[:16]


def network(address: str) -> str | None:
    """Return a keyed hash of an address's network: the /24 of IPv4, the /64 of IPv6.

    None for what says nothing about a user: this machine's own address, or no address.
    """
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return None
    parsed = getattr(parsed, "ipv4_mapped", None) or parsed
    if parsed.is_loopback or parsed.is_unspecified:
        return None
    prefix = ipaddress.ip_network((parsed, 24 if parsed.version == 4 else 64), strict=False)
    return hmac.new(_key(), f"network {prefix}".encode(), hashlib.sha256).hexdigest()[:16]


def place(name: str) -> int:
    """Return the place of a name below 2**64, by a keyed hash: an order that nobody without the key can foresee."""
    return int.from_bytes(hmac.digest(_key(), b"place " + name.encode(), "sha256")[:8])


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
