"""Put games that are over into the store, each once: its log line for the next round, and its whole record.

The log line (`interactions/`) has the turns that were acted on, in the schema of the log. The record
(`games/round=R/variant=V/GAME.json`) has everything: an utterance without an action, how the game ended and through
whom, both players' pseudonyms, and who acted in each turn. Objects are named by their game, so that a game which is
stored again, after a server was killed in between, changes nothing.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping

from deployments.failures import place_of
from deployments.game.domain.table import Table
from deployments.game.durability.journal import Journal, NotWrittenError
from respect_core.log import tombstones
from respect_core.log.log import LOGS, append_logs, find_logs
from respect_core.log.records import InteractionLog, LoggedTurn, Outcome, PolicyIdentity
from respect_core.store.base import Store, StoreError
from respect_core.store.manifests import Partition
from respect_core.variants import HH

log = logging.getLogger(__name__)
HUMAN = PolicyIdentity(name="human", version="unknown")


def interaction_log(table: Table, users: Mapping[str, str]) -> InteractionLog | None:
    """Return the log line of a game that is over; None if nothing was acted on.

    A game that the server stopped has no outcome: an outage is neither won nor lost by a policy.

    Args:
        users: pseudonyms by role. The log has one user, the speaker.
    """
    assert table.ending is not None, "the game is not over"
    acted_turns = [turn for turn in table.game.turns if turn.action is not None]
    if not acted_turns:
        return None
    return InteractionLog(
        interaction_id=f"{table.policy}-r{table.round}-{table.id}",
        round=table.round,
        variant=table.policy,
        policy=_policy(table),
        user=users["speaker"],
        consent=table.consent,
        address_prefix=table.address_prefix,
        signed_in=table.signed_in,
        started_at=table.started_at,
        context=list(table.context.images),
        turns=[
            LoggedTurn(
                utterance=turn.utterance,
                action=str(turn.action),
                probability=turn.probability,
                seconds=max(0.0, seconds),
            )
            for turn, seconds in zip(acted_turns, table.seconds, strict=True)
        ],
        outcome=None
        if table.ending.reason == "stopped"
        else Outcome(targets=list(table.context.targets), success=table.ending.reason == "won"),
    )


def record(table: Table, users: Mapping[str, str]) -> bytes:
    """Return everything about a game that is over, as JSON."""
    assert table.ending is not None, "the game is not over"
    identities = [*table.acted_by, *([None] * len(table.game.turns))]
    return json.dumps(
        {
            "game": table.id,
            "study": table.study,
            "consent": table.consent,
            "round": table.round,
            "variant": table.policy,
            "users": dict(users),
            "started_at": table.started_at,
            "context": list(table.context.images),
            "speaker_order": list(table.context.speaker_order),
            "targets": list(table.context.targets),
            "ended": table.ending.reason,
            "by": table.ending.by,
            "turns": [
                {
                    "utterance": turn.utterance,
                    "action": turn.action,
                    "probability": turn.probability,
                    "version": identity[0] if identity else None,
                    "adapter_hash": identity[1] if identity else None,
                }
                for turn, identity in zip(table.game.turns, identities, strict=False)
            ],
        },
        indent=1,
    ).encode()


def store(place: Store, table: Table, users: Mapping[str, str]) -> None:
    """Put a game that is over into the store, unless it is there already or is forgotten. Raises StoreError."""
    partition = Partition(table.round, table.policy)
    name, key = f"game-{table.id}", f"{partition.folder('games')}{table.id}.json"
    if _is_forgotten(place, table, users):
        return
    log = interaction_log(table, users)
    if log is not None and find_logs(place, partition, name) is None:
        append_logs(place, [log], name)
    place.put_if_absent(key, record(table, users))
    if _is_forgotten(place, table, users):  # meanwhile
        for each in (key, f"{partition.folder(LOGS)}{name}.jsonl"):
            place.delete(each)


def _is_forgotten(place: Store, table: Table, users: Mapping[str, str]) -> bool:
    forgotten = tombstones.read(place)
    return any(forgotten.has_user(user, table.started_at) for user in users.values())


def _policy(table: Table) -> PolicyIdentity:
    if table.policy == HH:
        return HUMAN
    return PolicyIdentity.of(*table.acted_by[0])


class Archiver:
    """A queue of games to store, one after the other, with retries while the store is unreachable.

    A game that cannot be stored is set aside until the next start, and holds up no other.

    Args:
        on_failure: called at each failure.
    """

    def __init__(self, place: Store, journal: Journal, on_failure: Callable[[], None]) -> None:
        self._store, self._journal, self._on_failure = place, journal, on_failure
        self._queue: asyncio.Queue[str] = asyncio.Queue()
        self.unstored: dict[str, tuple[Table, Mapping[str, str]]] = {}
        self.set_aside: set[str] = set()

    def put(self, table: Table, users: Mapping[str, str]) -> None:
        """Queue a game that is over."""
        self.unstored[table.id] = table, users
        self._queue.put_nowait(table.id)

    async def run(self) -> None:
        """Store games until it is cancelled."""
        pause = 1.0
        while True:
            game = await self._queue.get()
            if await self._put(game):
                pause = 1.0
            else:
                self._queue.put_nowait(game)  # after the others, as it may be the only one that fails
                await asyncio.sleep(pause)
                pause = min(30.0, 2 * pause)

    async def close(self) -> None:
        """Try once more to store what waits; the journal brings the rest back at the next start."""
        for game in list(self.unstored):
            if not await self._put(game):
                return

    async def _put(self, game: str) -> bool:
        if game not in self.unstored:
            return True
        try:
            await asyncio.to_thread(store, self._store, *self.unstored[game])
            await self._journal.write({"kind": "stored", "game": game})
        except (StoreError, NotWrittenError) as error:
            self._on_failure()
            log.warning("%d games wait to be stored: %s", len(self.unstored), error)
            return False
        except Exception as error:
            self._on_failure()
            self.set_aside.add(game)
            log.error("game %s cannot be stored, and is set aside until the next start: %s", game, place_of(error))
        del self.unstored[game]
        return True
