"""Rehearse D0, the seed policy's data, with the games that its scenario adds to it (appendix B.2)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from respect_core.scenario import Row, Scenario
from respect_core.schemas import TRAINING_SET_SCHEMA

FROM_TURNS = [name for name in TRAINING_SET_SCHEMA.names if name not in ("label", "source")]
"""Columns that a training set has from the table of turns."""


def rehearsal(
    d0: Iterable[Mapping[str, Any]],
    scenario: Scenario,
    *,
    deselection_ratio: float = 1 / 12,
    right: Collection[tuple[str, int]] | None = None,
    seed: int = 0,
) -> list[Row]:
    """Return the rows of D0 for a training set, followed by the games that the scenario adds.

    Args:
        d0: rows of the `turns` table for D0, games between people.
        deselection_ratio: augmented turns per labelled turn of D0.
        right: (interaction_id, turn) of the turns to learn from; by default all that the scenario lets a policy
            learn from. The others are context.
        seed: of the augmentation.

    Returns:
        Rows with the columns of TRAINING_SET_SCHEMA: label +1 on every turn to learn from, else None.
    """
    rows = []
    for row in sorted(d0, key=lambda row: (row["interaction_id"], row["turn"])):
        learnable = row["action"] not in scenario.context_only and (
            right is None or (row["interaction_id"], row["turn"]) in right
        )
        columns = {name: row[name] for name in FROM_TURNS}
        rows.append(columns | {"label": 1 if learnable else None, "source": "rehearsal"})
    return rows + scenario.augment(rows, deselection_ratio, seed)
