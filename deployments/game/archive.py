"""Games that are over go into the store, each once: its log line for the next round, and its whole record.

The log line (`interactions/`) has the turns that were acted on, as the schema of the log wants them. The record
(`games/round=R/variant=V/GAME.json`) has everything: an utterance without an action, how the game ended and through
whom, both players' pseudonyms, and who acted in each turn. Objects are named by their game, so that a game which is
stored again, after a server was killed in between, changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from deployments.game.table import Table
from respect_core.interaction import InteractionLog, LoggedTurn, Outcome, PolicyIdentity
from respect_core.interaction_log import append_logs, find_logs
from respect_core.manifests import Partition
from respect_core.store import Store
from respect_core.variants import HH

HUMAN = PolicyIdentity(name="human", version="unknown")


def interaction_log(table: Table, users: Mapping[str, str]) -> InteractionLog | None:
    """The log of a game that is over; None where nothing was acted on.

    Args:
        users: pseudonyms by role. The log has one user, the speaker.
    """
    assert table.ending is not None, "the game is not over"
    played = [turn for turn in table.game.turns if turn.action is not None]
    if not played:
        return None
    return InteractionLog(
        interaction_id=f"{table.policy}-r{table.round}-{table.id}",
        round=table.round,
        variant=table.policy,
        policy=_policy(table),
        user=users["speaker"],
        started_at=table.started_at,
        context=list(table.context.images),
        turns=[
            LoggedTurn(
                utterance=turn.utterance,
                action=str(turn.action),
                probability=turn.probability,
                seconds=max(0.0, seconds),
            )
            for turn, seconds in zip(played, table.seconds, strict=True)
        ],
        outcome=Outcome(targets=list(table.context.targets), success=table.ending.reason == "won"),
    )


def record(table: Table, users: Mapping[str, str]) -> bytes:
    """Everything about a game that is over, as JSON."""
    assert table.ending is not None, "the game is not over"
    identities = [*table.acted_by, *([None] * len(table.game.turns))]
    return json.dumps(
        {
            "game": table.id,
            "study": table.study,
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
    """Put a game that is over into the store, where it is not there yet. Raises StoreError."""
    partition = Partition(table.round, table.policy)
    name = f"game-{table.id}"
    log = interaction_log(table, users)
    if log is not None and find_logs(place, partition, name) is None:
        append_logs(place, [log], name)
    place.put_if_absent(f"{partition.folder('games')}{table.id}.json", record(table, users))


def _policy(table: Table) -> PolicyIdentity:
    if table.policy == HH:
        return HUMAN
    version, adapter_hash = table.acted_by[0]
    name, _, number = version.rpartition("/")
    return PolicyIdentity(name=name, version=number, adapter_hash=adapter_hash)
