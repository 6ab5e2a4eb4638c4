"""Record who and what is forgotten: tombstones, which are put before anything is erased and stay for good.

``forgotten/users/<pseudonym>.json`` is of a user, ``forgotten/interactions/<hash>.json`` of one interaction, and
``forgotten/age.json`` of everything that ended before a day. A tombstone has a time: what a user began before it is
forgotten, what they begin later is new. It holds ids and pseudonyms, and nothing that anybody wrote.

Writers ask it before and after they write. So whoever erases finds what was written before the tombstone was put, and a
writer notices a tombstone that was put while it wrote.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict

from respect_core.errors import ExpectedError
from respect_core.schemas import Columns
from respect_core.store.base import Entry, Store

FOLDER = "forgotten"
_PLACES = tuple(f"{FOLDER}/{name}" for name in ("age.json", "interactions/", "users/"))
_PSEUDONYM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")


class ForgettingError(ExpectedError, ValueError):
    """Something cannot be forgotten; the message says why, and repeats no user id."""


class Why(StrEnum):
    """Why something is forgotten. Versions that learned from what is only old stay fit to be deployed."""

    USER = "user"
    INTERACTION = "interaction"
    AGE = "age"


class Tombstone(BaseModel):
    """What is forgotten. Times are ISO 8601, UTC.

    `interactions` and `conversations`, which are the gateways', are those that were found so far. `erased`: the store
    holds none of it any more.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    why: Why
    user: str | None = None  # pseudonym
    name: str | None = None  # id of a single interaction or conversation
    before: str  # what began earlier is forgotten
    at: str  # when it was put
    interactions: tuple[str, ...] = ()
    conversations: tuple[str, ...] = ()
    erased: bool = False

    @property
    def key(self) -> str:
        """The key in the store. Raises ForgettingError for a user's that is no pseudonym."""
        if self.why is Why.AGE:
            return _PLACES[0]
        if self.why is Why.INTERACTION:
            return f"{_PLACES[1]}{hashlib.sha256(str(self.name).encode()).hexdigest()[:32]}.json"
        if self.user is None or not _PSEUDONYM.fullmatch(self.user):
            raise ForgettingError("not a pseudonym: give the 16 hex digits that logs have, or the user's own id")
        return f"{_PLACES[2]}{self.user}.json"


@dataclass(frozen=True)
class Forgotten:
    """What the tombstones of a store say together."""

    tombstones: tuple[Tombstone, ...] = ()
    users: Mapping[str, datetime] = field(default_factory=dict, compare=False)
    interactions: frozenset[str] = frozenset()
    conversations: frozenset[str] = frozenset()

    @classmethod
    def by(cls, tombstones: Iterable[Tombstone]) -> Forgotten:
        """Return what these tombstones say."""
        told = tuple(each.model_copy(update={"erased": False}) for each in tombstones)
        return cls(
            told,
            {each.user: moment(each.before) for each in told if each.user is not None},
            frozenset(name for each in told for name in each.interactions),
            frozenset(name for each in told for name in each.conversations),
        )

    @property
    def older(self) -> datetime | None:
        """The time before which what ended is forgotten, whosever it is."""
        return next((moment(each.before) for each in self.tombstones if each.why is Why.AGE), None)

    def __bool__(self) -> bool:
        return bool(self.tombstones)

    def has_user(self, user: str | None, began: str | None) -> bool:
        """Tell whether what this user began at a time is forgotten; without a time, it is."""
        before = self.users.get(user) if user is not None else None
        return before is not None and (began is None or moment(began) < before)

    def has(self, record: Mapping[str, Any]) -> bool:
        """Tell whether a record of any kind is forgotten: of an interaction, a served reply, a task, an answer."""
        return (
            record.get("interaction_id") in self.interactions
            or record.get("conversation_id") in self.conversations
            or self.has_user(record.get("user"), record.get("started_at") or record.get("time"))
        )

    def has_line(self, line: bytes) -> bool:
        """Tell whether a JSON line is forgotten. One that cannot be read is, if it names a forgotten user."""
        try:
            record = json.loads(line)
            if isinstance(record, dict):
                return self.has(record)
        except (ValueError, TypeError, RecursionError):
            pass
        return any(user.encode() in line for user in self.users)

    def kept(self, lines: bytes) -> bytes:
        """Return the lines that are not forgotten."""
        return b"".join(line for line in lines.splitlines(keepends=True) if not self.has_line(line)) if self else lines

    def without(self, columns: Columns) -> Columns:
        """Return the rows of interactions that are not forgotten."""
        if not self:
            return columns
        began = dict(
            zip(*(columns.outcomes[name].to_pylist() for name in ("interaction_id", "started_at")), strict=True)
        )
        users = zip(*(columns.turns[name].to_pylist() for name in ("interaction_id", "user")), strict=True)
        ids = {name for name, user in users if name in self.interactions or self.has_user(user, began.get(name))}
        return Columns(*(without(table, ids) for table in (columns.turns, columns.outcomes))) if ids else columns


