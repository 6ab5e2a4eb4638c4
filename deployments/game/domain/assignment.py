"""Assign games to policies on one set of contexts: randomly, concurrently and in balance (section 5).

All policies of a round meet the same contexts, so that no policy gets the easier games. Games count from when they are
given out until they break off. Within a context, a policy of equal share is behind another by one game at most, and by
one more for each of its games that broke off and was not given again yet; it comes first there. Within a study, counts
by context differ in the same way, as far as what players have seen allows. A study that is full is even.
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
    """Slots, drawn one arrival after the other.

    The same seed and the same calls in the same order give the same slots.

    Args:
        contexts: ids.
        shares: games of each policy in a context before the next round of that context begins; 1 for equal shares.
        limit: games of a policy of share 1 in a context; None for no end.

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
        """The next arrival's game: a context with the fewest games that the player has not seen, and in it a policy
        with the fewest; ties are broken at random.

        Args:
            seen: contexts that the player has played.
            without: policies that are not available at the moment.

        Raises:
            StudyFullError: nothing is left.
        """
        rng = random.Random(f"assignment-{self._seed}-{self.draws}")
        left: dict[int, list[str]] = {}  # contexts by how many games they have
        for context, games in self._games.items():
            if context not in seen:
                left.setdefault(games, []).append(context)
        slot = next((found for games in sorted(left) if (found := self._among(left[games], without, rng))), None)
        if slot is None:
            raise StudyFullError("no game is left")
        self.draws += 1
        self.take(slot)
        return slot

    def full(self, seen: Collection[str] = ()) -> bool:
        """Whether `draw` has nothing left for somebody who has played these contexts, even if all policies can act."""
        return not any(self._open(counts, ()) for context, counts in self._counts.items() if context not in seen)

    def _among(self, contexts: list[str], without: Collection[str], rng: random.Random) -> Slot | None:
        """A slot in one of these contexts, drawn evenly from those with a policy left; None if there is none."""
        rng.shuffle(contexts)
        for context in contexts:
            if policies := self._open(self._counts[context], without):
                return Slot(context, rng.choice(policies))
        return None

    def take(self, slot: Slot) -> None:
        """Count a game that was given out by other means, e.g. before a restart."""
        self._counts[slot.context][slot.policy] += 1
        self._games[slot.context] += 1

    def release(self, slot: Slot) -> None:
        """Give a game that was not played to its end to somebody else."""
        self._counts[slot.context][slot.policy] -= 1
        self._games[slot.context] -= 1

    def counts(self) -> dict[str, dict[str, int]]:
        """Games by context and policy."""
        return {context: dict(counts) for context, counts in self._counts.items()}

    def wanted(self, policy: str) -> int | None:
        """Games of a policy in the whole study; None for no end."""
        return None if self._limit is None else self._limit * self._shares[policy] * len(self._counts)

    def _open(self, counts: Mapping[str, int], without: Collection[str]) -> list[str]:
        """Policies with the fewest games for their share in a context, among those that may get one."""
        done = {policy: counts[policy] / share for policy, share in self._shares.items() if policy not in without}
        if self._limit is not None:
            done = {policy: games for policy, games in done.items() if games < self._limit}
        fewest = min(done.values(), default=0.0)
        return [policy for policy, games in done.items() if games == fewest]
