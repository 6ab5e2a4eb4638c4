"""Versions of conversations: the same for all gateways on one store, until nobody has continued for long."""

from __future__ import annotations

import time

import pytest

from deployments.serving.gateway.conversations import RENEWED, Assigned, Conversations
from respect_core.log.served_chats import CONVERSATIONS
from respect_core.log.user_key import KeyChangedError
from respect_core.store.base import Store
from tasks.round.collect import FORGOTTEN, forget

ID = "0123456789abcdef"
OLD = Assigned(variant="b-fft", version="respect.b-fft/1", round=1, offered=())
NEW = Assigned(variant="b-fft", version="respect.b-fft/2", round=2, offered=())


def test_gateways_on_one_store_agree(store: Store) -> None:
    first, second = Conversations(store), Conversations(store)
    assert first.find(ID) is None
    assert first.begin(ID, OLD) == second.begin(ID, NEW) == second.find(ID) == OLD


def test_what_nobody_continues_is_forgotten_and_begins_again(store: Store) -> None:
    now = 0.0
    gateway = Conversations(store, clock=lambda: now)
    gateway.begin(ID, OLD)
    forget(store, now=time.time() + FORGOTTEN - 60)
    assert Conversations(store).find(ID) == OLD
    forget(store, now=time.time() + FORGOTTEN + 60)
    assert not store.keys(f"{CONVERSATIONS}/")
    now = FORGOTTEN
    assert gateway.find(ID) is None
    assert gateway.begin(ID, NEW) == Conversations(store).find(ID) == NEW


def test_what_continues_is_written_again_each_day(store: Store) -> None:
    now = 0.0
    gateway = Conversations(store, clock=lambda: now)
    gateway.begin(ID, OLD)
    time.sleep(1.1)  # modification times of S3 are whole seconds
    assert gateway.find(ID) == OLD
    (before,) = store.entries(f"{CONVERSATIONS}/").values()
    now = RENEWED
    assert gateway.find(ID) == OLD
    (after,) = store.entries(f"{CONVERSATIONS}/").values()
    assert after.modified > before.modified


def test_another_key_of_pseudonyms_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    Conversations(store).begin(ID, OLD)
    monkeypatch.setenv("RESPECT_USER_KEY", "another" * 4)
    with pytest.raises(KeyChangedError, match="RESPECT_USER_KEY is another one"):
        Conversations(store).find(ID)


def test_a_conversation_that_is_deleted_while_it_begins_begins(store: Store) -> None:
    Conversations(store).begin(ID, OLD)
    gateway = Conversations(store)
    looked = list[str]()
    unwatched = store.read_version

    def read_version(key: str) -> tuple[bytes, str] | None:
        looked.append(key)
        if len(looked) == 2:  # after the gateway's own version was refused
            store.delete(key)
        return None if len(looked) == 1 else unwatched(key)

    store.read_version = read_version  # type: ignore[method-assign]  # of this store alone
    assert gateway.begin(ID, NEW) == NEW
