"""Define what learning and acting see of a conversation: its context and turns, never its targets or outcome.

Records come in two types, kept apart on purpose:

- `log.records.InteractionLog` is what a deployment appends to the store, one JSON line per interaction. It may carry an
  `Outcome` (targets, success), which only measuring may read.
- `Interaction` is what learning sees: context, utterances, actions and the probability with which the policy
  acted (section 2: x_t, a_t, p_t and the follow-up). It has no field for a target or an outcome, nor has the `turns`
  table from which it is read. This split keeps the paper's promise that no auxiliary label is used.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

_TURN_COLUMNS = ("state", "utterance", "action", "probability", "logp")
TurnKey = tuple[str, int]
"""The key of a turn: interaction id and number, counted from 0."""


@dataclass(frozen=True)
class Turn:
    """One turn as the policy sees it.

    `state` is what the policy sees before the utterance: in MULTIREF the letters selected, in chat a system prompt.
    `action` is None until the policy has acted. A turn has the probability of its action, its log, or neither.
    """

    state: str
    utterance: str
    action: str | None = None
    probability: float | None = None
    logp: float | None = None  # of free text, in nats

    @property
    def propensity(self) -> float | None:
        """The log-probability with which the deployed policy took the action, in nats."""
        return self.logp if self.probability is None else math.log(self.probability)


@dataclass(frozen=True)
class Interaction:
    """One interaction as a learner may see it: image ids in the listener's order, and turns."""

    interaction_id: str
    context: tuple[str, ...]
    turns: tuple[Turn, ...]


def interactions(rows: Iterable[dict[str, Any]]) -> list[Interaction]:
    """Group rows of a turns table (any order) into interactions, sorted by id and turn.

    Raises:
        ValueError: an interaction whose turns are not numbered 0, 1, 2, ...
    """
    rows_by_id: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        rows_by_id.setdefault(row["interaction_id"], []).append(row)
    result = []
    for interaction_id, turns in sorted(rows_by_id.items()):
        turns.sort(key=lambda row: row["turn"])
        numbers: Sequence[int] = [row["turn"] for row in turns]
        if numbers != list(range(len(turns))):
            raise ValueError(f"interaction {interaction_id}: turns are numbered {numbers}; expected 0, 1, 2, ...")
        result.append(
            Interaction(
                interaction_id,
                tuple(turns[0]["context"]),
                tuple(Turn(*(row[name] for name in _TURN_COLUMNS)) for row in turns),
            )
        )
    return result


def waiting(interaction: Interaction, turn: int) -> Interaction:
    """Return the interaction as it stood when the policy had to act in `turn`."""
    last = interaction.turns[turn]
    return replace(interaction, turns=(*interaction.turns[:turn], Turn(last.state, last.utterance)))