def without(table: pa.Table, interaction_ids: Collection[str]) -> pa.Table:
    """Return the rows of other interactions."""
    return table.filter(pc.invert(pc.is_in(table["interaction_id"], pa.array(sorted(interaction_ids), pa.string()))))


def moment(time: str) -> datetime:
    """Read a time of a record; one without a zone is UTC."""
    read = datetime.fromisoformat(time)
    return read if read.tzinfo else read.replace(tzinfo=UTC)


def now() -> str:
    """Return the time, as tombstones have it."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


_NO_IDS: dict[str, tuple[str, ...]] = {"interactions": (), "conversations": ()}
_seen: dict[tuple[str, str, Entry], Tombstone] = {}
"""Tombstones that were read, by store, key, size and time, since writers ask for them often."""


def tombstones(store: Store) -> list[Tombstone]:
    """Return the tombstones of a store, in order of their keys."""
    found = []
    for key, entry in [each for place in _PLACES for each in store.entries(place).items()]:
        known = _seen.get((store.uri, key, entry))
        if known is None and (current := store.read_version(key)) is not None:
            known = _seen[store.uri, key, entry] = Tombstone.model_validate_json(current[0])
        if known is not None:
            found.append(known)
    return found


def read(store: Store) -> Forgotten:
    """Return what is forgotten in a store."""
    return Forgotten.by(tombstones(store))


def put(store: Store, new: Tombstone) -> Tombstone:
    """Put a tombstone, or add to the one that is there; return what the store holds then."""

    def merged(old: Tombstone | None) -> Tombstone:
        if old is None:
            return new
        later = max((old, new), key=lambda each: moment(each.before))
        return later.model_copy(
            update={
                "at": max(old.at, new.at),
                "interactions": tuple(sorted({*old.interactions, *new.interactions})),
                "conversations": tuple(sorted({*old.conversations, *new.conversations})),
                "erased": False,
            }
        )

    return _change(store, new.key, merged)


def leave_out(store: Store, key: str, known: Forgotten) -> None:
    """Take out of lines that were just stored what was forgotten since `known` was read."""
    forgotten = read(store)
    while forgotten != known and (current := store.read_version(key)) is not None:
        kept = forgotten.kept(current[0])
        if kept == current[0] or store.put_if(key, kept, current[1]):
            return


def mark_erased(store: Store, done: Tombstone) -> None:
    """Note that the store holds nothing of it, unless the tombstone has changed meanwhile."""

    def marked(old: Tombstone | None) -> Tombstone:
        if old is not None and old != done:
            return old
        return done.model_copy(update={"erased": True, **(_NO_IDS if done.why is Why.AGE else {})})

    _change(store, done.key, marked)


def _change(store: Store, key: str, change: Callable[[Tombstone | None], Tombstone]) -> Tombstone:
    while True:
        current = store.read_version(key)
        new = change(Tombstone.model_validate_json(current[0]) if current else None)
        data = new.model_dump_json(indent=1).encode()
        if (current and current[0] == data) or store.put_if(key, data, current[1] if current else None):
            return new
