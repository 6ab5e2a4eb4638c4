"""Record every reply that a gateway gave: a request and its answer, in the shapes of OpenAI's chat API.

A record holds what users wrote, after personal data was masked. Records of one conversation share its id; rounds
collect them into conversations once these are over.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from respect_core.log import tombstones
from respect_core.log.tombstones import Forgotten
from respect_core.store.base import MissingKeyError, Store

SERVED_CHATS = "served_chats"
CONVERSATIONS = "gateway/conversations"
"""Folder of the versions of conversations, which gateways write at least once on each day that they talk."""


class ServedChat(BaseModel):
    """One reply. `request` and `response` are those of OpenAI's chat API."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    time: str  # ISO 8601, UTC, when the request arrived
    conversation_id: str
    user: str  # pseudonym
    consent: str | None = None  # version of the text that the user had agreed to when the conversation began
    address_prefix: str | None = Field(default=None, exclude_if=lambda value: value is None)  # as in InteractionLog
    signed_in: bool | None = Field(default=None, exclude_if=lambda value: value is None)
    scenario: str
    base: str  # the model under the adapter
    variant: str
    version: str  # as 'respect.b-fft/3'
    adapter_hash: str
    round: int  # the one that learns from it
    offered: tuple[str, ...]  # versions among which chance chose; empty where the client did, or there was no choice
    background: bool  # asked by an interface behind the user's back
    cut: bool  # the client went away, or the server failed, before the end
    idle: float  # seconds without a request after which the conversation counts as over
    first_token: float | None  # seconds from the request's arrival; None where there was none
    seconds: float
    request: dict[str, Any]
    response: dict[str, Any]


def interaction_id(conversation: str) -> str:
    """Return the id in the log of a conversation with this id."""
    return f"chat-{hashlib.sha256(conversation.encode()).hexdigest()[:24]}"


def days(store: Store) -> dict[str, list[str]]:
    """Return the keys of the objects in the store by the day on which they were begun, the oldest first."""
    found: dict[str, list[str]] = {}
    for key in store.keys(f"{SERVED_CHATS}/"):
        found.setdefault(key.split("/")[1], []).append(key)
    return found


def read(store: Store, keys: Iterable[str] | None = None, forgotten: Forgotten | None = None) -> Iterator[ServedChat]:
    """Yield the records in these objects, or in all, those of the oldest object first, without what is forgotten.

    Args:
        forgotten: what is, for callers that know it.
    """
    forgotten = tombstones.read(store) if forgotten is None else forgotten
    for key in store.keys(f"{SERVED_CHATS}/") if keys is None else keys:
        try:
            opened = store.open(key)
        except MissingKeyError:  # all of it is forgotten since it was listed
            continue
        with closing(opened) as file:
            for line in file:
                chat = ServedChat.model_validate_json(line)
                if not is_forgotten(chat.conversation_id, chat.user, chat.time, forgotten):
                    yield chat


def is_forgotten(conversation: str, user: str, time: str, forgotten: Forgotten) -> bool:
    """Tell whether a reply of a conversation is forgotten."""
    return conversation in forgotten.conversations or forgotten.has_user(user, time)


def kept(store: Store, lines: bytes) -> bytes:
    """Return the lines of a gateway's log that may be stored.

    A conversation that its user began before they were forgotten stays forgotten as a whole, since every request
    repeats it: the user's tombstone gets its id.
    """
    while forgotten := tombstones.read(store):
        lost = [json.loads(line) for line in lines.splitlines() if forgotten.has_line(line)]
        new = {each["conversation_id"]: each["user"] for each in lost} if lost else {}
        unknown = new.keys() - forgotten.conversations
        for each in forgotten.tombstones:
            if names := {name for name in unknown if new[name] == each.user}:
                tombstones.put(store, each.model_copy(update={"conversations": (*each.conversations, *names)}))
        if not unknown:
            return forgotten.kept(lines)
    return lines
