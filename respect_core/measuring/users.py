"""Measure each user's share of the data. Not in the paper.

The paper attributes a reversal of trends to three workers (section 6): one user with many turns can skew what the next
policy learns (Ethical considerations: data poisoning). The promotion gate caps how much one user may teach a policy
(`respect_core.release.gate`); this describes a round.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class UserShares:
    """The spread of turns over users. Shares are of all turns."""

    users: int
    turns: int
    top: Mapping[int, float]  # k -> share of the k users with most turns
    gini: float  # 0 if all users have equally many, close to 1 if one has them all
    effective: float  # number of users with equal shares that are as concentrated: 1 / sum of squared shares


def user_shares(turns: Mapping[str, int], top: tuple[int, ...] = (1, 3, 5, 10)) -> UserShares:
    """Measure the concentration of turns, or of any other counts, by user; users without any do not count.

    Raises:
        ValueError: no turns.
    """
    ranked = sorted((count for count in turns.values() if count), reverse=True)
    total, users = sum(ranked), len(ranked)
    if not total:
        raise ValueError("no turns of any user to measure")
    # Gini coefficient: mean absolute difference of two users over twice the mean, from ranks 1 (most) to `users`.
    below = sum((users + 1 - 2 * rank) * count for rank, count in enumerate(ranked, start=1))
    return UserShares(
        users=users,
        turns=total,
        top={k: sum(ranked[:k]) / total for k in top},
        gini=below / (users * total),
        effective=total**2 / sum(count**2 for count in ranked),
    )
