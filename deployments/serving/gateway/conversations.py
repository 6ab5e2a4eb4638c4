"""Tell conversations apart, and keep the version of each in the store, so that all gateways agree on it.

A conversation is named by its client, or known again by how it began: its first messages up to the assistant's first
one. System prompts, which may hold the time, white space and ids of tool calls do not count.

Rounds delete versions of conversations that nobody has continued for a while (`tasks.round.collect`). One that is
continued later is a new conversation, with its old text as context. Should that happen at the moment of the deletion,
gateways may give it two versions; rounds collect what each of them wrote.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from threading import Lock

from pydantic import BaseModel, ConfigDict

from respect_core.log import user_key
from respect_core.log.served_chats import CONVERSATIONS
from respect_core.scenarios.chat.importers.conversation import Message, said
from respect_core.store.base import Store

RENEWED = 24 * 3600.0
"""Seconds after which a conversation that continues is written again, which shows that it is not idle."""


class Assigned(BaseModel):
    """The version that talks in a conversation, and the round that will learn from it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    variant: str
    version: str
    round: int
    offered: tuple[str, ...]  # versions among which chance chose; empty where the client did, or there was no choice
    consent: str | None = None  # version of the text that the user had agreed to when it began


def named(user: str, model: str, name: str) -> str:
    """Return the id of a conversation that its client named; users cannot enter each other's."""
    return _hash(["named", user, model, name])


def begun(user: str, model: str, messages: Sequence[Message]) -> str | None:
    """Return the id of a conversation with these messages; None before the assistant's first."""
    spoken = [message for message in messages if message.role != "system"]
    first = next((n for n, message in enumerate(spoken) if message.role == "assistant"), None)
    if first is None:
        return None
    return _hash(["begun", user, model, *map(said, spoken[: first + 1])])


def _hash(parts: Sequence[object]) -> str:
    return hashlib.sha256(json.dumps(parts).encode("utf-8", "surrogatepass")).hexdigest()[:32]


class Conversations:
    """The versions of conversations. Methods may be called by several threads.

    Args:
        most: conversations remembered in this process; the store has them all.
        clock: seconds, for tests.
    """

    def __init__(self, store: Store, most: int = 100_000, clock: Callable[[], float] = time.monotonic) -> None:
        self._store, self._most, self._clock = store, most, clock
        self._lock = Lock()
        self._known: OrderedDict[str, tuple[Assigned, float]] = OrderedDict()  # and when it was written
        self._key_claimed = False

    def find(self, conversation: str) -> Assigned | None:
        """Return a conversation's version; None for a new one.

        Raises:
            StoreError: the store does not answer.
            KeyChangedError: RESPECT_USER_KEY is not the store's. Where the store has none, this one becomes its.
        """
        with self._lock:
            known = self._known.get(conversation)
        if known is not None and self._clock() - known[1] < RENEWED:
            return known[0]
        if not self._key_claimed:
            user_key.claim(self._store)
            self._key_claimed = True
        stored = self._store.read_version(_key(conversation))
        if stored is None:
            return None
        self._store.put_if(_key(conversation), *stored)  # where this fails, another gateway has just done it
        return self._remember(conversation, Assigned.model_validate_json(stored[0]))

    def begin(self, conversation: str, new: Assigned) -> Assigned:
        """Store the version of a conversation; return it, or what another gateway stored before. Raises StoreError."""
        while True:
            if (known := self.find(conversation)) is not None:
                return known
            if self._store.put_if_absent(_key(conversation), new.model_dump_json().encode()):
                return self._remember(conversation, new)

    def put(self, conversation: str, new: Assigned) -> None:
        """Store the version of a conversation that begins as another did before. Raises StoreError."""
        if self.begin(conversation, new) != new:
            self._store.put(_key(conversation), new.model_dump_json().encode())
            self._remember(conversation, new)

    def _remember(self, conversation: str, assigned: Assigned) -> Assigned:
        with self._lock:
            self._known[conversation] = assigned, self._clock()
            self._known.move_to_end(conversation)
            while len(self._known) > self._most:
                self._known.popitem(last=False)
        return assigned


def _key(conversation: str) -> str:
    return f"{CONVERSATIONS}/{conversation[:2]}/{conversation}.json"
