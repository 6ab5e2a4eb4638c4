"""Leave out of the journal what is forgotten: what was said and done in those games; that they were played stays.

Counts of games, payments and seen contexts follow from the other events, and hold no words.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from deployments.game.domain.events import Event
from deployments.game.durability.journal import Journal, JournalInUseError
from respect_core.log.forgotten_places import BusyError, Found, Place
from respect_core.log.spans import game_id
from respect_core.log.tombstones import Forgotten, moment

log = logging.getLogger(__name__)
_MOVES = ("said", "acted")


class JournalLines(Place):
    """The journal of the game on this machine. A server that starts does the same."""

    name = "journal of the game"

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, forgotten: Forgotten) -> Iterator[Found]:
        if not any(self._folder.glob("*.jsonl")):
            return
        journal = self._open()
        try:
            if count := _moves(journal, _games(journal, forgotten)):
                yield Found(self._folder.name, count)
        finally:
            journal.close()

    def erase(self, found: Found, forgotten: Forgotten) -> str | None:  # noqa: ARG002  # of a place
        journal = self._open()
        try:
            leave_out(journal, forgotten)
        finally:
            journal.close()
        return None

    def _open(self) -> Journal:
        try:
            return Journal(self._folder)
        except JournalInUseError:
            raise BusyError(
                "a game server is running and writes its journal: restart it, which leaves out what is forgotten, or "
                "stop it and forget again"
            ) from None


def leave_out(journal: Journal, forgotten: Forgotten) -> None:
    """Leave out what is forgotten, before anything is written. Raises OSError."""
    games = _games(journal, forgotten)
    if not _moves(journal, games):
        return
    over = {
        kind: {event["game"] for event in journal.events() if event["kind"] == kind} for kind in ("ended", "stored")
    }
    events = [event for event in journal.events() if not (event["kind"] in _MOVES and event["game"] in games)]
    for game in sorted(games):  # it is over, and nothing of it is to be stored
        if game not in over["ended"]:
            events.append({"kind": "ended", "game": game, "reason": "stopped", "by": None})
        if game not in over["stored"]:
            events.append({"kind": "stored", "game": game})
    journal.rewrite(events)
    log.info("left %d forgotten games out of the journal", len(games))


def _moves(journal: Journal, games: set[str]) -> int:
    return sum(event["kind"] in _MOVES and event["game"] in games for event in journal.events())


def _games(journal: Journal, forgotten: Forgotten) -> set[str]:
    """Return the games of which nothing may be kept: a user's, or old ones that are stored."""
    users: dict[str, str] = {}
    began: dict[str, Event] = {}
    stored = set[str]()
    for event in journal.events():
        if event["kind"] == "player":
            users[event["player"]] = event["user"]
        elif event["kind"] == "began":
            began[event["game"]] = event
        elif event["kind"] == "stored":
            stored.add(event["game"])

    def is_forgotten(event: Event) -> bool:
        start = event["started_at"]
        record = {"variant": event["policy"], "round": event["round"], "game": event["game"]}
        return (
            game_id(record) in forgotten.interactions
            or any(forgotten.has_user(users.get(player), start) for player in event["seats"].values())
            or (forgotten.older is not None and event["game"] in stored and moment(start) < forgotten.older)
        )

    return {game for game, event in began.items() if is_forgotten(event)}
