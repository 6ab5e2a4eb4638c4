"""What is sealed for one purpose under one key opens under no other, and not once changed or late."""

from __future__ import annotations

import base64
import json

import pytest

from respect_core.signatures import SealError, seal, sign, signed, unseal

KEY = "a-key-of-many-characters"


def test_a_seal_opens_for_its_purpose_under_its_key_and_in_its_time() -> None:
    text = seal(KEY, "link", {"name": "Anné", "until": 100})
    assert unseal(KEY, "link", text, now=100) == {"name": "Anné", "until": 100}
    body, _, signature = text.partition(".")
    longer = base64.urlsafe_b64encode(json.dumps({"name": "Anné", "until": 10**9}).encode()).decode().rstrip("=")
    for key, purpose, given in (
        ("another-key-of-many-characters", "link", text),
        (KEY, "cookie", text),
        (KEY, "link", f"{longer}.{signature}"),
        (KEY, "link", body),
        (KEY, "link", ""),
        (KEY, "link", f"é.{signature}"),
        (KEY, "link", f"{body}.\ud800"),
    ):
        with pytest.raises(SealError, match="not ours"):
            unseal(key, purpose, given, now=100)
    with pytest.raises(SealError, match="over"):
        unseal(KEY, "link", text, now=100.1)


def test_fields_cannot_be_moved_into_one_another() -> None:
    signature = sign(KEY, "study", "round-1", "ann")
    assert signed(signature, KEY, "study", "round-1", "ann")
    assert not signed(signature, KEY, "study", "round-1ann", "")
    assert not signed(signature, KEY, "study", "round-1", "ann", "")
