"""Measure what the follow-ups of a policy's turns were decoded as: FOR MEASURING ONLY. Not in the paper.

One user's follow-ups depend on each other, so the intervals resample users.

Shapes: T turns, U users.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from statistics import NormalDist

import numpy as np

from respect_core.measuring.decoder_metrics import Labels
from respect_core.stats import RESAMPLES, Estimate, Floats, Games, bootstrap, by_game, difference, quotients

POWER, ERROR = 0.8, 0.05
"""Of the test whose size `Compared.needed` states: of finding a true difference, and of finding one that is not there
(two-sided)."""


@dataclass(frozen=True)
class FollowUps:
    """Shares of the labels among the turns that have one. `neutral_follow_ups`: None of a decoder without neutrals."""

    turns: int
    users: int
    negative_follow_ups: Estimate
    neutral_follow_ups: Estimate | None
    positive_follow_ups: Estimate


def follow_ups(
    users: Games, labels: Labels, *, has_neutral: bool = True, resamples: int = RESAMPLES
) -> FollowUps | None:
    """Measure the shares of labels -1, 0 and +1, from the user and the label of each turn; None without turns."""
    if not len(labels):
        return None
    rows_U6 = _counts(users, labels)
    negative, neutral, positive = bootstrap(rows_U6, quotients, resamples=resamples)
    assert negative is not None and positive is not None  # each user has turns
    return FollowUps(len(labels), len(rows_U6), negative, neutral if has_neutral else None, positive)


@dataclass(frozen=True)
class Said:
    """A follow-up to a reply: its user and label."""

    user: str
    label: int


@dataclass(frozen=True)
class Compared:
    """The follow-ups of two versions whose conversations were assigned at random.

    Differences are second minus first. `conversations` include those without a follow-up. `needed`: conversations of
    each version after which a difference of `effect` in negatives is found with POWER, if they are as those so far;
    None where these do not vary.
    """

    first: FollowUps
    second: FollowUps
    conversations: tuple[int, int]
    negative_difference: Estimate
    positive_difference: Estimate
    effect: float
    needed: int | None


def compare(
    first: Sequence[Said],
    second: Sequence[Said],
    *,
    conversations: tuple[int, int],
    effect: float = 0.05,
    resamples: int = RESAMPLES,
) -> Compared | None:
    """Compare the shares of negative and positive follow-ups; None where one version has none.

    Args:
        conversations: of each version, those without a follow-up included.
    """
    sides = [
        follow_ups([each.user for each in side], [each.label for each in side], resamples=resamples)
        for side in (first, second)
    ]
    if sides[0] is None or sides[1] is None:
        return None
    rows = [_counts([each.user for each in side], [each.label for each in side]) for side in (first, second)]
    negative, _, positive = difference(rows[0], rows[1], quotients, resamples=resamples)
    assert negative is not None and positive is not None  # each user has turns
    needed = _needed(rows, conversations, effect)
    return Compared(sides[0], sides[1], conversations, negative, positive, effect, needed)


def _counts(users: Games, labels: Labels) -> Floats:
    """Return, for each user [U, 6], the turns with each label and all turns, three times."""
    label_T = np.asarray(labels)
    columns = [column for label in (-1, 0, 1) for column in (label_T == label, np.ones(len(labels)))]
    return by_game(users, np.stack(columns, axis=1))


def _needed(rows: Sequence[Floats], conversations: Sequence[int], effect: float) -> int | None:
    """Return the conversations of each version that a decision needs: sample size of a difference of two ratios.

    The variance of a share is that of a ratio estimate over users, which shrinks with the conversations.
    """
    variance = 0.0
    for rows_U6, count in zip(rows, conversations, strict=True):
        negative_U, turns_U = rows_U6[:, 0], rows_U6[:, 1]
        residual_U = negative_U - turns_U * negative_U.sum() / turns_U.sum()
        variance += count * float((residual_U**2).sum()) / float(turns_U.sum()) ** 2
    z = NormalDist().inv_cdf(1 - ERROR / 2) + NormalDist().inv_cdf(POWER)
    return ceil(variance * (z / effect) ** 2) if variance else None
