"""A store's users have pseudonyms under one key."""

from __future__ import annotations

from pathlib import Path

import pytest

from respect_core.log import user_key
from respect_core.log.user_key import KeyChangedError
from respect_core.store.open import open_store


def test_another_key_is_refused_and_none_is_given_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(tmp_path)
    monkeypatch.setenv("RESPECT_USER_KEY", "a" * 32)
    user_key.require(store)  # nobody has a pseudonym yet
    user_key.claim(store)
    user_key.claim(store)
    user_key.require(store)
    assert b"aaaa" not in store.read(user_key.PLACE)
    monkeypatch.setenv("RESPECT_USER_KEY", "b" * 32)
    for asks in (user_key.require, user_key.claim):
        with pytest.raises(KeyChangedError, match="is another one than when its users"):
            asks(store)
    monkeypatch.delenv("RESPECT_USER_KEY")
    with pytest.raises(KeyChangedError, match="is not set"):
        user_key.require(store)
