"""Assign games to policies on one set of contexts: randomly, concurrently and in balance (section 5).

All policies of a round meet the same contexts, so that no policy gets the easier games. A game counts from its
assignment, unless it is broken off. Within a context, of two policies with equal shares one is at most one game behind,
and one more for each of its games that was broken off and not assigned again yet; it comes first there. Within a study,
counts by context differ in the same way, as far as what players have seen allows. A full study is balanced.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from respect_core.errors import ExpectedError


class StudyFullError(ExpectedError):
    """No game is left for this player: every policy has its games, or the player has seen every context."""


@dataclass(frozen=True)
class Slot:
    """One game to play."""

    context: str
    policy: str


class Assignment:
    """A balanced assignment of games, drawn one arrival after the other.

    The same seed and the same calls in the same order give the same slots.

    Args:
        contexts: ids.
        shares: games of each policy in a context before the next round of that context begins; 1 for equal shares.
        limit: games of a policy of share 1 in a context; None for no limit.

    Raises:
        ValueError: no contexts, no policies, a repeated context, or a share below 1.
    """

    def __init__(
        self, contexts: Sequence[str], shares: Mapping[str, int], seed: int | str, *, limit: int | None = None
    ) -> None:
        if not contexts or len(set(contexts)) != len(contexts):
            raise ValueError("contexts: name at least one, and each once")
        if not shares or min(shares.values()) < 1:
            raise ValueError("policies: name at least one, each with a share of at least 1")
        self._shares, self._seed, self._limit = dict(shares), seed, limit
        self._counts = {context: dict.fromkeys(shares, 0) for context in contexts}
        self._games = dict.fromkeys(contexts, 0)
        self.draws = 0  # so far; set after a restart

    def draw(self, seen: Collection[str] = (), without: Collection[str] = ()) -> Slot:
        """Draw the next arrival's game.

        The context is one with the fewest games among those that the player has not seen, and the policy one with the
        fewest games in it; ties are broken at random.

        Args:
            seen: contexts that the player has played.
            without: policies that are not available at the moment.

        Raises:
            StudyFullError: nothing is left.
        """
        rng = random.Random(f"assignment-{self._seed}-{self.draws}")
        by_games: dict[int, list[str]] = {}  # contexts by how many games they have
        for context, games in self._games.items():
            if context not in seen:
                by_games.setdefault(games, []).append(context)
        slots = (self._draw_among(by_games[games], without, rng) for games in sorted(by_games))
        slot = next(filter(None, slots), None)
        if slot is None:
            raise StudyFullError("no game is left")
        self.draws += 1
        self.take(slot)
        return slot

    def full(self, seen: Collection[str] = ()) -> bool:
        """Return whether nothing is left for somebody who has played these contexts, even if all policies can act."""
        return not any(self._fewest(counts, ()) for context, counts in self._counts.items() if context not in seen)

    def _draw_among(self, contexts: list[str], without: Collection[str], rng: random.Random) -> Slot | None:
        """Draw a slot evenly from those of these contexts with a policy left; None if there is none."""
        rng.shuffle(contexts)
        for context in contexts:
            if policies := self._fewest(self._counts[context], without):
                return Slot(context, rng.choice(policies))
        return None

    def take(self, slot: Slot) -> None:
        """Count a game that was assigned by other means, e.g. before a restart."""
        self._counts[slot.context][slot.policy] += 1
        self._games[slot.context] += 1

    def release(self, slot: Slot) -> None:
        """Give a game that was not played to its end to somebody else."""
        self._counts[slot.context][slot.policy] -= 1
        self._games[slot.context] -= 1

    def counts(self) -> dict[str, dict[str, int]]:
        """Return the number of games by context and policy."""
        return {context: dict(counts) for context, counts in self._counts.items()}

    def quota(self, policy: str) -> int | None:
        """Return how many games a policy gets in the whole study; None for no limit."""
        return None if self._limit is None else self._limit * self._shares[policy] * len(self._counts)

    def _fewest(self, counts: Mapping[str, int], without: Collection[str]) -> list[str]:
        """Return the policies with the fewest games for their share in a context, among those that may get one."""
        done = {policy: counts[policy] / share for policy, share in self._shares.items() if policy not in without}
        if self._limit is not None:
            done = {policy: games for policy, games in done.items() if games < self._limit}
        fewest = min(done.values(), default=0.0)
        return [policy for policy, games in done.items() if games == fewest]
