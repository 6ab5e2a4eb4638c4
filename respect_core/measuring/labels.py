"""Labels derived from targets: for METRICS AND VALIDATION ONLY.

Nothing on the learning path imports this module (tests/test_no_auxiliary_labels.py holds that): a policy learns
from what users wrote, not from what they wanted.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable

from respect_core.interaction import TurnKey
from respect_core.log.records import InteractionLog
from respect_core.scenarios.multiref import actions
from respect_core.scenarios.multiref.actions import Action
from respect_core.store.base import Store
from respect_core.store.tables import iter_batches


def target_label(action: Action, targets: Collection[str]) -> int:
    """How an action fits the target letters: +1 right, 0 one of its two parts right and the other not, -1 wrong.

    Selecting is right when all that is selected are targets, deselecting when none is. An action that does
    nothing is wrong: every utterance asks for something.
    """
    parts = []
    if action.select:
        parts.append(set(action.select) <= set(targets))
    if action.deselect:
        parts.append(set(action.deselect).isdisjoint(targets))
    if not any(parts):
        return -1
    return 1 if all(parts) else 0


def target_labels(
    store: Store, rounds: Iterable[int] | None = None, variants: Iterable[str] | None = None
) -> dict[TurnKey, int]:
    """`target_label` of every turn in the tables whose interaction has targets, last turns included.

    Memory grows with the number of turns asked for. Raises TableError and StoreError as reading tables does.
    """
    wanted = (None if rounds is None else list(rounds)), (None if variants is None else list(variants))
    targets: dict[tuple[int, str, str], list[str]] = {}
    for batch in iter_batches(store, "outcomes", *wanted, ["round", "variant", "interaction_id", "targets"]):
        for row in batch.to_pylist():
            if row["targets"] is not None:
                targets[row["round"], row["variant"], row["interaction_id"]] = row["targets"]
    labels: dict[TurnKey, int] = {}
    columns = ["round", "variant", "interaction_id", "turn", "context", "action"]
    for batch in iter_batches(store, "turns", *wanted, columns):
        for row in batch.to_pylist():
            images = targets.get((row["round"], row["variant"], row["interaction_id"]))
            if images is not None:
                letters = _letters(row["context"], images)
                game = sys.intern(row["interaction_id"])  # one string for all turns of the game
                labels[game, row["turn"]] = target_label(actions.parse(row["action"]), letters)
    return labels


def right_turns(logs: Iterable[InteractionLog]) -> set[TurnKey]:
    """Turns whose click was right in every part: what a validation set is made of (appendix B.2).

    Interactions without targets have none.
    """
    return {
        (log.interaction_id, number)
        for log in logs
        if log.outcome is not None
        for number, turn in enumerate(log.turns)
        if target_label(actions.parse(turn.action), _letters(log.context, log.outcome.targets)) == 1
    }


def _letters(context: Iterable[str], images: Collection[str]) -> set[str]:
    return {letter for letter, image in zip(actions.LETTERS, context, strict=False) if image in images}
