"""Compute interaction metrics and their confidence intervals (appendix B.4, figure 4): FOR MEASURING ONLY.

They read outcomes, which nothing on the learning path may (tests/test_no_auxiliary_labels.py checks that).

Deviations from the paper, numbered as they are cited elsewhere:
1. A figure over several studies is the mean of theirs. Its interval resamples the games within each study: it shows
   how precisely these studies were measured, not how much another training seed would differ.

Shapes: N games, R resamples, columns as in COLUMNS.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from respect_core.log.records import InteractionLog, outcome_row, turn_rows
from respect_core.measuring.judge import judge
from respect_core.stats import RESAMPLES, Estimate, estimates, resampled
from respect_core.store.base import Store
from respect_core.store.tables import read_table

COLUMNS = ("success", "turns", "right_clicks", "clicks")
"""Counts of a game: 1 if it was won, else 0; turns of the listener; accurate clicks; all clicks."""

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Figures:
    """Figures of the paper's tables 2, 3 and 4 for one policy in one round. Rates are between 0 and 1."""

    games: int
    success: Estimate  # successful interactions / all interactions
    turns_per_game: Estimate
    click_accuracy: Estimate | None  # accurate clicks / all clicks of all interactions; None without any


def counts(turns: Iterable[Mapping[str, Any]], outcomes: Iterable[Mapping[str, Any]]) -> Counts:
    """Count COLUMNS of every game that has an outcome [N, 4], in order of interaction id.

    Args:
        turns: rows of the turns table (interaction_id, scenario, context, action).
        outcomes: rows of the outcomes table (interaction_id, targets, success, turns) of the same games.
    """
    finished = {row["interaction_id"]: row for row in outcomes if row["success"] is not None}
    clicks = {interaction_id: np.zeros(2, dtype=np.int64) for interaction_id in finished}
    for turn in turns:
        if (outcome := finished.get(turn["interaction_id"])) is not None:
            credit = judge(turn["scenario"]).credit(turn["action"], turn["context"], outcome["targets"])
            clicks[turn["interaction_id"]] += credit
    rows = [(finished[each]["success"], finished[each]["turns"], *clicks[each]) for each in sorted(finished)]
    return np.array(rows, dtype=np.int64).reshape(-1, len(COLUMNS))


def counts_of_logs(logs: Sequence[InteractionLog]) -> dict[str, list[int]]:
    """Count COLUMNS of every game that has an outcome, by interaction id."""
    columns = counts((row for log in logs for row in turn_rows(log)), map(outcome_row, logs))
    return dict(zip(sorted(log.interaction_id for log in logs if log.outcome), columns.tolist(), strict=True))


def read_counts(store: Store, round: int, variant: str) -> Counts:
    """Count COLUMNS of a partition of the tables. Raises TableError and StoreError as reading tables does."""
    turns = read_table(store, "turns", [round], [variant], ["interaction_id", "scenario", "context", "action"])
    outcomes = read_table(store, "outcomes", [round], [variant], ["interaction_id", "targets", "success", "turns"])
    return counts(turns.to_pylist(), outcomes.to_pylist())


def figures(studies: Sequence[Counts], *, resamples: int = RESAMPLES, seed: int = 0) -> Figures:
    """Compute success rate, turns per game and click accuracy with intervals.

    Args:
        studies: the games of each study [N, 4]; usually there is one. See deviation 1 for several.
        resamples: number of resamples of each study's games, with replacement.
        seed: of the resampling; the same seed gives the same intervals.

    A policy that never clicks in one of the studies has no click accuracy.

    Raises:
        ValueError: no study, or one without games.
    """
    if not studies or any(len(games) == 0 for games in studies):
        raise ValueError("no games to measure")
    # One study's resamples are the same as for its other figures; several studies have independent ones.
    source = seed if len(studies) == 1 else np.random.default_rng(seed)
    values = np.mean([rates(games.sum(0), len(games)) for games in studies], axis=0)
    resampled_values = np.mean([rates(resampled(games, resamples, source), len(games)) for games in studies], axis=0)
    success, turns, clicks = estimates(values, resampled_values)
    assert success is not None and turns is not None  # every study has games
    return Figures(sum(map(len, studies)), success, turns, clicks)


def rates(sums: NDArray[Any], games: int) -> NDArray[Any]:
    """Divide sums of COLUMNS [..., 4] over games into success, turns per game and click accuracy [..., 3]."""
    with np.errstate(invalid="ignore"):  # NaN without a click; such a resample is left out
        return np.stack([sums[..., 0] / games, sums[..., 1] / games, sums[..., 2] / sums[..., 3]], axis=-1)
