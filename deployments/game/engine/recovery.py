"""After a restart, replay the journal's events to restore the players, the study and the tables."""

from __future__ import annotations

import logging

from deployments.game.domain.assignment import Slot
from deployments.game.domain.events import Event
from deployments.game.durability.forgotten import leave_out
from deployments.game.durability.journal import Journal
from deployments.game.engine.rooms import Rooms
from respect_core.log import tombstones
from respect_core.scenarios.multiref.actions import ActionError
from respect_core.scenarios.multiref.game import RuleError
from respect_core.store.base import StoreError

log = logging.getLogger(__name__)
LARGE = 16 << 20
"""Bytes of journal, since the last time, at which it is made smaller."""
_PLAYERS = {"player", "consented", "quiz_passed", "practised"}


def recover(rooms: Rooms) -> None:
    """Restore the rooms before they start. Games that are over go to the archiver, unless they are stored already.

    Raises:
        KeyChangedError: ids became pseudonyms under another RESPECT_USER_KEY.
    """
    _forget(rooms)
    _compact(rooms.journal)
    damaged: set[str] = set()
    unknown: set[str] = set()
    for event in rooms.journal.events():
        if event["kind"] in _PLAYERS:
            rooms.players.apply(event)
        elif event["kind"] == "began":
            rooms.seat(event)
            if rooms.study and event["study"] == rooms.study.file.name:
                slot = Slot(event["context"]["id"], event["policy"])
                rooms.study.restore(event["game"], slot, event["draws"])
        elif event["kind"] == "stored":
            rooms.archiver.unstored.pop(event["game"], None)
            rooms.drop(event["game"])
        elif event["kind"] in ("study", "released"):
            _study(rooms, event)
        elif event["game"] in rooms.tables:
            _move(rooms, event, damaged)
        else:
            unknown.add(event["game"])
    for game in unknown:
        log.error("game %s: the journal lacks its beginning; its moves are skipped", game)
    for game in damaged:
        log.error("game %s: the journal lacks one of its moves; the game is stopped", game)
    rooms.damaged = damaged


def _forget(rooms: Rooms) -> None:
    """Leave out what is forgotten; it is not stored either, should the store be unreachable now."""
    try:
        leave_out(rooms.journal, tombstones.read(rooms.workspace.open()))
    except (StoreError, OSError) as error:
        log.warning("what is forgotten stays in the journal until the next start (%s)", type(error).__name__)


def _compact(journal: Journal) -> None:
    """Leave out what was said and done in games that are in the store: all else follows from the other events."""
    if journal.size() < LARGE:
        return
    stored = {event["game"] for event in journal.events() if event["kind"] == "stored"}
    if journal.damaged:  # somebody may want to look at the files
        return
    moves = ("said", "acted")
    events = (event for event in journal.events() if event["kind"] not in moves or event["game"] not in stored)
    try:
        journal.rewrite(events)
    except OSError as error:
        log.warning("the journal cannot be made smaller: %s", error.strerror)


def _study(rooms: Rooms, event: Event) -> None:
    if rooms.study is None or event["study"] != rooms.study.file.name:
        return
    if event["kind"] == "study":
        rooms.study.open = event["open"]
    else:
        rooms.study.released[event["user"]] += 1


def _move(rooms: Rooms, event: Event, damaged: set[str]) -> None:
    table = rooms.tables[event["game"]]
    if table.id in damaged and event["kind"] != "ended":
        return
    try:
        table.apply(event, rooms.clock())
    except (RuleError, ActionError):
        damaged.add(table.id)
        return
    if table.ending is not None:
        damaged.discard(table.id)
        rooms.settle(table)
        rooms.archiver.put(table, rooms.users(table))
