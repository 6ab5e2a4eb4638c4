"""Measure what the follow-ups of a policy's turns were decoded as: FOR MEASURING ONLY. Not in the paper.

One user's follow-ups depend on each other, so the intervals resample users.

Shapes: T turns, U users.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from respect_core.stats import RESAMPLES, Estimate, bootstrap, by_game, quotients


@dataclass(frozen=True)
class FollowUps:
    """Shares of the labels among the turns that have one. `neutral_follow_ups`: None of a decoder without neutrals."""

    turns: int
    users: int
    negative_follow_ups: Estimate
    neutral_follow_ups: Estimate | None
    positive_follow_ups: Estimate


def follow_ups(
    users: Sequence[str], labels: Sequence[int], *, has_neutral: bool = True, resamples: int = RESAMPLES
) -> FollowUps | None:
    """Measure the shares of labels -1, 0 and +1, from the user and the label of each turn; None without turns."""
    if not labels:
        return None
    label_T = np.array(labels)
    columns = [column for label in (-1, 0, 1) for column in (label_T == label, np.ones(len(labels)))]
    rows_U6 = by_game(users, np.stack(columns, axis=1))
    negative, neutral, positive = bootstrap(rows_U6, quotients, resamples=resamples)
    assert negative is not None and positive is not None  # each user has turns
    return FollowUps(len(labels), len(rows_U6), negative, neutral if has_neutral else None, positive)
