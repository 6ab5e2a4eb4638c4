"""Find which interactions and conversations in a store are a user's, or are old: ids and times, from every copy."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from respect_core.log.log import LOGS
from respect_core.log.served_chats import SERVED_CHATS, interaction_id
from respect_core.log.tombstones import moment
from respect_core.store.base import Store
from respect_core.store.manifests import partitions
from respect_core.store.tables import read_table

GAMES, GAME_SETS = "games", "game_sets"
_LATEST = datetime.max.replace(tzinfo=UTC)
_UNKNOWN = datetime.fromtimestamp(0, UTC)
"""When an interaction began whose import had no time."""


@dataclass
class Span:
    """Who took part in an interaction or a conversation, and from when to when. `interactions`: what it became."""

    users: set[str] = field(default_factory=set)
    began: datetime = _LATEST
    ended: datetime = _UNKNOWN
    interactions: set[str] = field(default_factory=set)

    def add(self, users: Iterable[str], began: str, seconds: Iterable[float | None]) -> None:
        """Add what one copy says."""
        start = moment(began)
        self.users.update(users)
        self.began = min(self.began, start)
        self.ended = max(self.ended, start + timedelta(seconds=sum(each or 0.0 for each in seconds)))

    def is_of(self, user: str, before: datetime) -> bool:
        """Tell whether a user began it before a time."""
        return user in self.users and self.began < before

    def is_older(self, than: datetime) -> bool:
        """Tell whether it ended before a time. What has no time is not."""
        return self.began > _UNKNOWN and self.ended < than


def interactions(store: Store, *, curated: bool = True) -> dict[str, Span]:
    """Return all interactions by id: of the log, the tables (a log may be archived), records of games and game sets.

    Args:
        curated: also those that are in a game set alone.
    """
    spans: dict[str, Span] = defaultdict(Span)
    for prefix in (LOGS, *([GAME_SETS] if curated else [])):
        for record in _records(store, f"{prefix}/"):
            seconds = [turn.get("seconds") for turn in record["turns"]]
            spans[record["interaction_id"]].add([record["user"]], record["started_at"], seconds)
    for key in store.keys(f"{GAMES}/"):
        record = json.loads(store.read(key))
        spans[game_id(record)].add(record["users"].values(), record["started_at"], ())
    for partition in partitions(store, "outcomes"):
        where = [partition.round], [partition.variant]
        for row in read_table(store, "outcomes", *where, ["interaction_id", "started_at", "seconds"]).to_pylist():
            spans[row["interaction_id"]].add((), row["started_at"], row["seconds"])
        for row in read_table(store, "turns", *where, ["interaction_id", "user"]).to_pylist():
            spans[row["interaction_id"]].users.add(row["user"])
    return spans


def conversations(store: Store) -> dict[str, Span]:
    """Return the conversations that gateways served, by id."""
    spans: dict[str, Span] = defaultdict(Span)
    for record in _records(store, f"{SERVED_CHATS}/"):
        span = spans[record["conversation_id"]]
        span.add([record["user"]], record["time"], [record["seconds"]])
        span.interactions.add(interaction_id(f"{record['conversation_id']}/{record['id']}"))
    return spans


def game_id(record: dict[str, Any]) -> str:
    """Return the id in the log of a game that has this record in `games/`."""
    return f"{record['variant']}-r{record['round']}-{record['game']}"


def _records(store: Store, prefix: str) -> Iterator[dict[str, Any]]:
    """Yield the records in JSON lines; those that are broken are nobody's."""
    for key in store.keys(prefix):
        with closing(store.open(key)) as file:
            for line in file:
                try:
                    record = json.loads(line)
                    moment(record["started_at"] if "started_at" in record else record["time"])
                    if isinstance(record["user"], str) and _has_id(record):
                        yield record
                except (ValueError, TypeError, KeyError, RecursionError):
                    continue


def _has_id(record: dict[str, Any]) -> bool:
    if "conversation_id" in record:
        return isinstance(record["id"], str)
    return isinstance(record["interaction_id"], str) and all(isinstance(each, dict) for each in record["turns"])
