"""Derive labels from targets: for METRICS AND VALIDATION ONLY.

Nothing on the learning path imports this module (tests/test_no_auxiliary_labels.py checks that): a policy learns
from what users wrote, not from what they wanted. The scenario's `Judge` decides whether an action is right.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

from respect_core.interaction import TurnKey
from respect_core.log.records import InteractionLog
from respect_core.measuring.judge import judge
from respect_core.store.base import Store
from respect_core.store.tables import iter_batches


def target_labels(
    store: Store, rounds: Iterable[int] | None = None, variants: Iterable[str] | None = None
) -> dict[TurnKey, int]:
    """Label every turn in the tables whose interaction has targets, last turns included.

    Memory grows with the number of turns. Raises TableError and StoreError as reading tables does.
    """
    where = (None if rounds is None else list(rounds)), (None if variants is None else list(variants))
    targets: dict[tuple[int, str, str], list[str]] = {}
    for batch in iter_batches(store, "outcomes", *where, ["round", "variant", "interaction_id", "targets"]):
        for row in batch.to_pylist():
            if row["targets"] is not None:
                targets[row["round"], row["variant"], row["interaction_id"]] = row["targets"]
    labels: dict[TurnKey, int] = {}
    columns = ["round", "variant", "interaction_id", "turn", "scenario", "context", "action"]
    for batch in iter_batches(store, "turns", *where, columns):
        for row in batch.to_pylist():
            game_targets = targets.get((row["round"], row["variant"], row["interaction_id"]))
            if game_targets is not None:
                game = sys.intern(row["interaction_id"])  # one string for all turns of the game
                labels[game, row["turn"]] = judge(row["scenario"]).label(row["action"], row["context"], game_targets)
    return labels


def right_turns(logs: Iterable[InteractionLog]) -> set[TurnKey]:
    """Return the turns whose action was right in every part, which make a validation set (appendix B.2).

    Interactions without targets have none.
    """
    return {
        (log.interaction_id, number)
        for log in logs
        if log.outcome is not None
        for number, turn in enumerate(log.turns)
        if judge(log.scenario).label(turn.action, log.context, log.outcome.targets) == 1
    }
